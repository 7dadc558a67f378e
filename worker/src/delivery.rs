//! What this worker holds of the queue: one [`Delivery`] per message taken in, until all its jobs are answered.
//!
//! The broker matches acknowledgements by stream sequence alone, so a stale one would remove somebody else's delivery.
//! Hence the **fence**: a delivery is ours only within the connection it came over (its epoch) and until its lease ends
//! (`ack_wait` after the delivery or the last progress report), and not while this process may have been stopped (see
//! [`crate::fence`]). Past any of these, this worker sends no nak, ack or progress for it. Answers are always safe to
//! send: the api takes the first for each job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_shared::ids::{BootId, Lane};
use forebay_shared::streams;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::fence::Fence;

/// A lease is given up this much before the broker's end of it, for the time a message needs to get there.
const LEASE_MARGIN: Duration = Duration::from_millis(250);

/// Whether a message in its delivery number `delivered` may still be given back for a later try: the one that the broker
/// delivers last must be answered.
pub(crate) fn may_return(delivered: u64) -> bool {
    delivered + 1 < streams::MAX_DELIVER.unsigned_abs()
}

/// One message that was delivered to this worker.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) api: BootId,
    pub(crate) bundle: u64,
    pub(crate) ack: String,
    pub(crate) lane: Lane,
    /// Version of the bundle: its answers are written in the same.
    pub(crate) wire: u8,
    /// How often the message was delivered, this time included.
    pub(crate) delivered: u64,
    key: (Lane, u64),
    epoch: u64,
    fence: Arc<Mutex<Fence>>,
    taken: Instant,
    /// How long the broker lends it, less the time a message needs to get there.
    lease: Duration,
    /// Milliseconds after `taken` at which the lease ends.
    lease_ms: AtomicU64,
    jobs_left: AtomicUsize,
}

/// What identifies a message just taken in.
#[derive(Debug)]
pub(crate) struct Taken {
    pub api: BootId,
    pub bundle: u64,
    pub ack: String,
    pub lane: Lane,
    pub wire: u8,
    pub delivered: u64,
    pub consumer_seq: u64,
    pub epoch: u64,
    pub jobs: usize,
}

impl Delivery {
    fn new(taken: Taken, fence: Arc<Mutex<Fence>>, lease: Duration, since: Instant) -> Self {
        let Taken { api, bundle, ack, lane, wire, delivered, consumer_seq, epoch, jobs } = taken;
        Self {
            api,
            bundle,
            ack,
            lane,
            wire,
            delivered,
            key: (lane, consumer_seq),
            epoch,
            fence,
            taken: since,
            lease,
            lease_ms: AtomicU64::new(lease.as_millis() as u64),
            jobs_left: AtomicUsize::new(jobs),
        }
    }

    /// Whether the broker still takes our word for this delivery.
    pub(crate) fn is_ours(&self, epoch: u64, now: Instant) -> bool {
        self.epoch == epoch && !self.lease_over(now) && self.fence.lock().is_open(epoch, now)
    }

    /// It is not ours, and will not be again: its lease is over, or its connection is gone. What else keeps it from being
    /// ours passes as soon as the fence opens.
    pub(crate) fn is_lost(&self, epoch: u64, now: Instant) -> bool {
        self.epoch != epoch || self.lease_over(now)
    }

    /// By now the broker has handed the message to somebody else.
    pub(crate) fn lease_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.taken).as_millis() as u64 >= self.lease_ms.load(Ordering::Relaxed)
    }

    fn extend(&self, now: Instant) {
        let lease = now.saturating_duration_since(self.taken) + self.lease;
        self.lease_ms.store(lease.as_millis() as u64, Ordering::Relaxed);
    }
}

/// All deliveries of this worker.
#[derive(Debug)]
pub struct Deliveries {
    held: Mutex<FxHashMap<(Lane, u64), Arc<Delivery>>>,
    fence: Arc<Mutex<Fence>>,
    lease: Duration,
}

impl Deliveries {
    /// `ack_wait`: the consumers' own, see [`forebay_shared::streams::ack_wait`].
    pub(crate) fn new(ack_wait: Duration, fence: Arc<Mutex<Fence>>) -> Self {
        Self { held: Mutex::default(), fence, lease: ack_wait.saturating_sub(LEASE_MARGIN) }
    }

    /// Whether what was lent at `since` has gone to somebody else by now.
    pub(crate) fn lease_over(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.lease
    }

    /// `since`: the broker lent it then, or later.
    pub(crate) fn take(&self, taken: Taken, since: Instant) -> Arc<Delivery> {
        let delivery = Arc::new(Delivery::new(taken, Arc::clone(&self.fence), self.lease, since));
        self.held.lock().insert(delivery.key, Arc::clone(&delivery));
        delivery
    }

    /// `jobs` of the delivery were answered (or given up); it is forgotten with the last.
    pub(crate) fn finished(&self, delivery: &Delivery, jobs: usize) {
        let before = delivery.jobs_left.fetch_sub(jobs, Ordering::Relaxed);
        if before <= jobs {
            let mut held = self.held.lock();
            // A broker that was restarted counts anew: the number may be another delivery's by now.
            if held.get(&delivery.key).is_some_and(|known| std::ptr::eq(&raw const **known, delivery)) {
                held.remove(&delivery.key);
            }
        }
    }

