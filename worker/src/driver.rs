//! The loop around batcher and engine (steps ⑤ and ⑥): the one OS thread that owns the device, and the one that reads
//! the clock for the batcher.
//!
//! While the engine computes, the next batch forms in the channel; when it is free, whatever waits goes. A batch that
//! fails is run again row by row, so that only the rows that fail alone are answered with an error. Results leave as
//! they are: turning them into answers is the reply task's work, so that the device is not kept waiting.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use forebay_sched::{Batch, BatchLimits, Batcher, QueuedJob, Rejected};
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::ids::Lane;
use forebay_shared::metrics::{CloseReason, EngineFault, SavedReason};

use crate::cancelled::Cancellations;
use crate::delivery::Deliveries;
use crate::gauge::{Pulse, Waiting};
use crate::models::{Embeddings, Encoder, EngineError, TokenBatch};
use crate::prepare::{Prepared, Work};
use crate::quarantine::Ticket;
use crate::reply::{Computed, Failed, ReplySender};
use crate::spans::{self, Pass};
use crate::telemetry::ModelCounters;

/// How often the last jobs are looked at while a worker drains.
const LAST_JOBS_PAUSE: Duration = Duration::from_millis(1);

/// Everything the thread owns or shares.
pub(crate) struct Driver {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) batcher: Batcher<Work>,
    pub(crate) limits: BatchLimits,
    pub(crate) arrivals: Receiver<Prepared>,
    pub(crate) replies: ReplySender,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) clock: BrokerClock,
    pub(crate) counters: Arc<ModelCounters>,
}

impl Driver {
    /// Runs until every sender of arrivals is gone and what they sent is done.
    pub(crate) fn run(mut self) {
        let mut tokens = TokenBatch::new();
        let mut heard = 0;
        loop {
            while let Ok(prepared) = self.arrivals.try_recv() {
                self.accept(prepared);
            }
            let now = Instant::now();
            self.drop_what_is_over(now);
            self.drop_what_is_cancelled(&mut heard);
            if let Some(batch) = self.batcher.poll(now) {
                self.run_batch(batch, &mut tokens, now);
                continue;
            }
            let arrival = match self.batcher.next_deadline() {
                Some(until) => self.arrivals.recv_deadline(until),
                None => self.arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match arrival {
                Ok(prepared) => self.accept(prepared),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.batcher.is_empty() => return,
                // The last jobs wait for their time; there is no channel to wait on any more.
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(LAST_JOBS_PAUSE),
            }
        }
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
            self.counters.expired.inc_by(expired.len() as u64);
            self.counters.saved(SavedReason::Expired, expired.iter().map(|job| job.tokens).sum());
            self.give_up(expired, &JobError::DeadlineExceeded);
        }
    }

    /// Jobs that nobody waits for any more are answered as such, which frees their message. What arrives later was looked
    /// at by the tokenisers.
    fn drop_what_is_cancelled(&mut self, heard: &mut u64) {
        let newest = self.cancellations.heard();
        if std::mem::replace(heard, newest) == newest {
            return;
        }
        let cancellations = &self.cancellations;
        let cancelled = self.batcher.remove_where(|work| cancellations.is_cancelled(&work.delivery, work.id));
        if !cancelled.is_empty() {
            self.counters.cancelled.inc_by(cancelled.len() as u64);
            self.counters.saved(SavedReason::Cancelled, cancelled.iter().map(|job| job.tokens).sum());
            self.give_up(cancelled, &JobError::Cancelled);
        }
    }

    fn give_up(&self, jobs: impl IntoIterator<Item = QueuedJob<Work>>, error: &JobError) {
        for QueuedJob { payload: work, .. } in jobs {
            self.waiting.remove(work.delivery.lane, 1, work.estimated_tokens);
            let failed = Failed { id: work.id, error: error.clone(), span: work.span };
            self.replies.failed(work.delivery, vec![failed]);
        }
        self.waiting.announce_room();
    }

    fn run_batch(&mut self, batch: Batch<Work>, tokens: &mut TokenBatch, now: Instant) {
        let Batch { mut jobs, reason, .. } = batch;
        self.started(&mut jobs, now);
        let mut jobs: Vec<Work> = jobs.into_iter().map(|job| job.payload).collect();
        let before = jobs.len();
        let deliveries = &self.deliveries;
        jobs.retain_mut(|work| {
            let over = work.delivery.lease_over(now);
            if over {
                spans::lost(&mut work.span);
                deliveries.finished(&work.delivery, 1);
            }
            !over
        });
        if jobs.len() < before {
            tracing::warn!(jobs = before - jobs.len(), "held for too long: another worker has them by now");
            self.counters.cancelled.inc_by((before - jobs.len()) as u64);
        }
        if jobs.is_empty() {
            return;
        }
        let reason = label(reason);
        self.counters.closed(reason);
        match self.compute(&mut jobs, tokens, reason) {
            Ok((embeddings, pass)) => self.replies.computed(Computed { jobs, embeddings, pass }),
            Err(error) if jobs.len() == 1 => self.fail(jobs, error),
            Err(error) => {
                tracing::warn!(%error, rows = jobs.len(), "a batch failed; its rows are run one by one");
                for work in jobs {
                    let mut alone = vec![work];
                    match self.compute(&mut alone, tokens, CloseReason::Isolated) {
                        Ok((embeddings, pass)) => {
                            self.replies.computed(Computed { jobs: alone, embeddings, pass });
                        }
                        Err(error) => self.fail(alone, error),
                    }
                }
            }
        }
    }

