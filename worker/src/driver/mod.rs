//! The loop around batcher and engine (steps ⑤ and ⑥): the one OS thread that owns the device, and the one that reads
//! the clock for the policies in [`forebay_sched`].
//!
//! ```text
//! arrivals ──▶ batcher ──choose──▶ submit ──▶ device ──▶ landing ──▶ reply task
//!                  ▲ retries ◀──────failed────────────────┘
//! ```
//! While the engine computes, the next batch forms; when it is free, whatever waits goes. Where the device works by
//! itself, up to [`Encoder::depth`] batches are under way, and the next is submitted shortly before the device would be
//! idle ([`forebay_sched::Pipeline`]). A batch that fails is run again in parts ([`forebay_sched::Retries`]), so that only
//! the rows that fail alone are answered with an error. Results leave as they are: turning them into answers is the reply
//! task's work, so that the device is not kept waiting.
//!
//! **A lost device** ends the loop. Nothing that was under way is answered as failed: it goes back to the queue with all
//! else, and runs elsewhere. What the driver holds stays in [`Lost`] until the work has been given back, because dropping a
//! suspect means that it ended ([`crate::quarantine`]): whatever was in the engine then counts as a start without an end,
//! as if the process had crashed. A job that loses its device every time is therefore put aside after as many workers as
//! one that ends its process.

mod landing;
mod load;
mod step;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use forebay_sched::{Batch, BatchLimits, Batcher, Ceiling, Pipeline, QueuedJob, Rejected, Retries};
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::metrics::SavedReason;

use crate::cancelled::Cancellations;
use crate::delivery::Deliveries;
use crate::gauge::{Pulse, Waiting};
use crate::models::{Encoder, TokenBatch};
use crate::prepare::{Prepared, Work};
use crate::reply::{Failed, ReplySender};
use crate::telemetry::ModelCounters;
use landing::{Landed, Lander, Landings};
use load::Load;

/// How often the last jobs are looked at while a worker drains.
const LAST_JOBS_PAUSE: Duration = Duration::from_millis(1);
/// Without anything to do by time, the loop looks around so rarely.
const NOTHING_DUE: Duration = Duration::from_secs(3600);
/// So long before the device is expected to be idle it gets its next batch, beside the time that handing over takes: what
/// a thread needs to wake up, and some error of the estimate.
const MARGIN: Duration = Duration::from_micros(300);

/// What the thread owns or shares.
pub(crate) struct Parts {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) limits: BatchLimits,
    /// Most tokens of one input.
    pub(crate) longest_tokens: usize,
    pub(crate) arrivals: Receiver<Prepared>,
    pub(crate) replies: ReplySender,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) clock: BrokerClock,
    pub(crate) counters: Arc<ModelCounters>,
}

/// The loop and what it remembers.
pub(crate) struct Driver {
    parts: Parts,
    batcher: Batcher<Work>,
    pipeline: Pipeline,
    retries: Retries<Work>,
    ceiling: Ceiling,
    landings: Landings,
    /// A suspect that waits for the device to have nothing else.
    held: Option<Batch<Work>>,
    /// What was in a device that is gone.
    lost: Vec<Load>,
    /// Ids of the batch being submitted; kept for its memory.
    tokens: TokenBatch,
    /// Cancellations that were looked at.
    heard: u64,
    /// Nothing will arrive any more.
    closed: bool,
}

/// The device is gone, and why.
struct DeviceGone(String);

/// How a driver ends whose device is gone. Keep it until everything was given back.
pub(crate) struct Lost {
    pub(crate) reason: String,
    _holds: Box<Driver>,
}

/// What woke the loop.
enum Event {
    Arrived(Prepared),
    Landed(Landed),
    Nothing,
}

impl Driver {
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn new(parts: Parts) -> std::io::Result<Self> {
        let depth = parts.encoder.depth();
        let (replies, counters) = (parts.replies.clone(), Arc::clone(&parts.counters));
        Ok(Self {
            batcher: Batcher::new(parts.limits.clone()),
            pipeline: Pipeline::new(depth, MARGIN),
            retries: Retries::default(),
            ceiling: Ceiling::new(parts.limits.max_tokens, parts.longest_tokens),
            landings: Landings::start(Lander { replies, counters, last_landing: None }, depth)?,
            held: None,
            lost: Vec::new(),
            tokens: TokenBatch::new(),
            heard: 0,
            closed: false,
            parts,
        })
    }

