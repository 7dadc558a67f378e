//! Takes from the queue what this worker can carry, and no more (step ④ of the data path).
//!
//! A first delivery goes straight to the tokenisers. A redelivered one is never run on faith: its api is asked which of
//! its jobs are still wanted ([`redelivery`]), and those run apart from others, so that one bad job cannot pull its
//! neighbours down twice.
//!
//! What arrives together is taken together: booked, announced to the reapers ([`crate::herald`]), and only then worked on.
//! Behind a closed [`crate::fence`] nothing is asked for, and what still arrives is parked or dropped.
//!
//! The task owns the pull connection. It stops in two steps, so that nothing is stranded: interest is withdrawn, then
//! what had already been sent to us is given back for others at once.

mod credit;
mod pull;
mod redelivery;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use forebay_shared::ack::{self, AckSubject};
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec::{self, CodecError};
use forebay_shared::ids::{BootId, Lane, ModelToken};
use forebay_shared::job::{Bundle, Job};
use forebay_shared::planted::Bug;
use forebay_shared::shutdown::Shutdown;
use forebay_shared::subjects;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;

use crate::delivery::{Deliveries, Delivery, Taken};
use crate::fence::{Admission, Fence, LOOK};
use crate::gauge::Waiting;
use crate::herald::Herald;
use crate::prepare::Preparer;
use crate::quarantine::{MessageName, OwnDeliveries, Quarantine};
use crate::reply::ReplySender;
use crate::telemetry::ModelCounters;
use credit::Holdings;
pub(crate) use credit::Prefetch;
use pull::LanePull;
use redelivery::Attempt;

/// Re-pulls after a reconnect are spread over this, so that a fleet does not return in one wave.
const RECONNECT_SPREAD: Duration = Duration::from_millis(500);
/// Back to the queue, for a later try.
const TRY_AGAIN: &str = r#"-NAK {"delay":2000000000}"#;
/// How soon a lost connection is looked at again.
const DOWN_PAUSE: Duration = Duration::from_millis(100);
/// Pause after the broker refused a request: the consumer is gone, or its leader.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Most messages taken in one turn.
const TURN: usize = 64;

/// Messages that are remembered as our own; see [`OwnDeliveries`].
const OWN_DELIVERIES: usize = 4_096;

/// What the intake needs to know and where it delivers.
pub(crate) struct Intake {
    pub(crate) link: Link,
    /// Where answers leave; without it no work is taken.
    pub(crate) replies: Link,
    pub(crate) clock: BrokerClock,
    pub(crate) boot: BootId,
    pub(crate) token: ModelToken,
    pub(crate) prefetch: Prefetch,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) preparer: Preparer,
    /// Where jobs that cannot go back any more are answered.
    pub(crate) results: ReplySender,
    pub(crate) counters: Arc<ModelCounters>,
    pub(crate) fence: Arc<Mutex<Fence>>,
    pub(crate) herald: Arc<Herald>,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// A delivery that is booked and not yet worked on.
struct Accepted {
    delivery: Arc<Delivery>,
    jobs: Vec<Job>,
    attempt: Attempt,
}

/// The task's own state.
struct Pulling {
    lanes: [LanePull; 3],
    backlog: [u64; 3],
    /// No request before this.
    not_before: Instant,
    /// Read behind a closed fence, over the connection that there is.
    parked: Vec<Message>,
    /// Tells messages that only this process has had.
    own: OwnDeliveries,
}

