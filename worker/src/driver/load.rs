//! One batch between the batcher and its answers, and what is booked when it leaves and when it fails.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use forebay_sched::{Batch, Fault, QueuedJob, Round};
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::metrics::{CloseReason, EngineFault};

use crate::models::{EngineError, TokenBatch};
use crate::prepare::Work;
use crate::quarantine::Ticket;
use crate::reply::{Failed, ReplySender};
use crate::telemetry::ModelCounters;

/// Rows that run together.
pub(super) struct Load {
    pub(super) jobs: Vec<Work>,
    pub(super) tokens: usize,
    pub(super) reason: CloseReason,
    pub(super) round: Round,
}

impl Load {
    pub(super) fn new(batch: Batch<Work>) -> Self {
        let jobs = batch.jobs.into_iter().map(|job| job.payload).collect();
        Self { jobs, tokens: batch.tokens, reason: label(batch.reason), round: Round::First }
    }

    /// Rows of a batch that failed.
    pub(super) fn again(jobs: Vec<Work>, round: Round) -> Self {
        let tokens = jobs.iter().map(|work| work.ids.len()).sum();
        Self { jobs, tokens, reason: CloseReason::Isolated, round }
    }

    /// Nothing may be under way beside it: it is a suspect, which must not take others with it, or it failed before.
    pub(super) fn is_alone(&self) -> bool {
        self.round != Round::First || self.reason == CloseReason::Isolated
    }

    pub(super) fn write_to(&self, tokens: &mut TokenBatch) {
        tokens.clear();
        for work in &self.jobs {
            tokens.push(&work.ids);
        }
    }

    /// Its jobs are in the engine from here on.
    pub(super) fn begins(&self) {
        self.jobs.iter().filter_map(|work| work.ticket.as_ref()).for_each(Ticket::begins);
        if tracing::enabled!(tracing::Level::DEBUG) {
            for work in &self.jobs {
                tracing::debug!(job = %work.id, trace_id = work.trace.map(|trace| trace.trace_id()), "runs");
            }
        }
    }
}

/// Books the jobs of a batch that leaves the batcher at `now`; their limits are as configured.
pub(super) fn book(
    jobs: &mut [QueuedJob<Work>],
    limits: &forebay_sched::BatchLimits,
    clock: &BrokerClock,
    counters: &ModelCounters,
    now: Instant,
) {
    let now_us = clock.at(now);
    let mut tokens = 0;
    for job in jobs.iter_mut() {
        tokens += job.tokens;
        let waited_us = now_us.saturating_sub(job.payload.enqueued_us);
        counters.queue_wait[job.payload.delivery.lane.index()].observe(waited_us as f64 / 1e6);
        job.payload.span.note("forebay.queue_wait_seconds", || waited_us as f64 / 1e6);
        counters.batch_wait.observe(now.saturating_duration_since(job.queued_at).as_secs_f64());
    }
    let by_tokens = tokens as f64 / limits.max_tokens as f64;
    let by_rows = jobs.len() as f64 / limits.max_rows as f64;
    counters.batch_size.observe(jobs.len() as f64);
    counters.batch_tokens.observe(tokens as f64);
    counters.batch_fill.observe(by_tokens.max(by_rows));
}

/// Answers a job that failed for good.
pub(super) fn fail(work: Work, error: &EngineError, replies: &ReplySender) {
    let trace_id = work.trace.map(|trace| trace.trace_id());
    tracing::error!(job = %work.id, trace_id, %error, "a job failed in the engine");
    let failed = Failed { id: work.id, error: JobError::Internal, span: work.span };
    replies.failed(work.delivery, vec![failed]);
}

/// Does what the device is asked for. A panic in a kernel is an error of this batch, not the end of the worker. Errors are
/// counted here.
pub(super) fn guarded<T>(
    counters: &ModelCounters,
    ask: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    match std::panic::catch_unwind(AssertUnwindSafe(ask)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            match error {
                EngineError::OutOfMemory { .. } => counters.out_of_memory(),
                EngineError::Batch(_) => counters.engine_error(EngineFault::Internal),
                EngineError::Compute(_) | EngineError::DeviceLost(_) => counters.engine_error(EngineFault::Device),
            }
            Err(error)
        }
        Err(_) => {
            counters.engine_error(EngineFault::Panic);
            Err(EngineError::Compute("a kernel panicked".to_owned()))
        }
    }
}

/// What is run next depends on this alone.
pub(super) fn fault(error: &EngineError) -> Fault {
    match error {
        EngineError::OutOfMemory { .. } => Fault::Memory,
        _ => Fault::Other,
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