    /// Subjects on which to report progress; extends their leases.
    pub(crate) fn progress(&self, epoch: u64, now: Instant) -> Vec<String> {
        let held = self.held.lock();
        let ours = held.values().filter(|delivery| delivery.is_ours(epoch, now));
        ours.map(|delivery| {
            delivery.extend(now);
            delivery.ack.clone()
        })
        .collect()
    }

    /// Acknowledgement subjects of everything that is ours.
    pub(crate) fn ours(&self, epoch: u64, now: Instant) -> Vec<String> {
        let held = self.held.lock();
        held.values().filter(|delivery| delivery.is_ours(epoch, now)).map(|delivery| delivery.ack.clone()).collect()
    }

    /// Subjects on which to give back everything that is still ours.
    pub(crate) fn give_back(&self, epoch: u64, now: Instant) -> Vec<String> {
        let held = std::mem::take(&mut *self.held.lock());
        held.values().filter(|delivery| delivery.is_ours(epoch, now)).map(|delivery| delivery.ack.clone()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(consumer_seq: u64, epoch: u64, jobs: usize) -> Taken {
        let ack = format!("ack-{consumer_seq}");
        Taken {
            api: BootId::from_bytes([1; 16]),
            bundle: 1,
            ack,
            lane: Lane::Normal,
            wire: 2,
            delivered: 1,
            consumer_seq,
            epoch,
            jobs,
        }
    }

    /// Deliveries, and a clock that somebody looks at.
    struct Bench {
        deliveries: Deliveries,
        fence: Arc<Mutex<Fence>>,
        origin: Instant,
    }

    impl Bench {
        fn new(epoch: u64) -> Self {
            let origin = Instant::now();
            let fence = Arc::new(Mutex::new(Fence::new(epoch, origin)));
            Self { deliveries: Deliveries::new(Duration::from_secs(5), Arc::clone(&fence)), fence, origin }
        }

        /// The time `seconds` after the beginning, with the process running all the while.
        fn at(&self, seconds: u64) -> Instant {
            let now = self.origin + Duration::from_secs(seconds);
            *self.fence.lock() = Fence::new(2, now);
            now
        }
    }

    #[test]
    fn a_delivery_is_held_until_its_last_job_is_answered() {
        let Bench { deliveries, .. } = Bench::new(2);
        let delivery = deliveries.take(taken(1, 1, 3), Instant::now());
        deliveries.finished(&delivery, 2);
        assert!(!deliveries.is_empty());
        deliveries.finished(&delivery, 1);
        assert!(deliveries.is_empty());
    }

    #[test]
    fn the_end_of_an_old_delivery_leaves_the_new_one_of_the_same_number() {
        let Bench { deliveries, .. } = Bench::new(2);
        let old = deliveries.take(taken(1, 1, 1), Instant::now());
        let new = deliveries.take(taken(1, 3, 1), Instant::now());
        deliveries.finished(&old, 1);
        assert!(!deliveries.is_empty());
        deliveries.finished(&new, 1);
        assert!(deliveries.is_empty());
    }

    #[test]
    fn nothing_is_said_for_a_delivery_whose_lease_is_over() {
        let bench = Bench::new(2);
        let deliveries = &bench.deliveries;
        deliveries.take(taken(1, 2, 1), bench.at(0));
        assert_eq!(deliveries.progress(2, bench.at(4)), ["ack-1"]);
        assert_eq!(deliveries.progress(2, bench.at(8)), ["ack-1"], "extended by the last report");
        assert!(deliveries.progress(2, bench.at(14)).is_empty());
        assert!(deliveries.give_back(2, bench.at(14)).is_empty());
    }

    #[test]
    fn nothing_is_said_after_a_stop_until_the_fence_opens_again() {
        let bench = Bench::new(2);
        let deliveries = &bench.deliveries;
        deliveries.take(taken(1, 2, 1), bench.at(0));
        let later = bench.origin + Duration::from_secs(3);
        assert!(deliveries.progress(2, later).is_empty(), "nobody has looked for three seconds");
        bench.fence.lock().look(2, later);
        assert!(deliveries.ours(2, later).is_empty());
        bench.fence.lock().echoed(1);
        assert_eq!(deliveries.ours(2, later), ["ack-1"]);
    }

    #[test]
    fn a_stop_loses_nothing_before_the_lease_is_over() {
        let bench = Bench::new(2);
        let delivery = bench.deliveries.take(taken(1, 2, 1), bench.at(0));
        let after = |seconds| bench.origin + Duration::from_secs(seconds);
        assert!(!delivery.is_ours(2, after(3)) && !delivery.is_lost(2, after(3)));
        assert!(delivery.is_lost(2, after(5)), "another has it");
        assert!(delivery.is_lost(3, after(1)), "it came over another connection");
    }

    #[test]
    fn nothing_is_said_for_a_delivery_of_an_earlier_connection() {
        let bench = Bench::new(2);
        let (deliveries, now) = (&bench.deliveries, bench.at(0));
        deliveries.take(taken(1, 1, 1), now);
        deliveries.take(taken(2, 2, 1), now);
        assert_eq!(deliveries.give_back(2, now), ["ack-2"]);
    }
}
