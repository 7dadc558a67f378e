//! One task per model and lane that turns ready jobs into JetStream messages (step ③).
//!
//! Takes what is ready, yields once so that requests already readable on their sockets can join, and hands it over: no
//! timer is involved, so a lone request pays nothing. What is more than the lane's window is held back in a fair order
//! ([`super::fair`]) and leaves as answers come in. Each message is published once with an id of ours and awaited
//! beside the answers; when the broker's acknowledgement does not come, the identical bytes are sent again under the same
//! id, for at most half of the duplicate window, and never while all of its jobs are already answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use forebay_shared::codec;
use forebay_shared::error::JobError;
use forebay_shared::ids::{JobId, Lane, ModelName, ModelToken};
use forebay_shared::job::{Bundle, Job};
use forebay_shared::metrics::{Gauge, Histogram, JobSource, PublishFault, Refusal, StoreWrite};
use forebay_shared::model::ModelRecord;
use forebay_shared::streams::DUPLICATE_WINDOW;
use forebay_shared::subjects;
use forebay_shared::trace::TRACEPARENT;
use tokio::sync::mpsc;

use super::fair::express;
use super::fair::flow::Flow;
use super::fair::window::Room;
use super::spans::{Message, Publishes};
use super::unacknowledged::{self, Next};
use super::{LaneQueue, MAX_RETRY_AFTER, MIN_RETRY_AFTER, Ready, Shared, bundler};
use crate::peers::{HOLDING_EVERY, Peers};
use crate::registry::Registry;

/// Most jobs taken from the channel in one turn.
const TURN: usize = 1024;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a window is used before it is looked at again.
const WINDOW_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Publisher {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    js: jetstream::Context,
    model: ModelName,
    token: ModelToken,
    lane: Lane,
    flow: Arc<Flow>,
    /// Jobs admitted and not yet in the broker: part of the queue's depth.
    unpublished: Gauge,
    bundle_rows: Histogram,
}

/// One message, kept until the broker has it.
struct Outgoing {
    number: u64,
    ids: Vec<JobId>,
    /// Of these, jobs that clients wait for.
    of_requests: usize,
    subject: String,
    message_id: String,
    traceparent: Option<String>,
    ttl: Duration,
    deadline: Instant,
    payload: Bytes,
    /// Recorded until the broker has it.
    spans: Publishes,
}

/// The lane's window, and what the other apis were told of it.
struct Limit {
    rows: usize,
    until: Instant,
    /// Rows of all workers' batches when there were any: those that are being restarted come back to the same lane.
    batch_rows: usize,
    /// Another api holds work back in this lane.
    others_hold: bool,
    announced: Option<Instant>,
}

