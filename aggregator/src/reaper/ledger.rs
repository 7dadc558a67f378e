//! Who holds what, as far as workers have said. Pure.
//!
//! A message has one holder: the worker with its latest delivery. Delivery counts only rise, so the higher one is the
//! later, in whatever order the announcements of two workers are heard.

use std::sync::Arc;

use forebay_shared::ack::AckSubject;
use forebay_shared::ids::BootId;
use rustc_hash::{FxHashMap, FxHashSet};

/// A message: its stream and its sequence there.
pub(super) type Key = (Arc<str>, u64);

/// One delivery of a message to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) key: Key,
    pub(super) delivered: u64,
    pub(super) ack: String,
}

#[derive(Debug)]
struct Holder {
    boot: BootId,
    delivered: u64,
    ack: String,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    holders: FxHashMap<Key, Holder>,
    by_boot: FxHashMap<BootId, FxHashSet<Key>>,
    /// One copy of each name.
    streams: FxHashSet<Arc<str>>,
}

impl Ledger {
    /// `boot` has taken these deliveries.
    pub(super) fn take(&mut self, boot: BootId, acks: Vec<String>) {
        for ack in acks {
            let Some(AckSubject { stream, stream_seq, delivered, .. }) = AckSubject::parse(&ack) else { continue };
            let key = (self.name(stream), stream_seq);
            if let Some(known) = self.holders.get(&key)
                && known.boot != boot
            {
                if known.delivered > delivered {
                    continue;
                }
                let former = known.boot;
                self.by_boot.get_mut(&former).map(|keys| keys.remove(&key));
            }
            self.by_boot.entry(boot).or_default().insert(key.clone());
            self.holders.insert(key, Holder { boot, delivered, ack });
        }
    }

    /// `boot` holds these deliveries and no others.
    pub(super) fn replace(&mut self, boot: BootId, acks: Vec<String>) {
        self.forget(boot);
        self.take(boot, acks);
    }

    /// `boot` holds nothing any more; returns what it held.
    pub(super) fn forget(&mut self, boot: BootId) -> Vec<Holding> {
        let keys = self.by_boot.remove(&boot).unwrap_or_default();
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(Holder { delivered, ack, .. }) = self.holders.remove(&key) {
                held.push(Holding { key, delivered, ack });
            }
        }
        held
    }

    /// Whether somebody has the message now.
    pub(super) fn is_held(&self, key: &Key) -> bool {
        self.holders.contains_key(key)
    }

    /// The messages of a stream that somebody has, in ascending order.
    pub(super) fn sequences(&self, stream: &str) -> Vec<u64> {
        let of_stream = self.holders.keys().filter(|(name, _)| &**name == stream);
        let mut sequences: Vec<u64> = of_stream.map(|(_, sequence)| *sequence).collect();
        sequences.sort_unstable();
        sequences
    }

    fn name(&mut self, stream: &str) -> Arc<str> {
        match self.streams.get(stream) {
            Some(name) => Arc::clone(name),
            None => {
                let name: Arc<str> = stream.into();
                self.streams.insert(Arc::clone(&name));
                name
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BootId = BootId::from_bytes([1; 16]);
    const B: BootId = BootId::from_bytes([2; 16]);

    fn ack(seq: u64, delivered: u64) -> String {
        format!("$JS.ACK.S.normal.{delivered}.{seq}.{}.0.0", seq + delivered)
    }

    fn held(ledger: &mut Ledger, boot: BootId) -> Vec<(u64, u64)> {
        let mut held: Vec<_> = ledger.forget(boot).into_iter().map(|held| (held.key.1, held.delivered)).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn a_full_list_replaces_what_was_announced() {
        let mut ledger = Ledger::default();
        ledger.take(A, vec![ack(1, 1), ack(2, 1)]);
        ledger.replace(A, vec![ack(2, 1), ack(3, 1)]);
        assert_eq!(held(&mut ledger, A), [(2, 1), (3, 1)]);
        assert_eq!(held(&mut ledger, A), []);
    }

    #[test]
    fn the_later_delivery_has_the_message_in_whatever_order_it_is_heard() {
        for turn in 0..2 {
            let mut ledger = Ledger::default();
            let mut words = [(A, ack(1, 1)), (B, ack(1, 2))];
            words.rotate_left(turn);
            for (boot, ack) in words {
                ledger.take(boot, vec![ack]);
            }
            assert_eq!(held(&mut ledger, A), [], "turn {turn}");
            assert_eq!(held(&mut ledger, B), [(1, 2)], "turn {turn}");
        }
    }

    #[test]
    fn what_is_no_acknowledgement_subject_is_passed_over() {
        let mut ledger = Ledger::default();
        ledger.take(A, vec!["forebay.jobs.x".to_owned(), ack(1, 1)]);
        assert_eq!(held(&mut ledger, A), [(1, 1)]);
    }
}
