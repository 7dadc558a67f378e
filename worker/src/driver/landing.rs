//! Batches on their way back from the device (between steps ⑥ and ⑦).
//!
//! ```text
//! driver ──UnderWay──▶ landing: waits, in order ──Computed──▶ reply task
//!   ▲                     │
//!   └──────Landed─────────┘
//! ```
//! Where the device works by itself somebody must wait for it, and that is a thread of its own, so that the driver goes on
//! accepting, expiring and forming batches meanwhile. Answers leave from here and do not wait for the driver. Where the
//! driver computes itself there is nothing to wait for, and a hand-over would cost more than it brings: then a batch lands
//! on the driver's thread.
//!
//! Invariants: every [`UnderWay`] that goes in comes out as one [`Landed`], in order; its jobs are either with the reply
//! task by then, or in it. After a lost device nothing is waited for any more: the device may never answer.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::DeviceGone;
use super::load::{Load, guarded};
use crate::models::{EngineError, Flight};
use crate::reply::{Computed, ReplySender};
use crate::spans::{self, Pass};
use crate::telemetry::ModelCounters;

/// What is under way then is out of reach: only a new process gets out of that.
pub(super) const NOBODY_WAITS: &str = "the thread that waits for it has ended";

/// A batch that the device has.
pub(super) struct UnderWay {
    pub(super) load: Load,
    pub(super) flight: Flight,
    pub(super) submitted: Instant,
}

/// A batch that the device has no more.
pub(super) struct Landed {
    pub(super) at: Instant,
    /// What has no answer yet, and why.
    pub(super) failed: Option<(Load, EngineError)>,
}

/// Where batches land.
pub(super) enum Landings {
    Here(Lander),
    Elsewhere { under_way: Sender<UnderWay>, landed: Receiver<Landed> },
}

impl Landings {
    /// On a thread of its own if `depth`, the number of batches that may be under way, is above one.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(lander: Lander, depth: usize) -> std::io::Result<Self> {
        if depth <= 1 {
            return Ok(Self::Here(lander));
        }
        let (under_way, arriving) = crossbeam_channel::bounded(depth);
        let (leaving, landed) = crossbeam_channel::bounded(depth);
        std::thread::Builder::new().name("landing".to_owned()).spawn(move || lander.run(arriving, leaving))?;
        Ok(Self::Elsewhere { under_way, landed })
    }

    /// Takes a batch that was submitted; returns it if it lands at once.
    pub(super) fn take(&mut self, batch: UnderWay) -> Option<Landed> {
        match self {
            Self::Here(lander) => Some(lander.land(batch)),
            Self::Elsewhere { under_way, .. } => under_way.send(batch).err().map(|unsent| gone(unsent.0.load)),
        }
    }

    /// The next batch that has landed.
    ///
    /// # Errors
    /// The thread that waits for the device has ended.
    pub(super) fn next(&self) -> Result<Option<Landed>, DeviceGone> {
        let Self::Elsewhere { landed, .. } = self else { return Ok(None) };
        match landed.try_recv() {
            Ok(landed) => Ok(Some(landed)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(DeviceGone(NOBODY_WAITS.to_owned())),
        }
    }
}

fn gone(load: Load) -> Landed {
    Landed { at: Instant::now(), failed: Some((load, EngineError::DeviceLost(NOBODY_WAITS.to_owned()))) }
}

/// Waits for batches and passes on their results.
pub(super) struct Lander {
    pub(super) replies: ReplySender,
    pub(super) counters: Arc<ModelCounters>,
    pub(super) last_landing: Option<Instant>,
}

impl Lander {
    fn run(mut self, arriving: Receiver<UnderWay>, leaving: Sender<Landed>) {
        let mut lost = None;
        for batch in arriving {
            let landed = match &lost {
                None => self.land(batch),
                Some(error) => {
                    self.counters.in_flight.dec();
                    Landed { at: Instant::now(), failed: Some((batch.load, EngineError::clone(error))) }
                }
            };
            if let Some((_, error @ EngineError::DeviceLost(_))) = &landed.failed {
                lost = Some(error.clone());
            }
            // A driver that is gone means that the process ends.
            let _gone = leaving.send(landed);
        }
    }

    /// Waits for one batch. The device is serial: its time with this one began when it had done with the one before.
    fn land(&mut self, batch: UnderWay) -> Landed {
        let UnderWay { mut load, flight, submitted } = batch;
        let result = guarded(&self.counters, || flight.wait());
        let at = Instant::now();
        let begun = forebay_sched::began(submitted, self.last_landing);
        self.last_landing = Some(at);
        let pass = Pass { begun, took: at.saturating_duration_since(begun), reason: load.reason };
        self.counters.in_flight.dec();
        self.counters.steps.inc();
        match result {
            Ok(embeddings) => {
                let seconds = pass.took.as_secs_f64();
                self.counters.inference.observe(seconds);
                self.counters.computed(load.tokens, seconds);
                self.counters.rows.inc_by(load.jobs.len() as u64);
                self.replies.computed(Computed { jobs: load.jobs, embeddings, pass });
                Landed { at, failed: None }
            }
            Err(error) => {
                spans::pass(self.counters.model(), &mut load.jobs, pass, true);
                Landed { at, failed: Some((load, error)) }
            }
        }
    }
}