impl Publisher {
    pub(super) fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        model: &ModelRecord,
        lane: Lane,
        queue: &LaneQueue,
    ) -> Self {
        let js = shared.publish.jetstream();
        let bundle_rows = shared.metrics.bundle_rows.with(&(model.name.clone(),));
        let (model, token) = (model.name.clone(), model.token.clone());
        let (flow, unpublished) = (Arc::clone(&queue.flow), queue.unpublished.clone());
        Self { shared, registry, js, model, token, lane, flow, unpublished, bundle_rows }
    }

    pub(super) async fn run(self, mut ready: mpsc::Receiver<Ready>) {
        let publisher = Arc::new(self);
        let mut turn = Vec::with_capacity(TURN);
        let mut limit = Limit { rows: 0, until: Instant::now(), batch_rows: 0, others_hold: false, announced: None };
        while publisher.next(&mut ready, &mut turn).await {
            tokio::task::yield_now().await;
            while turn.len() < TURN
                && let Ok(job) = ready.try_recv()
            {
                turn.push(job);
            }
            // Requests that ended while they waited here need no work.
            let before = turn.len();
            turn.retain(|ready| !ready.gather.is_over());
            publisher.unpublished.sub((before - turn.len()) as f64);
            let mut passing = publisher.hold_back(&mut turn, &mut limit).await;
            publisher.publish_all(&mut passing).await;
            publisher.publish_all(&mut turn).await;
        }
    }

    /// Publishes these jobs in as few messages as keep every worker busy.
    async fn publish_all(self: &Arc<Self>, jobs: &mut Vec<Ready>) {
        let workers = self.registry.live_workers(&self.token);
        let bundle_limit = bundler::bundle_limit(jobs.len(), workers);
        let sizes: Vec<usize> = jobs.iter().map(|ready| ready.job.input.len_bytes()).collect();
        let (mut rest, mut sizes) = (jobs.drain(..), sizes.as_slice());
        while !sizes.is_empty() {
            let count = bundler::take(sizes.iter().copied(), bundle_limit);
            sizes = &sizes[count..];
            self.publish(rest.by_ref().take(count).collect()).await;
        }
    }

    /// Waits for jobs, or for room as long as any are held back; false when nobody can send any more.
    async fn next(&self, ready: &mut mpsc::Receiver<Ready>, turn: &mut Vec<Ready>) -> bool {
        if self.flow.held_rows() == 0 {
            return ready.recv_many(turn, TURN).await > 0;
        }
        tokio::select! {
            taken = ready.recv_many(turn, TURN) => taken > 0,
            () = self.flow.room() => true,
            // More workers may be there by now, or fewer apis that share the lane.
            () = tokio::time::sleep(WINDOW_EVERY) => true,
        }
    }

    /// Leaves in `turn` what goes out now: everything while the window has room for it, otherwise those whose turn it is.
    /// Returns what passes by the backlog of others.
    async fn hold_back(&self, turn: &mut Vec<Ready>, limit: &mut Limit) -> Vec<Ready> {
        let now = Instant::now();
        if now >= limit.until {
            limit.batch_rows = match self.registry.batch_rows(&self.token) {
                0 => limit.batch_rows,
                rows => rows,
            };
            (limit.rows, limit.until) = (self.window(limit.batch_rows), now + WINDOW_EVERY);
            limit.others_hold = self.registry.peers().others_hold(&self.token, self.lane, self.shared.boot);
        }
        let has_room = self.flow.held_rows() == 0 && self.flow.out_rows() + turn.len() <= limit.rows;
        if has_room && !limit.others_hold {
            return Vec::new();
        }
        let passing = match express::over(self.lane) {
            Some(_) => self.flow.let_pass(turn, limit.rows),
            None => Vec::new(),
        };
        if has_room {
            return passing;
        }
        self.flow.hold_back(turn.drain(..));
        let earliest = now + self.flow.round_trip();
        self.flow.release(limit.rows, now, |ready| {
            let goes = !ready.gather.is_over() && !self.is_late(&ready, earliest);
            if goes {
                turn.push(ready);
            } else {
                self.unpublished.dec();
            }
            goes
        });
        if self.flow.held_rows() > 0 && limit.announced.is_none_or(|at| now.duration_since(at) >= HOLDING_EVERY) {
            limit.announced = Some(now);
            Peers::announce_holding(&self.shared.replies, &self.token, self.lane, self.shared.boot).await;
        }
        passing
    }

    fn window(&self, batch_rows: usize) -> usize {
        let room = Room {
            batch_rows,
            holding_apis: self.registry.peers().holding(&self.token, self.lane),
            drained_per_second: self.flow.drained_per_second(),
        };
        room.window()
    }

    /// Refuses a job that would be published in vain: its answer could not be there in time.
    fn is_late(&self, ready: &Ready, earliest: Instant) -> bool {
        if !self.shared.admission.by_deadline || earliest <= ready.deadline {
            return false;
        }
        self.shared.refused(&self.model, Refusal::Deadline);
        let retry_after = self.flow.round_trip().clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        let estimate = earliest.saturating_duration_since(ready.accepted);
        let error = JobError::DeadlineUnreachable {
            estimate_ms: estimate.as_millis() as u64,
            retry_after_ms: retry_after.as_millis() as u64,
        };
        self.shared.no_room_for(&self.model, ready.source, 1, &error);
        ready.gather.fill(ready.index, Err(error));
        true
    }

    async fn publish(self: &Arc<Self>, bundle: Vec<Ready>) {
        let mut outgoing = match self.open(bundle) {
            Ok(outgoing) => outgoing,
            Err(error) => return tracing::error!(%error, "could not encode a bundle"),
        };
        if !self.shared.publish.failed_over().await {
            // Nothing waits in the client: it would go out on reconnect, when nobody may want it any more.
            self.unpublished.sub(outgoing.ids.len() as f64);
            self.shared.metrics.queue_publish_errors_total.with(&(PublishFault::NotConnected,)).inc();
            return self.fail(&mut outgoing, &JobError::BrokerUnavailable);
        }
        let sent = self.send(&outgoing).await;
        let publisher = Arc::clone(self);
        tokio::spawn(async move {
            let rows = outgoing.ids.len();
            publisher.see_through(outgoing, sent).await;
            publisher.unpublished.sub(rows as f64);
        });
    }

    /// Registers the jobs and encodes their message.
    fn open(&self, ready: Vec<Ready>) -> Result<Outgoing, codec::CodecError> {
        let ids: Vec<JobId> = ready.iter().map(|ready| ready.job.id).collect();
        let of_requests = ready.iter().filter(|ready| ready.source == JobSource::Request).count();
        let mut jobs: Vec<Job> = Vec::with_capacity(ready.len());
        let mut deadline = Instant::now();
        let mut waiters = Vec::with_capacity(ready.len());
        let (mut spans, now) = (Publishes::default(), deadline);
        let cost = ready.iter().map(Ready::cost).sum::<u64>() / ready.len().max(1) as u64;
        let mut tickets = Vec::new();
        for Ready { mut job, gather, index, accepted, deadline: until, ticket, .. } in ready {
            deadline = deadline.max(until);
            spans.take(&mut job, &self.model, accepted, now);
            waiters.push((job.id, gather, index));
            tickets.extend(ticket);
            jobs.push(job);
        }
        let traceparent = jobs[0].trace.map(|trace| trace.to_string());
        let rows = jobs.len();
        self.bundle_rows.observe(rows as f64);
        // A message holds either jobs that pass or jobs that do not.
        let lane = if tickets.is_empty() { self.lane } else { express::over(self.lane).unwrap_or(self.lane) };
        let number = self.shared.pending.lock().open(waiters, &self.flow, cost, tickets, Instant::now());
        let newest = self.registry.wire_version(&self.token);
        let bundle = Bundle { api: self.shared.boot, number, jobs };
        let payload = codec::encode_for(&bundle, newest).inspect_err(|_| {
            spans.fail(&JobError::Internal);
            self.unpublished.sub(rows as f64);
            self.shared.pending.lock().fail(number, &ids, &JobError::Internal);
        })?;
        let left = deadline.saturating_duration_since(Instant::now());
        let subject = subjects::jobs(&self.token, lane, rows);
        let message_id = format!("{}.{number}:0", self.shared.boot);
        spans.describe(&Message { subject: &subject, id: &message_id, rows, bytes: payload.len() });
        Ok(Outgoing {
            number,
            subject,
            message_id,
            ids,
            of_requests,
            traceparent,
            // Whole seconds: the client truncates. Only garbage collection; deadlines are enforced per job.
            ttl: Duration::from_secs(left.as_secs() + 3),
            deadline,
            payload,
            spans,
        })
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<PublishAckFuture, PublishError> {
        let mut message = PublishMessage::build()
            .payload(outgoing.payload.clone())
            .message_id(&outgoing.message_id)
            .ttl(outgoing.ttl);
        if let Some(traceparent) = &outgoing.traceparent {
            message = message.header(TRACEPARENT, traceparent.as_str());
        }
        self.js.send_publish(outgoing.subject.clone(), message).await
    }

    /// Waits for the broker's acknowledgement, repeating the publish while that can help.
    async fn see_through(&self, mut outgoing: Outgoing, mut sent: Result<PublishAckFuture, PublishError>) {
        let give_up = outgoing.deadline.min(Instant::now() + DUPLICATE_WINDOW / 2);
        let mut attempt = 0;
        loop {
            let error = match sent {
                Ok(ack) => match ack.await {
                    Ok(ack) if ack.duplicate && attempt == 0 => {
                        tracing::error!(id = outgoing.message_id, "the broker took a first publish for a duplicate");
                        return self.fail(&mut outgoing, &JobError::Internal);
                    }
                    Ok(_) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let fault = unacknowledged::fault(&error);
            self.shared.metrics.queue_publish_errors_total.with(&(fault,)).inc();
            if !matches!(fault, PublishFault::Full | PublishFault::NotConnected) {
                self.shared.metrics.store_write_errors_total.with(&(StoreWrite::Publish,)).inc();
            }
            if let Next::GiveUp { may_be_stored } = unacknowledged::next(fault, attempt, Instant::now() >= give_up) {
                let refusal = self.refusal(fault);
                self.shared.no_room_for(&self.model, JobSource::Request, outgoing.of_requests, &refusal);
                self.fail(&mut outgoing, &refusal);
                if may_be_stored {
                    tracing::warn!(%error, jobs = outgoing.ids.len(), "the broker did not take a bundle in time");
                    let jobs = outgoing.ids.iter().map(|id| (outgoing.number, *id)).collect();
                    self.shared.canceller.tell(&self.token, outgoing.deadline, jobs);
                }
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            while !self.shared.publish.is_up() && Instant::now() < give_up {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            if !self.shared.pending.lock().any(outgoing.number, &outgoing.ids) {
                return;
            }
            attempt += 1;
            sent = self.send(&outgoing).await;
        }
    }

    /// What the jobs of a bundle are answered with that the broker did not take.
    fn refusal(&self, fault: PublishFault) -> JobError {
        match fault {
            PublishFault::Full => self.shared.overloaded(),
            PublishFault::TooLarge => JobError::Internal,
            PublishFault::Timeout | PublishFault::NotConnected | PublishFault::NoStream | PublishFault::Other => {
                JobError::BrokerUnavailable
            }
        }
    }

    fn fail(&self, outgoing: &mut Outgoing, error: &JobError) {
        outgoing.spans.fail(error);
        self.shared.pending.lock().fail(outgoing.number, &outgoing.ids, error);
    }
}