    /// Runs until every sender of arrivals is gone and what they sent is done.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn run(mut self) -> Result<(), Lost> {
        match self.work() {
            Ok(()) => Ok(()),
            Err(DeviceGone(reason)) => Err(Lost { reason, _holds: Box::new(self) }),
        }
    }

    fn work(&mut self) -> Result<(), DeviceGone> {
        loop {
            while let Ok(prepared) = self.parts.arrivals.try_recv() {
                self.accept(prepared);
            }
            while let Some(landed) = self.landings.next()? {
                self.landed(landed)?;
            }
            let now = Instant::now();
            self.drop_what_is_over(now);
            self.drop_what_is_cancelled();
            if let Some(load) = self.choose(now) {
                self.submit(load)?;
                continue;
            }
            if self.closed && self.is_done() {
                return Ok(());
            }
            match self.wait(now)? {
                Event::Arrived(prepared) => self.accept(prepared),
                Event::Landed(landed) => self.landed(landed)?,
                Event::Nothing => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.batcher.is_empty() && self.pipeline.is_idle() && self.held.is_none() && self.retries.is_empty()
    }

    /// Waits for an arrival, a landing, or the time of something.
    fn wait(&mut self, now: Instant) -> Result<Event, DeviceGone> {
        let arrivals = &self.parts.arrivals;
        // The last jobs wait for their time; there is no channel to wait on any more.
        let last = self.closed.then(|| now + LAST_JOBS_PAUSE);
        let until = self.next_change(now).into_iter().chain(last).min();
        let arrival = match &self.landings {
            Landings::Here(_) => match until {
                Some(until) => arrivals.recv_deadline(until),
                None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            },
            Landings::Elsewhere { landed, .. } => {
                let timeout = until.map_or(NOTHING_DUE, |until| until.saturating_duration_since(now));
                crossbeam_channel::select! {
                    recv(arrivals) -> prepared => prepared.map_err(|_| RecvTimeoutError::Disconnected),
                    recv(landed) -> landed => {
                        return landed.map(Event::Landed).map_err(|_| DeviceGone(landing::NOBODY_WAITS.to_owned()));
                    }
                    default(timeout) => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        Ok(match arrival {
            Ok(prepared) => Event::Arrived(prepared),
            Err(RecvTimeoutError::Timeout) => Event::Nothing,
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                self.parts.arrivals = crossbeam_channel::never();
                Event::Nothing
            }
        })
    }

    fn accept(&mut self, prepared: Prepared) {
        for job in prepared {
            if let Err(Rejected::TooLarge { job, max_tokens }) = self.batcher.push(job) {
                let error = JobError::InputTooLong { got: job.tokens as u32, max: max_tokens as u32 };
                self.give_up([job], &error);
            }
        }
    }

    /// Expired jobs are answered as such; jobs whose lease is over belong to another worker by now.
    fn drop_what_is_over(&mut self, now: Instant) {
        let expired = self.batcher.take_expired(now);
        if !expired.is_empty() {
            self.parts.counters.expired.inc_by(expired.len() as u64);
            self.parts.counters.saved(SavedReason::Expired, expired.iter().map(|job| job.tokens).sum());
            self.give_up(expired, &JobError::DeadlineExceeded);
        }
    }

    /// Jobs that nobody waits for any more are answered as such, which frees their message. What arrives later was looked
    /// at by the tokenisers.
    fn drop_what_is_cancelled(&mut self) {
        let newest = self.parts.cancellations.heard();
        if std::mem::replace(&mut self.heard, newest) == newest {
            return;
        }
        let cancellations = &self.parts.cancellations;
        let cancelled = self.batcher.remove_where(|work| cancellations.is_cancelled(&work.delivery, work.id));
        if !cancelled.is_empty() {
            self.parts.counters.cancelled.inc_by(cancelled.len() as u64);
            self.parts.counters.saved(SavedReason::Cancelled, cancelled.iter().map(|job| job.tokens).sum());
            self.give_up(cancelled, &JobError::Cancelled);
        }
    }

    fn give_up(&self, jobs: impl IntoIterator<Item = QueuedJob<Work>>, error: &JobError) {
        for QueuedJob { payload: work, .. } in jobs {
            self.parts.waiting.remove(work.delivery.lane, 1, work.estimated_tokens);
            let failed = Failed { id: work.id, error: error.clone(), span: work.span };
            self.parts.replies.failed(work.delivery, vec![failed]);
        }
        self.parts.waiting.announce_room();
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
