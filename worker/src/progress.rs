//! Keeps deliveries alive while the engine advances, and only then.
//!
//! A worker that cannot compute must not hold work: when a step takes longer than the stall limit, no progress is
//! reported any more, everything is given back, and the process ends for its supervisor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::broker::Link;

use crate::delivery::Deliveries;
use crate::fence::GAP;
use crate::gauge::Pulse;

/// How often the engine is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) struct Progress {
    pub(crate) link: Link,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) stall_limit: Duration,
    /// The consumers' own.
    pub(crate) ack_wait: Duration,
}

impl Progress {
    /// Reports until the engine stalls; returns then, for the owner to give the work back.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(LOOK);
        let (mut reported, mut looked, mut resumed) = (Instant::now(), Instant::now(), Instant::now());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            // A step is not to blame for the time in which the whole process was stopped.
            if now.duration_since(looked) > GAP {
                resumed = now;
            }
            looked = now;
            if self.pulse.is_stalled(self.stall_limit, now) && now.duration_since(resumed) > self.stall_limit {
                return;
            }
            if now.duration_since(reported) < self.ack_wait / 3 {
                continue;
            }
            reported = now;
            if !self.link.is_up() {
                // What is said now would be heard after the reconnect, about deliveries that may be another's by then.
                continue;
            }
            for ack in self.deliveries.progress(self.link.epoch(), now) {
                let _lost = self.link.client.publish(ack, "+WPI".into()).await;
            }
        }
    }

    /// Hands everything that is still ours to other workers.
    pub(crate) async fn give_back(&self, now: Instant) {
        if !self.link.is_up() {
            return;
        }
        for ack in self.deliveries.give_back(self.link.epoch(), now) {
            let _lost = self.link.client.publish(ack, "-NAK".into()).await;
        }
        self.link.flush().await;
    }
}
