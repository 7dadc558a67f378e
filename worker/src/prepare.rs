//! Text to token ids, on threads of their own while the engine computes (between steps ④ and ⑤).
//!
//! A bundle is one parcel: its jobs are tokenised together and reach the driver together, so that the driver is woken
//! once. Inputs that cannot be tokenised are answered from here. A model that costs nothing to run is prepared on the
//! caller's thread: a hand-over would cost more than the work.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use forebay_sched::QueuedJob;
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::ids::{JobId, Lane};
use forebay_shared::job::{EmbedParams, Input, Job, Task};
use forebay_shared::metrics::SavedReason;
use forebay_shared::telemetry::span::Span;
use forebay_shared::trace::TraceContext;

use crate::cancelled::Cancellations;
use crate::delivery::Delivery;
use crate::gauge::Waiting;
use crate::intake::estimated_tokens;
use crate::quarantine::Ticket;
use crate::reply::{Failed, ReplySender};
use crate::spans;
use crate::telemetry::ModelCounters;
use crate::tokenize::buffers::{TokenBuffer, TokenBuffers};
use crate::tokenize::{Tokenize, TokenizeError};

/// A job that is ready for the engine.
pub(crate) struct Work {
    pub(crate) id: JobId,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) params: EmbedParams,
    /// Of its request; logs name it.
    pub(crate) trace: Option<TraceContext>,
    /// From the intake to the answer.
    pub(crate) span: Span,
    pub(crate) enqueued_us: u64,
    pub(crate) ids: TokenBuffer,
    /// What the intake counted for it, to be taken off the same count.
    pub(crate) estimated_tokens: usize,
    /// A job in quarantine runs alone, and its end is waited for.
    pub(crate) ticket: Option<Ticket>,
}

/// Ready jobs of one bundle.
pub(crate) type Prepared = Vec<QueuedJob<Work>>;

/// One bundle on its way to a tokeniser.
struct Parcel {
    delivery: Arc<Delivery>,
    jobs: Vec<Job>,
    ticket: Option<Ticket>,
    taken: Instant,
}

/// Hands bundles to the tokenisers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Preparer {
    bench: Arc<Bench>,
    /// `None`: on the caller's thread.
    parcels: Option<Sender<Parcel>>,
}

/// What every tokenising thread works with.
pub(crate) struct Bench {
    pub(crate) tokenizer: Arc<dyn Tokenize>,
    pub(crate) buffers: TokenBuffers,
    pub(crate) clock: BrokerClock,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) counters: Arc<ModelCounters>,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) driver: Sender<Prepared>,
    pub(crate) replies: ReplySender,
}

impl Preparer {
    /// Starts `threads` threads; 0 = work on the caller's.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(bench: Bench, threads: usize) -> std::io::Result<Self> {
        let bench = Arc::new(bench);
        if threads == 0 {
            return Ok(Self { bench, parcels: None });
        }
        let (sender, receiver) = crossbeam_channel::unbounded::<Parcel>();
        for number in 0..threads {
            let (bench, receiver): (_, Receiver<Parcel>) = (Arc::clone(&bench), receiver.clone());
            std::thread::Builder::new().name(format!("tokenize-{number}")).spawn(move || {
                for parcel in receiver {
                    bench.work(parcel);
                }
            })?;
        }
        Ok(Self { bench, parcels: Some(sender) })
    }

    /// Tokenises the jobs and passes them to the driver. With a ticket it is one job, which runs alone.
    pub(crate) fn prepare(&self, delivery: Arc<Delivery>, jobs: Vec<Job>, ticket: Option<Ticket>) {
        let parcel = Parcel { delivery, jobs, ticket, taken: Instant::now() };
        match &self.parcels {
            None => self.bench.work(parcel),
            // The threads live as long as a sender does.
            Some(parcels) => drop(parcels.send(parcel)),
        }
    }
}

