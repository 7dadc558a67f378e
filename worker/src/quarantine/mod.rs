//! Where suspects run: jobs of messages that were delivered before, whose worker may have died of one of them.
//!
//! One task runs them **one after the other**, each alone in its batch and last in its lane, with its start written down
//! before and its end after (`policy`, `attempts`). With two starts that never ended a job is put aside as a dead letter
//! and answered as such; its neighbours in the same message have answers of their own and are not affected.
//!
//! ```text
//! take ──▶ waits here ──▶ start written ──▶ tokenised, batched, run ──▶ answered: end sent with the next start
//!             │  │               └ cannot be written: the message goes back with a delay, nothing runs unrecorded
//!             │  └ two starts without an end: dead letter written ──▶ answered `dead_lettered`
//!             └ cancelled, expired: answered as such; the worker drains: the message goes back
//! ```
//! What waits here keeps its deliveries (their progress is reported like that of all others) and does not count against
//! the intake's credit, so that ordinary work goes on; how much may wait is bounded, the rest is sent back for later.
//! The device never waits for the record: ordinary batches run while it is written.
//!
//! **Who is no suspect:** a message that only this process was ever handed ([`OwnDeliveries`]). Nothing else is known
//! safely: a worker that gives a message back says so with a nak, which looks to the next like a death.

mod attempts;
mod policy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use forebay_shared::async_jobs::job_of_row;
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::dead::{DeadLetter, DeadLetters, DeadReason, Start};
use forebay_shared::error::JobError;
use forebay_shared::ids::{BootId, ModelToken, ProcessName};
use forebay_shared::job::Job;
use forebay_shared::metrics::{SavedReason, StoreWrite};
use forebay_shared::shutdown::Shutdown;
use forebay_shared::telemetry::span::Span;
use futures::future;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::cancelled::Cancellations;
use crate::delivery::{Deliveries, Delivery, may_return};
use crate::fence::LOOK;
use crate::gauge::Waiting;
use crate::intake::estimated_tokens;
use crate::prepare::Preparer;
use crate::reply::{Failed, ReplySender};
use crate::telemetry::ModelCounters;
use attempts::{Attempts, Begun, RecordError, Started};
use policy::SuspectQueue;
pub(crate) use policy::{MessageName, OwnDeliveries};

/// Most suspects that wait in one worker.
const MAX_JOBS: usize = 512;
/// Most bytes of their inputs.
const MAX_BYTES: usize = 32 << 20;
/// How soon a message comes back that found no room here, or whose start could not be written.
const TRY_AGAIN: &str = r#"-NAK {"delay":2000000000}"#;
/// While the worker drains, an end that could not be written is tried again so soon.
const LAST_TRIES: Duration = Duration::from_millis(100);
/// At once, for another worker.
const GIVE_BACK: &str = "-NAK";

/// One job that waits for its turn.
struct Suspect {
    delivery: Arc<Delivery>,
    job: Job,
    /// Number of the delivery.
    attempt: u64,
}

/// Goes with a suspect through tokeniser and engine: dropped when it was answered, whatever the answer.
#[derive(Debug)]
pub(crate) struct Ticket {
    begun: Arc<AtomicBool>,
    _ended: oneshot::Sender<()>,
}

impl Ticket {
    /// The job is in the engine from here on.
    pub(crate) fn begins(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// A ticket, whether its job has begun, and its end.
    #[cfg(test)]
    pub(crate) fn for_test() -> (Self, Arc<AtomicBool>, oneshot::Receiver<()>) {
        let (begun, (ended, end)) = (Arc::<AtomicBool>::default(), oneshot::channel());
        (Self { begun: Arc::clone(&begun), _ended: ended }, begun, end)
    }
}

/// The task, and the way to it.
pub(crate) struct Quarantine {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// The work was given back: what has not begun will not.
    given_up: Notify,
    tools: Tools,
}

struct Queue {
    suspects: SuspectQueue<Suspect>,
    /// The worker drains.
    closed: bool,
}

/// What the task works with.
pub(crate) struct Tools {
    pub(crate) boot: BootId,
    pub(crate) process: ProcessName,
    pub(crate) token: ModelToken,
    /// The connection that deliveries come over.
    pub(crate) link: Link,
    pub(crate) attempts: kv::Store,
    pub(crate) dead: DeadLetters,
    pub(crate) clock: BrokerClock,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) preparer: Preparer,
    pub(crate) replies: ReplySender,
    pub(crate) counters: Arc<ModelCounters>,
}

impl Quarantine {
    pub(crate) fn new(tools: Tools) -> Arc<Self> {
        let queue = Queue { suspects: SuspectQueue::new(MAX_JOBS, MAX_BYTES), closed: false };
        Arc::new(Self { queue: Mutex::new(queue), arrived: Notify::new(), given_up: Notify::new(), tools })
    }

