//! An encoder out of a forward pass over packed rows: everything that architectures share.
//!
//! On a CPU it splits a batch over the threads, keeps each thread's activations, and puts answers back in the order of the batch.
//! On a GPU a batch stays whole: it is queued on the device's stream, and waited for by whoever wants the answers.

use std::sync::Arc;

use candle_core::{Device as CandleDevice, Result, Tensor};
use parking_lot::Mutex;

use super::{Embeddings, Encoder, EngineError, Flight, Pooling, TokenBatch};
use crate::device::budget::Measured;
use crate::device::cuda::staging::{self, Staging};
use crate::device::{Counters, Cuda, Device, Exec, Op, engine_error};
use crate::layers::pooling::pool;
use crate::layers::{Buffer, PackedRows};

/// One architecture's forward pass.
pub trait Forward: Send + Sync {
    /// Activations of one thread.
    type Workspace: Send;

    /// Empty activations.
    ///
    /// # Errors
    /// If candle cannot allocate.
    fn workspace(&self) -> Result<Self::Workspace>;

    /// Token vectors after the last layer: `[tokens, dimensions]`, `f32`. They live in `workspace` until the next call.
    ///
    /// # Errors
    /// What candle reports.
    fn forward(&self, exec: &Exec<'_>, rows: &PackedRows, workspace: &mut Self::Workspace) -> Result<Tensor>;

    /// Length of a token vector.
    fn dimensions(&self) -> usize;
}

/// Longest inputs by which memory per token is measured, beside a first one.
const PROBED_ROWS: usize = 4;
/// Rows and tokens of a batch that is many short texts.
const MANY_ROWS: usize = 1024;
const SHORT_TOKENS: usize = 8;

/// What an encoder accepts and how it answers.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub vocab_size: usize,
    pub max_positions: usize,
    pub pooling: Pooling,
}

/// Encodes batches with one architecture on one device.
pub struct RaggedEncoder<F: Forward> {
    model: F,
    head: Head,
    device: Device,
    counters: Arc<Counters>,
    /// By part of the device; uncontended, because a part runs one call at a time. A GPU has one part.
    slots: Vec<Mutex<Slot<F::Workspace>>>,
    /// Of a GPU.
    staging: Option<Staging>,
}

struct Slot<W> {
    workspace: W,
    pooled: Buffer,
}

impl<F: Forward> RaggedEncoder<F> {
    /// # Errors
    /// If candle cannot allocate.
    pub fn new(model: F, head: Head, device: Device) -> Result<Self> {
        let slot = || -> Result<_> {
            let pooled = Buffer::new(model.dimensions(), &device)?;
            Ok(Mutex::new(Slot { workspace: model.workspace()?, pooled }))
        };
        let (parts, staging) = match &device {
            Device::Cpu(cpu) => (cpu.threads(), None),
            Device::Cuda(cuda) => (1, Some(Staging::new(cuda, model.dimensions())?)),
        };
        let slots = (0..parts).map(|_| slot()).collect::<Result<_>>()?;
        Ok(Self { model, head, device, counters: Arc::default(), slots, staging })
    }

    /// Queues a batch on a GPU.
    fn send(&self, cuda: &Cuda, batch: &TokenBatch) -> std::result::Result<staging::Landing, EngineError> {
        batch.validate(self.head.vocab_size, self.head.max_positions)?;
        let Some(staging) = &self.staging else {
            return Err(EngineError::Compute("this model has no way to its GPU".to_owned()));
        };
        let exec = cuda.exec(&self.counters);
        staging.send(batch, |rows, pooled| {
            let mut slot = self.slots[0].lock();
            let hidden = self.model.forward(&exec, rows, &mut slot.workspace)?;
            exec.time(Op::Pooling, || pool(&exec, &hidden, rows, self.head.pooling, pooled))
        })
    }

    /// Runs as many batches of `rows` rows of `length` tokens as may be under way, at the same time.
    fn overlap(&mut self, rows: usize, length: usize) -> std::result::Result<(), EngineError> {
        let ids = vec![0; length];
        let batch = TokenBatch::from_rows((0..rows).map(|_| &ids));
        let flights = (0..self.depth()).map(|_| self.submit(&batch)).collect::<std::result::Result<Vec<_>, _>>()?;
        flights.into_iter().try_for_each(|flight| flight.wait().map(drop))
    }

