//! Takes work from the queue and keeps it while it is worked on.
//!
//! A place is taken before a message is asked for, so that what this process holds is what it runs (and a few parts whose
//! model nobody serves at the moment). While it works it reports progress; when it stops it gives back what it holds.
//! Neither an acknowledgement nor a report of a process that has lost its lease does harm: a message is acknowledged only
//! when its effect is in the bucket.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{AckKind, Message};
use forebay_shared::codec::{self, Wire};
use forebay_shared::shutdown::Shutdown;
use forebay_shared::streams::{Durable, Queue};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::begun::{Begun, MAX_STARTS};
use super::execute::Place;
use super::line::Skip;
use super::part::{Part, Step};
use super::records::StoreError;
use super::{BatchError, Batches, starts_of};

/// Parts that one api runs at once.
pub const PARTS_AT_ONCE: usize = 4;
/// Parts that one api holds, those included that wait for a worker of their model.
const PARTS_HELD: usize = 32;
/// Batches that one api splits at once.
const STEPS_AT_ONCE: usize = 2;
/// Longest time that a part is put off because its tenant holds as many as it may.
const PUT_OFF_AT_MOST: i64 = 60;
/// How often progress is reported and the record is looked at; well below the shortest `ack_wait`.
const LOOK: Duration = Duration::from_secs(1);
/// How long a request for work stays with the broker.
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// What failed for a reason of ours is given back for this long.
const GIVEN_BACK_FOR: Duration = Duration::from_secs(2);
/// What there is no room for is given back for about this long.
const FULL_FOR: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Batches {
    /// Works until `shutdown`, then gives back what it holds.
    ///
    /// # Errors
    /// The queue cannot be opened.
    pub async fn work(self: Arc<Self>, shutdown: Shutdown) -> anyhow::Result<()> {
        let stream = self.stores.queue(Queue::Parts).await?;
        let parts = self.stores.consumer(&stream, &Durable::BatchParts).await?;
        let steps = self.stores.consumer(&stream, &Durable::BatchSteps).await?;
        let (places, held) = (Arc::new(Semaphore::new(PARTS_AT_ONCE)), Arc::new(Semaphore::new(PARTS_HELD)));
        let on_part = |message: Message, mut permits: Permits| {
            let (batches, shutdown) = (Arc::clone(&self), shutdown.clone());
            let begun = Arc::new(Begun::new(Arc::clone(&self)));
            let place = Place::new(Arc::clone(&places), permits.pop(), Arc::clone(&begun));
            async move {
                give_back_on(shutdown, &message, &begun, batches.on_part(&message, place, &begun)).await;
                drop(permits);
            }
        };
        let on_step = |message: Message, permits: Permits| {
            let (batches, shutdown) = (Arc::clone(&self), shutdown.clone());
            async move {
                let begun = Begun::new(Arc::clone(&batches));
                give_back_on(shutdown, &message, &begun, batches.on_step(&message, &begun)).await;
                drop(permits);
            }
        };
        let splits = Arc::new(Semaphore::new(STEPS_AT_ONCE));
        let (for_parts, for_steps) = ([&held, &places], [&splits]);
        tokio::join!(
            take(&parts, &for_parts, shutdown.clone(), on_part),
            take(&steps, &for_steps, shutdown.clone(), on_step),
            self.repair_now_and_then(shutdown.clone()),
        );
        Ok(())
    }

    async fn on_part(self: &Arc<Self>, message: &Message, place: Place, begun: &Begun) {
        let Some(part) = read::<Part>(message).await else { return };
        let Some(_at_work) = AtWork::begin(self, part.message_id()) else { return };
        let Some(_held) = self.hold(&part.tenant) else {
            let pause = Duration::from_secs(deliveries(message).clamp(1, PUT_OFF_AT_MOST).unsigned_abs());
            let _comes_back_by_itself = message.ack_with(AckKind::Nak(Some(pause))).await;
            return;
        };
        match begun.count(message, format!("{}{}", starts_of(&part.batch), part.number)).await {
            Ok(..=MAX_STARTS) => {}
            Ok(_) => {
                tracing::error!(batch = part.batch, part = part.number, "a part was begun too often; its lines fail");
                return settle(message, begun, self.write_off(&part, &place).await).await;
            }
            Err(error) => return settle(message, begun, Err(error.into())).await,
        }
        let part = Arc::new(part);
        let (stop, stopped) = watch::channel(self.should_stop(&part).await.unwrap_or_default());
        tokio::select! {
            done = self.run_part(Arc::clone(&part), place, stopped) => settle(message, begun, done).await,
            () = self.keep_part(message, &part, &stop) => {}
        }
    }

    /// Reports progress and watches the record; never ends.
    async fn keep_part(&self, message: &Message, part: &Part, stop: &watch::Sender<Option<Skip>>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let _next_time = message.ack_with(AckKind::Progress).await;
            if let Ok(reason @ Some(_)) = self.should_stop(part).await {
                stop.send_if_modified(|now| {
                    let is_first = now.is_none();
                    *now = now.or(reason);
                    is_first
                });
            }
        }
    }

    async fn on_step(self: &Arc<Self>, message: &Message, begun: &Begun) {
        let Some(step) = read::<Step>(message).await else { return };
        let Some(_at_work) = AtWork::begin(self, step.message_id()) else { return };
        match begun.count(message, format!("{}split", starts_of(&step.batch))).await {
            Ok(..=MAX_STARTS) => {}
            Ok(_) => return settle(message, begun, self.give_up(&step.tenant, &step.batch).await).await,
            Err(error) => return settle(message, begun, Err(error.into())).await,
        }
        tokio::select! {
            done = self.split(&step) => settle(message, begun, done).await,
            () = keep(message) => {}
        }
    }
}