impl Bench {
    fn work(&self, parcel: Parcel) {
        let Parcel { delivery, jobs, mut ticket, taken } = parcel;
        let begun = Instant::now();
        let mut prepared = Vec::with_capacity(jobs.len());
        let mut failed = Vec::new();
        for job in jobs {
            let deadline = self.clock.instant(job.deadline_us);
            let estimated = estimated_tokens(job.input.len_bytes());
            let (id, trace, enqueued_us) = (job.id, job.trace, job.enqueued_us);
            let span = spans::process(self.counters.model(), &delivery, &job, taken);
            // A tokeniser that panics on one text must not take the thread, and with it all that follows.
            let tokenized = std::panic::catch_unwind(AssertUnwindSafe(|| self.tokenize(&delivery, &job, deadline)));
            match tokenized.unwrap_or_else(|_| {
                tracing::error!(job = %id, trace_id = trace.map(|trace| trace.trace_id()), "the tokenizer panicked");
                Err(JobError::Internal)
            }) {
                Ok((ids, params)) => prepared.push(QueuedJob {
                    tokens: ids.len(),
                    lane: sched_lane(delivery.lane),
                    queued_at: taken,
                    deadline,
                    isolated: ticket.is_some(),
                    payload: Work {
                        id,
                        delivery: Arc::clone(&delivery),
                        params,
                        trace,
                        span,
                        enqueued_us,
                        ids,
                        estimated_tokens: estimated,
                        ticket: ticket.take(),
                    },
                }),
                Err(error) => {
                    self.waiting.remove(delivery.lane, 1, estimated);
                    failed.push(Failed { id, error, span });
                }
            }
        }
        self.counters.tokenize.observe(begun.elapsed().as_secs_f64());
        if !failed.is_empty() {
            self.waiting.announce_room();
            self.replies.failed(Arc::clone(&delivery), failed);
        }
        if !prepared.is_empty() {
            // The end of the driver ends the worker; the broker gives the work to another.
            let _gone = self.driver.send(prepared);
        }
    }

    fn tokenize(
        &self,
        delivery: &Delivery,
        job: &Job,
        deadline: Instant,
    ) -> Result<(TokenBuffer, EmbedParams), JobError> {
        if deadline <= Instant::now() {
            self.counters.expired.inc();
            self.counters.saved(SavedReason::Expired, estimated_tokens(job.input.len_bytes()));
            return Err(JobError::DeadlineExceeded);
        }
        if self.cancellations.is_cancelled(delivery, job.id) {
            self.counters.cancelled.inc();
            self.counters.saved(SavedReason::Cancelled, estimated_tokens(job.input.len_bytes()));
            return Err(JobError::Cancelled);
        }
        let Task::Embed(params) = job.task;
        let mut ids = self.buffers.take();
        match &job.input {
            Input::Text(text) => self.tokenizer.encode(text, params.truncate, &mut ids),
            Input::Tokens(given) => self.tokenizer.check_ids(given, params.truncate, &mut ids),
        }
        .map_err(|error| {
            if let TokenizeError::Failed(cause) = &error {
                let trace_id = job.trace.map(|trace| trace.trace_id());
                tracing::error!(job = %job.id, trace_id, cause, "the tokenizer failed");
            }
            job_error(error)
        })?;
        Ok((ids, params))
    }
}

fn job_error(error: TokenizeError) -> JobError {
    match error {
        TokenizeError::TooLong { got, max } => JobError::InputTooLong { got: got as u32, max: max as u32 },
        TokenizeError::UnknownId { .. } | TokenizeError::Empty => {
            JobError::InvalidInput { message: error.to_string(), param: Some("input".to_owned()) }
        }
        TokenizeError::Failed(_) => JobError::Internal,
    }
}

/// The scheduler's own lane type: its crate knows nothing of the wire.
fn sched_lane(lane: Lane) -> forebay_sched::Lane {
    match lane {
        Lane::High => forebay_sched::Lane::High,
        Lane::Normal => forebay_sched::Lane::Normal,
        Lane::Low => forebay_sched::Lane::Low,
    }
}