    /// Runs `rows` rows of `length` tokens, blocking.
    fn probe(&mut self, rows: usize, length: usize) -> std::result::Result<(), EngineError> {
        let ids = vec![0; length];
        self.encode(&TokenBatch::from_rows((0..rows).map(|_| &ids))).map(drop)
    }

    /// Computes some rows of a batch and writes them where they belong.
    fn rows(
        &self,
        exec: &Exec<'_>,
        part: usize,
        batch: &TokenBatch,
        rows: &[usize],
        out: &Mutex<Embeddings>,
    ) -> Result<()> {
        let mut slot = self.slots[part].lock();
        let Slot { workspace, pooled } = &mut *slot;
        let packed = PackedRows::gather(batch, rows, &CandleDevice::Cpu)?;
        let hidden = self.model.forward(exec, &packed, workspace)?;
        let pooled = pooled.rows(rows.len())?;
        exec.time(Op::Pooling, || {
            pool(exec, &hidden, &packed, self.head.pooling, &pooled)?;
            let vectors = pooled.flatten_all()?.to_vec1::<f32>()?;
            let mut out = out.lock();
            for (row, vector) in rows.iter().zip(vectors.chunks_exact(self.model.dimensions())) {
                out.row_mut(*row).copy_from_slice(vector);
            }
            Ok(())
        })
    }
}

impl<F: Forward> Encoder for RaggedEncoder<F> {
    fn encode(&mut self, batch: &TokenBatch) -> std::result::Result<Embeddings, EngineError> {
        let cpu = match &self.device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(_) => return self.submit(batch)?.wait(),
        };
        batch.validate(self.head.vocab_size, self.head.max_positions)?;
        let lengths: Vec<usize> = batch.iter().map(<[u32]>::len).collect();
        let out = Mutex::new(Embeddings::zeros(batch.rows(), self.model.dimensions()));
        let failure = Mutex::new(None);
        cpu.for_rows(&lengths, &self.counters, &|exec, part, rows| {
            if let Err(error) = self.rows(exec, part, batch, rows, &out) {
                *failure.lock() = Some(error);
            }
        });
        match failure.into_inner() {
            Some(error) => Err(engine_error(error, batch.tokens())),
            None => Ok(out.into_inner()),
        }
    }

    fn submit(&mut self, batch: &TokenBatch) -> std::result::Result<Flight, EngineError> {
        match &self.device {
            Device::Cpu(_) => self.encode(batch).map(Flight::Landed),
            // Nothing to queue, and no grid of nothing.
            Device::Cuda(_) if batch.is_empty() => Ok(Flight::Landed(Embeddings::zeros(0, self.model.dimensions()))),
            Device::Cuda(cuda) => Ok(Flight::Pending(Box::new(self.send(cuda, batch)?))),
        }
    }

    fn depth(&self) -> usize {
        if self.staging.is_some() { staging::DEPTH } else { 1 }
    }

    fn fit(&mut self, wanted: usize, longest: usize) -> std::result::Result<usize, EngineError> {
        let Device::Cuda(cuda) = self.device.clone() else { return Ok(wanted) };
        let on_device = |error| engine_error(error, 0);
        // The buffers of one longest input belong to what is there anyway: what more of them take is measured.
        self.probe(1, longest)?;
        let weights_bytes = cuda.memory().map_err(on_device)?.used_bytes;
        cuda.forget_peak().map_err(on_device)?;
        match self.probe(1 + PROBED_ROWS, longest) {
            Err(EngineError::OutOfMemory { .. }) => return Ok(longest.min(wanted)),
            probed => probed?,
        }
        let memory = cuda.memory().map_err(on_device)?;
        let (peak_bytes, capacity_bytes) = (memory.peak_bytes, memory.capacity_bytes);
        let measured = Measured { capacity_bytes, weights_bytes, peak_bytes, tokens: PROBED_ROWS * longest };
        let mut fitting = measured.fitting_tokens(wanted, 0).map_or(longest, |more| more + longest).min(wanted);
        // What was calculated is also tried, with all berths in use and with many rows: later batches allocate nothing.
        loop {
            let long = self.overlap(fitting.div_ceil(longest), longest);
            match long
                .and_then(|()| self.overlap((fitting / SHORT_TOKENS).clamp(1, MANY_ROWS), SHORT_TOKENS.min(longest)))
            {
                Ok(()) => return Ok(fitting),
                Err(EngineError::OutOfMemory { .. }) if fitting / 2 >= longest => {
                    fitting /= 2;
                    cuda.trim().map_err(on_device)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn runs_inline(&self) -> bool {
        false
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }
}