    /// Books a batch that begins at `now`.
    fn started(&self, jobs: &mut [QueuedJob<Work>], now: Instant) {
        let now_us = self.clock.at(now);
        let mut tokens = 0;
        for job in jobs.iter_mut() {
            let lane: Lane = job.payload.delivery.lane;
            tokens += job.tokens;
            self.waiting.remove(lane, 1, job.payload.estimated_tokens);
            let waited_us = now_us.saturating_sub(job.payload.enqueued_us);
            self.counters.queue_wait[lane.index()].observe(waited_us as f64 / 1e6);
            job.payload.span.note("forebay.queue_wait_seconds", || waited_us as f64 / 1e6);
            self.counters.batch_wait.observe(now.saturating_duration_since(job.queued_at).as_secs_f64());
        }
        self.waiting.announce_room();
        let by_tokens = tokens as f64 / self.limits.max_tokens as f64;
        let by_rows = jobs.len() as f64 / self.limits.max_rows as f64;
        self.counters.batch_size.observe(jobs.len() as f64);
        self.counters.batch_tokens.observe(tokens as f64);
        self.counters.batch_fill.observe(by_tokens.max(by_rows));
    }

    /// One forward pass, and how long it took. A panic in a kernel is an error of this batch, not the end of the worker.
    fn compute(
        &mut self,
        jobs: &mut [Work],
        tokens: &mut TokenBatch,
        reason: CloseReason,
    ) -> Result<(Embeddings, Pass), EngineError> {
        tokens.clear();
        for work in jobs.iter() {
            tokens.push(&work.ids);
        }
        let span =
            tracing::debug_span!("batch", model = %self.counters.model(), rows = jobs.len(), tokens = tokens.tokens());
        let _entered = span.enter();
        if tracing::enabled!(tracing::Level::DEBUG) {
            for work in jobs.iter() {
                tracing::debug!(job = %work.id, trace_id = work.trace.map(|trace| trace.trace_id()), "runs");
            }
        }
        let begun = Instant::now();
        jobs.iter().filter_map(|work| work.ticket.as_ref()).for_each(Ticket::begins);
        self.counters.in_flight.inc();
        self.pulse.step_begins(begun);
        let encoder = &mut self.encoder;
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| encoder.encode(tokens)));
        self.pulse.step_ends();
        self.counters.in_flight.dec();
        self.counters.steps.inc();
        let took = begun.elapsed();
        let pass = Pass { begun, took, reason };
        if !matches!(result, Ok(Ok(_))) {
            spans::pass(self.counters.model(), jobs, pass, true);
        }
        match result {
            Ok(Ok(embeddings)) => {
                self.counters.inference.observe(took.as_secs_f64());
                self.counters.computed(tokens.tokens(), took.as_secs_f64());
                self.counters.rows.inc_by(jobs.len() as u64);
                Ok((embeddings, pass))
            }
            Ok(Err(error)) => {
                self.counters.engine_error(match error {
                    EngineError::OutOfMemory { .. } => EngineFault::OutOfMemory,
                    EngineError::Batch(_) => EngineFault::Internal,
                    EngineError::Compute(_) | EngineError::DeviceLost(_) => EngineFault::Device,
                });
                Err(error)
            }
            Err(_) => {
                self.counters.engine_error(EngineFault::Panic);
                Err(EngineError::Compute("a kernel panicked".to_owned()))
            }
        }
    }

    fn fail(&self, jobs: Vec<Work>, error: EngineError) {
        for work in jobs {
            let trace_id = work.trace.map(|trace| trace.trace_id());
            tracing::error!(job = %work.id, trace_id, %error, "a job failed in the engine");
            let failed = Failed { id: work.id, error: JobError::Internal, span: work.span };
            self.replies.failed(work.delivery, vec![failed]);
        }
    }
}

fn label(reason: forebay_sched::CloseReason) -> CloseReason {
    match reason {
        forebay_sched::CloseReason::Full => CloseReason::Full,
        forebay_sched::CloseReason::Tokens => CloseReason::Tokens,
        forebay_sched::CloseReason::DeviceIdle => CloseReason::DeviceIdle,
        forebay_sched::CloseReason::MaxDelay => CloseReason::MaxDelay,
        forebay_sched::CloseReason::Deadline => CloseReason::Deadline,
        forebay_sched::CloseReason::Isolated => CloseReason::Isolated,
    }
}