    /// Takes jobs of a delivery that are still wanted. Without room, or while the worker drains, the message goes back.
    pub(crate) async fn take(&self, delivery: Arc<Delivery>, jobs: Vec<Job>, attempt: u64) {
        let refused = {
            let mut queue = self.queue.lock();
            let bytes = jobs.iter().map(|job| job.input.len_bytes()).sum();
            if queue.closed {
                Some(GIVE_BACK)
            } else if !queue.suspects.has_room(jobs.len(), bytes) {
                Some(TRY_AGAIN)
            } else {
                for job in jobs.iter().cloned() {
                    let (lane, bytes, delivery) = (delivery.lane, job.input.len_bytes(), Arc::clone(&delivery));
                    queue.suspects.push(lane, bytes, Suspect { delivery, job, attempt });
                }
                None
            }
        };
        match refused {
            Some(TRY_AGAIN) if !may_return(attempt) => {
                self.tools.replies.not_run(delivery, jobs.iter().map(|job| job.id));
            }
            Some(word) => self.send_back(&delivery, jobs.len(), word).await,
            None => self.arrived.notify_one(),
        }
    }

    /// Runs suspects until `stop`; gives back then what has not begun, and sees the last one through.
    pub(crate) async fn run(self: Arc<Self>, mut stop: Shutdown) {
        // Ended and not recorded yet; more than one only while the record cannot be written.
        let mut ended: Vec<Started> = Vec::new();
        let attempts = Attempts(self.tools.attempts.clone());
        loop {
            let next = self.queue.lock().suspects.pop();
            let Some(suspect) = next else {
                self.record_ends(&attempts, &mut ended).await;
                if self.queue.lock().closed {
                    if ended.is_empty() {
                        return;
                    }
                    // Whoever waits for us does so for a short while only.
                    tokio::time::sleep(LAST_TRIES).await;
                    continue;
                }
                tokio::select! {
                    () = stop.fired() => self.close().await,
                    () = self.arrived.notified() => {}
                    // What could not be written is tried again.
                    () = tokio::time::sleep(Duration::from_secs(1)), if !ended.is_empty() => {}
                }
                continue;
            };
            let last = {
                let mut run = std::pin::pin!(self.run_one(&attempts, suspect, &mut ended));
                tokio::select! {
                    last = &mut run => last,
                    () = stop.fired() => {
                        self.close().await;
                        run.await
                    }
                }
            };
            ended.extend(last);
        }
    }

    /// The worker gives its work back: a suspect that has not begun will not.
    pub(crate) fn give_up(&self) {
        self.given_up.notify_one();
    }

