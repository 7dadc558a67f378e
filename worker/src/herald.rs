//! Says what this worker holds (step ④): the deliveries just taken, before anything is computed, and all of them every
//! second. A reaper that hears nothing more gives them to others at once.
//!
//! It is said over the connection that the deliveries come over: who hears it knows that this connection lives. Messages
//! are numbered in the order in which they leave, and a full list holds all that was announced before it.

use std::sync::Arc;
use std::time::Instant;

use forebay_shared::broker::Link;
use forebay_shared::codec;
use forebay_shared::ids::{BootId, ModelToken, ProcessName};
use forebay_shared::job::{HELD_INTERVAL, Held};
use forebay_shared::subjects;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use crate::delivery::Deliveries;
use crate::fence::{Fence, LOOK};

/// Full lists are this many looks apart.
const LOOKS_PER_LIST: u64 = (HELD_INTERVAL.as_millis() / LOOK.as_millis()) as u64;

pub(crate) struct Herald {
    pub(crate) boot: BootId,
    pub(crate) process: ProcessName,
    pub(crate) token: ModelToken,
    pub(crate) link: Link,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) fence: Arc<Mutex<Fence>>,
    /// Number of the next message; `None` after the goodbye. Held while a message is handed over, so that they leave in
    /// the order of their numbers.
    pub(crate) next: tokio::sync::Mutex<Option<u64>>,
}

/// What a message says.
enum Saying {
    Taken(Vec<String>),
    All,
    Goodbye,
}

impl Herald {
    /// Looks at the fence and says everything once a second, until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0u64.. {
            ticks.tick().await;
            self.fence.lock().look(self.link.epoch(), Instant::now());
            if number.is_multiple_of(LOOKS_PER_LIST) {
                self.say(Saying::All).await;
            }
        }
    }

    /// Deliveries that [`Deliveries`] has just taken.
    pub(crate) async fn taken(&self, acks: Vec<String>) {
        self.say(Saying::Taken(acks)).await;
    }

    /// The last word: nothing of ours needs to be given back by others.
    pub(crate) async fn goodbye(&self) {
        self.say(Saying::Goodbye).await;
        self.link.flush().await;
    }

    async fn say(&self, saying: Saying) {
        let mut next = self.next.lock().await;
        let (epoch, now) = (self.link.epoch(), Instant::now());
        let Some(number) = *next else { return };
        // What is handed over while the broker is away would be heard much later, about another epoch.
        if !self.link.is_up() {
            return;
        }
        let (full, goodbye, acks) = match saying {
            Saying::Taken(acks) => (false, false, acks),
            // Behind a closed fence nobody knows what is still ours: a sign of life, and no more.
            Saying::All if !self.fence.lock().is_open(epoch, now) => (false, false, Vec::new()),
            Saying::All => (true, false, self.deliveries.ours(epoch, now)),
            Saying::Goodbye => (true, true, Vec::new()),
        };
        let (boot, process, token) = (self.boot, self.process.clone(), self.token.clone());
        let held = Held { boot, process, token, epoch, number, full, goodbye, acks };
        *next = (!goodbye).then_some(number + 1);
        match codec::encode(&held) {
            Ok(payload) => drop(self.link.client.publish(subjects::held(self.boot), payload).await),
            Err(error) => tracing::error!(%error, "could not encode what is held"),
        }
    }
}