/// That a message is being worked on here. A second delivery of it, after a lost lease, is left to the first: the broker
/// knows a message by its sequence, so what the first reports counts for both.
struct AtWork {
    batches: Arc<Batches>,
    id: String,
}

impl AtWork {
    fn begin(batches: &Arc<Batches>, id: String) -> Option<Self> {
        batches.at_work.lock().insert(id.clone()).then(|| Self { batches: Arc::clone(batches), id })
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.batches.at_work.lock().remove(&self.id);
    }
}

async fn keep(message: &Message) {
    loop {
        tokio::time::sleep(LOOK).await;
        let _next_time = message.ack_with(AckKind::Progress).await;
    }
}

/// One of each kind of place.
type Permits = Vec<OwnedSemaphorePermit>;

/// Asks for one message whenever there is a place of every kind for it, until `shutdown`.
async fn take<F: Future<Output = ()> + Send + 'static>(
    consumer: &Consumer<pull::Config>,
    places: &[&Arc<Semaphore>],
    mut shutdown: Shutdown,
    work: impl Fn(Message, Permits) -> F,
) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let next = async {
            let mut permits = Permits::with_capacity(places.len());
            for kind in places {
                permits.push(Arc::clone(kind).acquire_owned().await.ok()?);
            }
            Some((pull(consumer).await?, permits))
        };
        tokio::select! {
            next = next => {
                if let Some((message, permits)) = next {
                    tasks.spawn(work(message, permits));
                }
            }
            () = shutdown.fired() => break,
        }
    }
    // Each gives back what it holds when it sees the same signal.
    while tasks.join_next().await.is_some() {}
}

async fn pull(consumer: &Consumer<pull::Config>) -> Option<Message> {
    let asked = consumer.batch().max_messages(1).expires(PULL_EXPIRES).messages().await;
    let next = match asked {
        Ok(mut messages) => messages.next().await?.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match next {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!(%error, "cannot ask for parts of batches");
            tokio::time::sleep(RETRY_PAUSE).await;
            None
        }
    }
}

/// Works on a message; if the process is asked to stop before that is done, somebody else shall have it at once.
async fn give_back_on(mut shutdown: Shutdown, message: &Message, begun: &Begun, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = shutdown.fired() => {
            begun.withdraw().await;
            let _comes_back_by_itself = message.ack_with(AckKind::Nak(None)).await;
        }
    }
}

async fn settle(message: &Message, begun: &Begun, done: Result<(), BatchError>) {
    let kind = match done {
        Ok(()) | Err(BatchError::Gone) => AckKind::Ack,
        Err(error) => {
            tracing::warn!(%error, "a part of a batch is given back to the queue");
            begun.withdraw().await;
            let is_full = matches!(error, BatchError::Store(StoreError::Full(_)));
            // Parts that came back together do not return together.
            let pause = if is_full { FULL_FOR.mul_f64(rand::random_range(0.75..1.25)) } else { GIVEN_BACK_FOR };
            AckKind::Nak(Some(pause))
        }
    };
    // What is lost here comes back and finds that it is done.
    let _lost = message.ack_with(kind).await;
}

/// A message that cannot be read is given back for a process that can.
async fn read<T: Wire>(message: &Message) -> Option<T> {
    match codec::decode(&message.payload) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "a part of a batch cannot be read; is another version running?");
            let _comes_back_by_itself = message.ack_with(AckKind::Nak(Some(Duration::from_secs(30)))).await;
            None
        }
    }
}

fn deliveries(message: &Message) -> i64 {
    message.info().map_or(0, |info| info.delivered)
}
