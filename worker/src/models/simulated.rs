//! The device behind the built-in model `simulated`: it takes its time, and fails as devices do, where it is asked to.
//!
//! With a depth above one it is a thread that works batches off one after the other while the host goes on, as a GPU does;
//! else batches are computed on the caller's thread, as on a CPU. What it answers is [`super::builtin`]'s.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::batch::{Embeddings, TokenBatch};
use super::builtin::answer;
use super::{Encoder, EngineError, Flight, Pending};

/// A batch takes the host `submit`, then the device `base` + `per_token` × its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedConfig {
    pub base: Duration,
    pub per_token: Duration,
    /// Time in which the caller's thread is busy with handing a batch over.
    pub submit: Duration,
    /// Batches that may be under way.
    pub depth: usize,
    /// Most tokens of a batch for which memory suffices.
    pub memory_tokens: Option<usize>,
    /// A batch with this id loses the device, for good. Like `dies_of`: for tests of what survives that, never set unless
    /// asked for by name, and known to no model with weights.
    pub lost_by: Option<u32>,
    /// A batch with this id ends the process as a fault in a kernel would.
    pub dies_of: Option<u32>,
}

impl Default for SimulatedConfig {
    /// About what a small encoder takes on two CPU cores.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(1),
            per_token: Duration::from_micros(60),
            submit: Duration::ZERO,
            depth: 1,
            memory_tokens: None,
            lost_by: None,
            dies_of: None,
        }
    }
}

pub(super) struct Simulated {
    config: SimulatedConfig,
    place: Place,
}

enum Place {
    Here(Device),
    /// Batches with where their results go. Without the thread there is no device.
    Thread(Sender<(TokenBatch, Sender<Outcome>)>),
}

type Outcome = Result<Embeddings, EngineError>;

/// What computes.
struct Device {
    config: SimulatedConfig,
    lost: bool,
}

impl Simulated {
    pub(super) fn new(config: SimulatedConfig) -> Self {
        let device = Device { config, lost: false };
        if config.depth <= 1 {
            return Self { config, place: Place::Here(device) };
        }
        let (queue, batches) = crossbeam_channel::bounded(config.depth);
        // Without a thread the queue has no other end, which is a lost device.
        let _none = std::thread::Builder::new().name("simulated".to_owned()).spawn(move || device.run(batches));
        Self { config, place: Place::Thread(queue) }
    }
}

impl Encoder for Simulated {
    fn encode(&mut self, batch: &TokenBatch) -> Outcome {
        self.submit(batch)?.wait()
    }

    fn submit(&mut self, batch: &TokenBatch) -> Result<Flight, EngineError> {
        if !self.config.submit.is_zero() {
            std::thread::sleep(self.config.submit);
        }
        match &mut self.place {
            Place::Here(device) => device.compute(batch).map(Flight::Landed),
            Place::Thread(queue) => {
                let (result, landing) = crossbeam_channel::bounded(1);
                queue.send((batch.clone(), result)).map_err(|_| lost())?;
                Ok(Flight::Pending(Box::new(UnderWay(landing))))
            }
        }
    }

    fn depth(&self) -> usize {
        self.config.depth
    }

    fn runs_inline(&self) -> bool {
        false
    }
}

impl Device {
    fn run(mut self, batches: Receiver<(TokenBatch, Sender<Outcome>)>) {
        for (batch, result) in batches {
            // Nobody may wait for it any more.
            let _given_up = result.send(self.compute(&batch));
        }
    }

    fn compute(&mut self, batch: &TokenBatch) -> Outcome {
        let Self { config, .. } = *self;
        let tokens = batch.tokens();
        if self.lost {
            return Err(lost());
        }
        if config.memory_tokens.is_some_and(|most| tokens > most) {
            return Err(EngineError::OutOfMemory { tokens });
        }
        std::thread::sleep(config.base + config.per_token * tokens as u32);
        let has = |id: Option<u32>| id.is_some_and(|id| batch.iter().any(|row| row.contains(&id)));
        if has(config.dies_of) {
            // No destructor, no goodbye, nothing that could be caught.
            std::process::abort();
        }
        if has(config.lost_by) {
            self.lost = true;
            return Err(lost());
        }
        Ok(answer(batch))
    }
}

fn lost() -> EngineError {
    EngineError::DeviceLost("as the simulation was told".to_owned())
}

struct UnderWay(Receiver<Outcome>);

impl Pending for UnderWay {
    fn wait(self: Box<Self>) -> Outcome {
        self.0.recv().unwrap_or_else(|_| Err(lost()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn simulated(config: SimulatedConfig) -> Simulated {
        Simulated::new(SimulatedConfig { base: 20 * MS, per_token: Duration::ZERO, ..config })
    }

    #[test]
    fn a_batch_takes_its_time() {
        let mut model = Simulated::new(SimulatedConfig { base: 2 * MS, per_token: MS, ..SimulatedConfig::default() });
        let start = Instant::now();
        model.encode(&TokenBatch::from_rows([[1, 2, 3]])).unwrap();
        assert!(start.elapsed() >= 5 * MS);
    }

    #[test]
    fn a_device_of_its_own_works_while_the_host_goes_on_and_in_order() {
        let mut model = simulated(SimulatedConfig { depth: 2, ..SimulatedConfig::default() });
        let start = Instant::now();
        let batches = [[1_u32, 2], [3, 4]].map(|row| TokenBatch::from_rows([row]));
        let flights = batches.each_ref().map(|batch| model.submit(batch).unwrap());
        assert!(start.elapsed() < 20 * MS, "the host waited");
        for (batch, (flight, least)) in batches.iter().zip(flights.into_iter().zip([20 * MS, 40 * MS])) {
            assert_eq!(flight.wait().unwrap(), answer(batch));
            assert!(start.elapsed() >= least, "a serial device");
        }
    }

    #[test]
    fn memory_does_not_suffice_for_more_and_a_lost_device_stays_lost() {
        for depth in [1, 2] {
            let config =
                SimulatedConfig { depth, memory_tokens: Some(2), lost_by: Some(7), ..SimulatedConfig::default() };
            let mut model = simulated(config);
            let mut encode = |row: &[u32]| model.encode(&TokenBatch::from_rows([row]));
            assert_eq!(encode(&[1, 2, 3]), Err(EngineError::OutOfMemory { tokens: 3 }));
            assert!(encode(&[1, 2]).is_ok());
            assert_eq!(encode(&[7]), Err(lost()));
            assert_eq!(encode(&[1]), Err(lost()));
        }
    }
}