    /// Gives back what waits.
    async fn close(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.suspects.remove_where(|_| true)
        };
        let mut rest = waiting.into_iter().peekable();
        while let Some(suspect) = rest.next() {
            let mut jobs = 1;
            while rest.next_if(|next| Arc::ptr_eq(&next.delivery, &suspect.delivery)).is_some() {
                jobs += 1;
            }
            self.send_back(&suspect.delivery, jobs, GIVE_BACK).await;
        }
    }

    /// Runs one suspect, or answers it otherwise. Returns its start if that is to be ended.
    async fn run_one(&self, attempts: &Attempts, suspect: Suspect, ended: &mut Vec<Started>) -> Option<Started> {
        let Suspect { delivery, job, attempt } = suspect;
        let tools = &self.tools;
        if !self.becomes_ours(&delivery).await {
            // Another worker has it by now.
            tools.counters.cancelled.inc();
            tools.deliveries.finished(&delivery, 1);
            return None;
        }
        if tools.cancellations.is_cancelled(&delivery, job.id) {
            tools.counters.cancelled.inc();
            return self.spare(delivery, &job, SavedReason::Cancelled, JobError::Cancelled);
        }
        if tools.clock.instant(job.deadline_us) <= Instant::now() {
            tools.counters.expired.inc();
            return self.spare(delivery, &job, SavedReason::Expired, JobError::DeadlineExceeded);
        }
        let start = Start {
            process: tools.process.clone(),
            boot: tools.boot,
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
            at_us: tools.clock.now_us(),
        };
        // In this order over one connection: the end before is read before this start is there.
        let begun =
            future::join(self.record_ends(attempts, ended), attempts.begin(&job.id, job.generation, start)).await.1;
        match begun {
            Ok(Begun::Run(started)) => {
                tracing::debug!(job = %job.id, attempt, "runs alone: its message was delivered before");
                let may_run_again = self.run_alone(delivery, job).await;
                may_run_again.then_some(started)
            }
            Ok(Begun::Dead(started)) => {
                self.put_aside(attempts, delivery, job, attempt, &started).await;
                None
            }
            Ok(Begun::Unknown(started, error)) => {
                tools.counters.write_failed(StoreWrite::Kv);
                self.unrecorded(&delivery, &job, attempt, &error).await;
                Some(started)
            }
            Err(error) => {
                self.unrecorded(&delivery, &job, attempt, &error).await;
                None
            }
        }
    }

    /// Sends a suspect through the engine and waits until it is answered. False if it may still be in there although the
    /// worker has given it back: its start stays.
    async fn run_alone(&self, delivery: Arc<Delivery>, job: Job) -> bool {
        let begun = Arc::new(AtomicBool::new(false));
        let (ended, end) = oneshot::channel();
        let ticket = Ticket { begun: Arc::clone(&begun), _ended: ended };
        let tokens = estimated_tokens(job.input.len_bytes());
        self.tools.waiting.add(delivery.lane, 1, tokens);
        self.tools.preparer.prepare(delivery, vec![job], Some(ticket));
        tokio::select! {
            _dropped = end => true,
            () = self.given_up.notified() => !begun.load(Ordering::Acquire),
        }
    }

    /// Writes the dead letter, then the answer. Without the letter there is no answer: the message comes back.
    async fn put_aside(&self, attempts: &Attempts, delivery: Arc<Delivery>, job: Job, attempt: u64, started: &Started) {
        let tools = &self.tools;
        let (id, generation) = (job.id, job.generation);
        let starts = started.starts().len() as u32;
        if !started.is_dead() {
            let letter = DeadLetter {
                job: job.clone(),
                model: tools.counters.model().clone(),
                token: tools.token.clone(),
                lane: delivery.lane,
                api: delivery.api,
                died_us: tools.clock.now_us(),
                reason: DeadReason::RepeatedStarts,
                starts: started.starts().to_vec(),
            };
            if let Err(error) = tools.dead.write(&letter).await {
                tools.counters.write_failed(StoreWrite::DeadLetter);
                tracing::error!(job = %id, %error, "a dead letter could not be written; its message comes back");
                return self.send_back_rest(&delivery, &job, attempt).await;
            }
            let who: Vec<&str> = started.starts().iter().map(|start| start.process.as_str()).collect();
            tracing::error!(job = %id, generation, workers = ?who, "a job ended its workers and was put aside");
            tools.counters.dead_lettered(DeadReason::RepeatedStarts.into());
            if let Err(error) = attempts.mark_dead(started).await {
                tools.counters.write_failed(StoreWrite::Kv);
                tracing::warn!(job = %id, %error, "a repeated delivery may write the dead letter again");
            }
        }
        let error = JobError::DeadLettered { job: job_of_row(&id).to_string(), starts };
        tools.replies.failed(delivery, vec![Failed { id, error, span: Span::none() }]);
    }

    /// Answers a job that is not worth running.
    fn spare(&self, delivery: Arc<Delivery>, job: &Job, reason: SavedReason, error: JobError) -> Option<Started> {
        self.tools.counters.saved(reason, estimated_tokens(job.input.len_bytes()));
        self.tools.replies.failed(delivery, vec![Failed { id: job.id, error, span: Span::none() }]);
        None
    }

    /// Nothing runs unrecorded.
    async fn unrecorded(&self, delivery: &Arc<Delivery>, job: &Job, attempt: u64, error: &RecordError) {
        tracing::warn!(job = %job.id, %error, "a start could not be recorded; the message comes back");
        self.send_back_rest(delivery, job, attempt).await;
    }

    /// Gives a message back for a later try, with all of its jobs that wait here and the one at hand.
    async fn send_back_rest(&self, delivery: &Arc<Delivery>, job: &Job, attempt: u64) {
        let of_it = |suspect: &Suspect| Arc::ptr_eq(&suspect.delivery, delivery);
        let rest = self.queue.lock().suspects.remove_where(of_it);
        if may_return(attempt) {
            return self.send_back(delivery, 1 + rest.len(), TRY_AGAIN).await;
        }
        let jobs = std::iter::once(job.id).chain(rest.iter().map(|suspect| suspect.job.id));
        self.tools.replies.not_run(Arc::clone(delivery), jobs);
    }

    /// Ends our part in `jobs` of a delivery with `word`, unless it is not ours any more.
    async fn send_back(&self, delivery: &Delivery, jobs: usize, word: &'static str) {
        if self.is_ours(delivery) {
            let _lost = self.tools.link.client.publish(delivery.ack.clone(), word.into()).await;
        }
        self.tools.deliveries.finished(delivery, jobs);
    }

    /// Waits while nothing but the fence keeps a delivery from being ours: this process was stopped for a moment, and hears from
    /// the broker soon. False once another worker has it.
    async fn becomes_ours(&self, delivery: &Delivery) -> bool {
        while !self.is_ours(delivery) {
            if delivery.is_lost(self.tools.link.epoch(), Instant::now()) {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    fn is_ours(&self, delivery: &Delivery) -> bool {
        self.tools.link.is_up() && delivery.is_ours(self.tools.link.epoch(), Instant::now())
    }

    /// Records ends, up to the first that cannot be written: that one goes to the back of the list, so that neither it
    /// nor a broker that is away is waited for more than once in a turn.
    async fn record_ends(&self, attempts: &Attempts, ended: &mut Vec<Started>) {
        let mut left = std::mem::take(ended).into_iter();
        while let Some(started) = left.next() {
            if let Err(error) = attempts.end(&started).await {
                self.tools.counters.write_failed(StoreWrite::Kv);
                // It counts as a start that was not ended, until it is written after all.
                tracing::warn!(%error, "the end of a job could not be recorded yet");
                ended.extend(left);
                ended.push(started);
                return;
            }
        }
    }
}
