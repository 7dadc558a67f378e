//! Which acknowledgements may still be sent where queues end with the broker's process (`--durability memory`).
//!
//! A queue that is made anew counts from 1 again, and the broker matches acknowledgements by that number alone: one that is meant
//! for a message of the old queue would remove a job of the new one. Hence nothing is acknowledged while the connection is lost,
//! because the client would keep it and send it after the reconnect, nor ever again what was stored before it was lost. A message
//! that is still there after all is delivered again, and the worker hears that it is done.
//!
//! Where queues are on file their numbers go on, and an acknowledgement is right whenever it comes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_shared::ack;

#[derive(Debug, Default)]
pub(super) struct Past {
    /// Queues may end with the broker's process.
    is_forgotten: AtomicBool,
    /// In broker time: when the connection was last made or lost.
    cut_us: AtomicU64,
}

impl Past {
    /// From now on this broker counts as one that forgets.
    pub(super) fn distrust(&self) {
        self.is_forgotten.store(true, Ordering::Relaxed);
    }

    /// The connection was made or lost at this broker time.
    pub(super) fn cut(&self, now_us: u64) {
        self.cut_us.store(now_us, Ordering::Relaxed);
    }

    pub(super) fn may_acknowledge(&self, ack: &str, is_up: bool) -> bool {
        if !self.is_forgotten.load(Ordering::Relaxed) {
            return true;
        }
        let cut_us = self.cut_us.load(Ordering::Relaxed);
        is_up && ack::stored_us(ack).is_some_and(|stored_us| stored_us >= cut_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a message that was stored one second into the broker's time.
    const ACK: &str = "$JS.ACK.hub.ACC.S.normal.1.10.11.1000000000.0.rnd";

    #[test]
    fn where_queues_are_on_file_every_acknowledgement_is_sent() {
        let past = Past::default();
        past.cut(2_000_000);
        assert!(past.may_acknowledge(ACK, true));
        assert!(past.may_acknowledge(ACK, false), "its number is the same after the reconnect");
    }

    #[test]
    fn where_the_broker_forgets_nothing_stored_before_the_cut_is_acknowledged() {
        let past = Past::default();
        past.distrust();
        assert!(past.may_acknowledge(ACK, true), "the connection is still the first");
        past.cut(1_000_000);
        assert!(past.may_acknowledge(ACK, true));
        past.cut(1_000_001);
        assert!(!past.may_acknowledge(ACK, true), "the number is another message's by now");
    }

    #[test]
    fn where_the_broker_forgets_nothing_waits_in_the_client_for_the_next_queue() {
        let past = Past::default();
        past.distrust();
        assert!(!past.may_acknowledge(ACK, false));
    }

    #[test]
    fn where_the_broker_forgets_what_cannot_be_dated_is_left_alone() {
        let past = Past::default();
        past.distrust();
        assert!(!past.may_acknowledge("$JS.ACK.S.normal.x", true));
    }
}