impl Intake {
    /// Runs until `stop` fires and what was in flight to us has been given back.
    ///
    /// # Errors
    /// The broker refused the subscription.
    pub(crate) async fn run(self: Arc<Self>, mut stop: Shutdown) -> anyhow::Result<()> {
        let inbox = format!("{}.jobs", self.link.inbox());
        let mut messages = self.link.client.subscribe(format!("{inbox}.>")).await?;
        let mut epochs = self.link.epochs();
        epochs.borrow_and_update();
        let mut pulling = Pulling {
            lanes: Lane::ALL.map(|lane| LanePull::new(&self.token, lane, &inbox)),
            backlog: [0; 3],
            not_before: Instant::now(),
            parked: Vec::new(),
            own: OwnDeliveries::new(OWN_DELIVERIES),
        };
        loop {
            self.look(&inbox).await?;
            let wake = self.pull(&mut pulling).await?;
            tokio::select! {
                biased;
                () = stop.fired() => break,
                changed = epochs.changed() => {
                    changed?;
                    // Requests of the old connection are void, and what it knew of the queue is old.
                    pulling.lanes.iter_mut().for_each(LanePull::forget);
                    pulling.backlog = [0; 3];
                    pulling.parked.clear();
                    pulling.not_before = Instant::now() + RECONNECT_SPREAD.mul_f64(self.jitter());
                }
                message = messages.next() => match message {
                    Some(message) => self.on_turn(message, &mut messages, &inbox, &mut pulling).await,
                    None => anyhow::bail!("the connection to the broker is closed"),
                },
                () = self.waiting.room() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.withdraw(messages).await;
        Ok(())
    }

    /// A number in 0..1 that differs between workers.
    fn jitter(&self) -> f64 {
        f64::from(self.boot.as_bytes()[0]) / 256.0
    }

    /// Opens the requests that the credit allows; returns when to look again if nothing happens.
    async fn pull(&self, pulling: &mut Pulling) -> anyhow::Result<Instant> {
        let now = Instant::now();
        if now < pulling.not_before {
            return Ok(pulling.not_before);
        }
        // Asked now, it would be heard after the reconnect, twice; and what cannot be answered is better left to others.
        if !self.link.is_up() || !self.replies.is_up() || self.fence.lock().is_closed() {
            return Ok(now + DOWN_PAUSE);
        }
        // Marked before the counts are read: room made after this reading wakes us.
        self.waiting.mark_starved();
        let (waiting_rows, waiting_tokens) = self.waiting.snapshot();
        for lane in &pulling.lanes {
            if lane.is_unanswered(now) {
                pulling.backlog[lane.lane().index()] = 0;
            }
        }
        let holdings = Holdings { waiting_rows, waiting_tokens, backlog: pulling.backlog };
        let mut wake = now + LOOK;
        for lane in &mut pulling.lanes {
            if !lane.is_open(now) {
                lane.forget();
                let messages = self.prefetch.messages(lane.lane(), &holdings);
                if messages > 0 {
                    lane.ask(&self.link.client, messages, now).await?;
                }
            }
            wake = lane.lost_at().map_or(wake, |lost| wake.min(lost));
        }
        Ok(wake)
    }

    /// Notices a stop of this process or a new connection, and asks the broker for the end of what came before it.
    async fn look(&self, inbox: &str) -> anyhow::Result<()> {
        let question = {
            let (mut fence, now) = (self.fence.lock(), Instant::now());
            fence.look(self.link.epoch(), now);
            if self.link.is_up() { fence.question(now) } else { None }
        };
        if let Some(number) = question {
            let (subject, reply) = pull::fence_question(self.boot, inbox, number);
            self.link.client.publish_with_reply(subject, reply, "".into()).await?;
        }
        Ok(())
    }

    /// Takes in what has arrived, starting with `first`.
    async fn on_turn(self: &Arc<Self>, first: Message, messages: &mut Subscriber, inbox: &str, pulling: &mut Pulling) {
        let mut turn = vec![first];
        while turn.len() < TURN
            && let Some(Some(message)) = messages.next().now_or_never()
        {
            turn.push(message);
        }
        // Once more after the last was read: whatever stopped us before this point is seen.
        self.fence.lock().look(self.link.epoch(), Instant::now());
        let mut accepted = Vec::new();
        for message in turn {
            self.on_message(message, inbox, pulling, &mut accepted);
        }
        if accepted.is_empty() {
            return;
        }
        self.herald.taken(accepted.iter().map(|taken| taken.delivery.ack.clone()).collect()).await;
        for taken in accepted {
            self.begin(taken);
        }
    }

    fn on_message(&self, message: Message, inbox: &str, pulling: &mut Pulling, accepted: &mut Vec<Accepted>) {
        // A delivery keeps the subject it was published on; only the end of a request comes under our inbox.
        if let Some((lane, _rows)) = subjects::parse_jobs(&message.subject)
            && let Some(pending) = message.reply.as_deref().and_then(AckSubject::parse).map(|ack| ack.pending)
        {
            pulling.lanes[lane.index()].delivered(Instant::now());
            pulling.backlog[lane.index()] = pending;
            let admission = self.fence.lock().admit();
            match admission {
                Admission::Take(since) => accepted.extend(self.take_in(message, lane, since, &mut pulling.own)),
                Admission::Park => pulling.parked.push(message),
                Admission::Drop => tracing::debug!("dropped a delivery of an earlier connection"),
            }
            return;
        }
        if let Some(number) = pull::parse_echo(&message.subject, inbox) {
            let since = self.fence.lock().echoed(number);
            return self.unpark(since, pulling, accepted);
        }
        let Some((lane, number)) = pull::parse_inbox(&message.subject, inbox) else {
            return tracing::debug!(subject = %message.subject, "unexpected message");
        };
        pulling.lanes[lane.index()].ended(number);
        pulling.backlog[lane.index()] = 0;
        match message.status.map(|status| status.as_u16()) {
            None | Some(404 | 408) => {}
            status => {
                tracing::debug!(?status, description = ?message.description, "request refused");
                pulling.not_before = Instant::now() + REFUSED_PAUSE;
            }
        }
    }

    /// The fence has opened on the connection that it was closed on: what waited is ours `since` then, or was.
    fn unpark(&self, since: Option<Instant>, pulling: &mut Pulling, accepted: &mut Vec<Accepted>) {
        let Some(since) = since else { return };
        let parked = std::mem::take(&mut pulling.parked);
        tracing::info!(deliveries = parked.len(), "this process did not run for a while; its connection lives");
        for message in parked {
            if let Some((lane, _rows)) = subjects::parse_jobs(&message.subject) {
                accepted.extend(self.take_in(message, lane, since, &mut pulling.own));
            }
        }
    }

    /// Decodes and books a delivery that was lent `since` then at the earliest.
    fn take_in(&self, message: Message, lane: Lane, since: Instant, own: &mut OwnDeliveries) -> Option<Accepted> {
        let ack = message.reply?;
        let info = AckSubject::parse(&ack)?;
        // Whether nobody else was ever handed this message.
        let stored_us = ack::stored_us(&ack).unwrap_or_default();
        let only_ours = own.note(MessageName { lane, stream_seq: info.stream_seq, stored_us }, info.delivered);
        // Before it is read: what cannot be read would be given back, out of the hands of whoever has it now.
        if self.deliveries.lease_over(since, Instant::now()) {
            return None;
        }
        let bundle: Bundle = match codec::decode(&message.payload) {
            Ok(bundle) => bundle,
            Err(error) => {
                self.refuse(&ack, &error);
                return None;
            }
        };
        if Bug::AckBeforeAnswer.is_planted() {
            let (client, ack) = (self.link.client.clone(), ack.clone());
            tokio::spawn(async move { client.publish(ack, "+ACK".into()).await });
        }
        let taken = Taken {
            api: bundle.api,
            bundle: bundle.number,
            ack: ack.to_string(),
            lane,
            wire: codec::version_of(&message.payload),
            delivered: info.delivered,
            consumer_seq: info.consumer_seq,
            epoch: self.link.epoch(),
            jobs: bundle.jobs.len(),
        };
        let delivery = self.deliveries.take(taken, since);
        // Counts against the credit from here on, also while its api is being asked.
        self.waiting.add(delivery.lane, bundle.jobs.len(), estimate(&bundle.jobs));
        let attempt = Attempt { delivered: info.delivered, only_ours };
        Some(Accepted { delivery, jobs: bundle.jobs, attempt })
    }

    /// Sends the jobs of a delivery on their way.
    fn begin(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { delivery, jobs, attempt } = accepted;
        if attempt.delivered == 1 {
            self.preparer.prepare(delivery, jobs, None);
        } else {
            self.counters.redelivered.inc_by(jobs.len() as u64);
            let intake = Arc::clone(self);
            tokio::spawn(async move { intake.on_redelivery(delivery, jobs, attempt).await });
        }
    }

    /// Gives credit back for jobs that are not run here.
    fn release(&self, lane: Lane, jobs: &[Job]) {
        self.waiting.remove(lane, jobs.len(), estimate(jobs));
        self.waiting.announce_room();
    }

    /// A message that cannot be read.
    fn refuse(&self, ack: &str, error: &CodecError) {
        // Never terminated: a newer process may understand it, and what nobody can read ends by its deadline.
        tracing::error!(%error, "a bundle cannot be read; it goes back for another worker");
        let (client, ack) = (self.link.client.clone(), ack.to_owned());
        tokio::spawn(async move {
            let _lost = client.publish(ack, TRY_AGAIN.into()).await;
        });
    }

    /// Gives back what was on its way to us when we stopped asking.
    async fn withdraw(&self, mut messages: Subscriber) {
        // The broker forgets our requests with our interest. What it had sent before is mostly here already; a message that
        // crosses the withdrawal comes round after `ack_wait`.
        if messages.drain().await.is_err() {
            return;
        }
        self.link.flush().await;
        while let Some(message) = messages.next().await {
            let is_open = self.fence.lock().is_open(self.link.epoch(), Instant::now());
            if let Some(ack) = message.reply.filter(|ack| is_open && AckSubject::parse(ack).is_some()) {
                let _lost = self.link.client.publish(ack, "-NAK".into()).await;
            }
        }
        self.link.flush().await;
    }
}

fn estimate(jobs: &[Job]) -> usize {
    jobs.iter().map(|job| estimated_tokens(job.input.len_bytes())).sum()
}

/// A guess until the tokeniser has spoken: English text has about four bytes per token.
pub(crate) fn estimated_tokens(bytes: usize) -> usize {
    bytes / 4 + 2
}
