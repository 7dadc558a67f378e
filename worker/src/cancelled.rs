//! Jobs that nobody waits for any more, as the apis tell ([`Cancel`]): skipped before they cost the device anything.
//!
//! [`CancelledJobs`] is the memory: a plain bounded set that forgets what is over. [`Cancellations`] shares it between
//! the task that hears and the threads that ask, for whom the usual answer (nothing is cancelled) is one atomic load.
//!
//! A job that is skipped is answered with `cancelled`, like every other: the answer is what lets its api acknowledge the
//! message. A cancellation that is lost costs the work, nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use async_nats::Subscriber;
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec;
use forebay_shared::ids::{BootId, JobId};
use forebay_shared::job::Cancel;
use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::delivery::Delivery;

/// Most ids that are remembered, about 8 MB; beyond it those that end first are forgotten first.
const CAPACITY: usize = 65_536;

/// One job as it travels in one bundle: what is submitted anew under the same id is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Travelling {
    job: JobId,
    api: BootId,
    bundle: u64,
}

/// The memory of cancelled jobs. Invariants: never more than `capacity`; each is forgotten at its time, not before unless
/// room is needed.
#[derive(Debug)]
struct CancelledJobs {
    until: FxHashMap<Travelling, Instant>,
    by_time: BTreeSet<(Instant, Travelling)>,
    capacity: usize,
}

impl CancelledJobs {
    fn new(capacity: usize) -> Self {
        Self { until: FxHashMap::default(), by_time: BTreeSet::new(), capacity }
    }

    /// Remembers a job until `until`, or until the latest time it was ever given.
    fn insert(&mut self, job: Travelling, until: Instant) {
        let known = self.until.get(&job).copied();
        if known.is_some_and(|known| known >= until) {
            return;
        }
        if let Some(known) = known {
            self.by_time.remove(&(known, job));
        }
        self.until.insert(job, until);
        self.by_time.insert((until, job));
        while self.until.len() > self.capacity {
            self.forget_first();
        }
    }

    fn contains(&self, job: &Travelling) -> bool {
        self.until.contains_key(job)
    }

    fn forget_what_is_over(&mut self, now: Instant) {
        while self.by_time.first().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, job)) = self.by_time.pop_first() {
            self.until.remove(&job);
        }
    }
}

/// Shared by the task that hears, the tokenisers, the quarantine and the engine's loop.
#[derive(Debug)]
pub struct Cancellations {
    jobs: Mutex<CancelledJobs>,
    /// Number of them, so that the usual question takes no lock.
    count: AtomicUsize,
    /// Grows with every message heard: whoever holds jobs looks through them again when it has changed.
    heard: AtomicU64,
}

impl Default for Cancellations {
    fn default() -> Self {
        Self { jobs: Mutex::new(CancelledJobs::new(CAPACITY)), count: AtomicUsize::new(0), heard: AtomicU64::new(0) }
    }
}

impl Cancellations {
    /// Whether nobody waits for `job` of this delivery any more. Cheap enough for every step of a generation.
    pub(crate) fn is_cancelled(&self, delivery: &Delivery, job: JobId) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.jobs.lock().contains(&Travelling { job, api: delivery.api, bundle: delivery.bundle })
    }

    /// Changes whenever something was cancelled.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    fn take(&self, cancel: Cancel, clock: &BrokerClock, now: Instant) {
        let Cancel { api, until_us, bundles } = cancel;
        let until = clock.instant(until_us);
        let mut jobs = self.jobs.lock();
        jobs.forget_what_is_over(now);
        for (bundle, ids) in bundles {
            for job in ids {
                jobs.insert(Travelling { job, api, bundle }, until);
            }
        }
        jobs.forget_what_is_over(now);
        self.count.store(jobs.until.len(), Ordering::Relaxed);
        drop(jobs);
        self.heard.fetch_add(1, Ordering::Release);
    }

    /// Hears until the connection is closed.
    pub(crate) async fn listen(&self, mut messages: Subscriber, clock: BrokerClock) {
        while let Some(message) = messages.next().await {
            match codec::decode::<Cancel>(&message.payload) {
                Ok(cancel) => self.take(cancel, &clock, Instant::now()),
                Err(error) => tracing::warn!(%error, "a cancellation cannot be read; its jobs are run"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn job(n: u8) -> Travelling {
        Travelling { job: JobId::from_bytes([n; 16]), api: BootId::from_bytes([1; 16]), bundle: 7 }
    }

    #[test]
    fn only_the_job_of_that_bundle_of_that_api_is_meant() {
        let mut jobs = CancelledJobs::new(8);
        jobs.insert(job(1), Instant::now());
        assert!(jobs.contains(&job(1)));
        assert!(!jobs.contains(&Travelling { bundle: 8, ..job(1) }), "submitted anew under the same id");
        assert!(!jobs.contains(&Travelling { api: BootId::from_bytes([2; 16]), ..job(1) }), "by another api");
    }

    #[test]
    fn a_message_cancels_its_jobs_until_their_deadline() {
        let (all, clock, now) = (Cancellations::default(), BrokerClock::from_wall_clock(), Instant::now());
        let bundles = vec![(7, vec![JobId::from_bytes([1; 16])])];
        let until_us = clock.at(now + Duration::from_secs(5));
        all.take(Cancel { api: BootId::from_bytes([1; 16]), until_us, bundles }, &clock, now);
        assert_eq!((all.count.load(Ordering::Relaxed), all.heard()), (1, 1));
        all.take(
            Cancel { api: BootId::from_bytes([1; 16]), until_us, bundles: Vec::new() },
            &clock,
            now + Duration::from_secs(6),
        );
        assert_eq!(all.count.load(Ordering::Relaxed), 0, "forgotten");
    }

    proptest! {
        /// Whatever comes in whatever order: never more than fits; while there is room nothing is forgotten before its
        /// time, and nothing stays after it.
        #[test]
        fn memory_is_bounded_and_ends_with_the_deadline(
            steps in prop::collection::vec((0u8..12, 1u64..50, 0u64..4), 1..80),
            capacity in 1usize..16,
        ) {
            let (origin, mut now_s) = (Instant::now(), 0);
            let mut jobs = CancelledJobs::new(capacity);
            let mut expected: FxHashMap<u8, u64> = FxHashMap::default();
            for (n, keep_s, pass_s) in steps {
                now_s += pass_s;
                jobs.forget_what_is_over(origin + Duration::from_secs(now_s));
                expected.retain(|_, until| *until > now_s);
                jobs.insert(job(n), origin + Duration::from_secs(now_s + keep_s));
                let until = expected.entry(n).or_default();
                *until = (*until).max(now_s + keep_s);
                prop_assert!(jobs.until.len() <= capacity);
                prop_assert_eq!(jobs.until.len(), jobs.by_time.len());
                for n in 0..12 {
                    if jobs.contains(&job(n)) {
                        prop_assert!(expected.contains_key(&n));
                    }
                }
                if capacity >= 12 {
                    prop_assert_eq!(jobs.until.len(), expected.len());
                }
            }
        }
    }
}
