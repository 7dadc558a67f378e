//! One rate, as a bucket that fills steadily: `governor`'s, told the time instead of reading it.
//!
//! What a request really used is known after it was let in. The difference is owed, or to the good, and comes into the
//! reckoning of the requests after it: over time exactly the rate is used, whatever the estimates were. One request may
//! be larger than the bucket; it is let in when the bucket is full, and the rest is owed.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// A rate and how much may come at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: NonZeroU32,
}

impl Rate {
    /// The share that one of `apis` has of `units` every `seconds`, which may come all at once. At least 1 unit can.
    pub fn share(units: f64, seconds: f64, apis: usize) -> Self {
        let units = units / apis.max(1) as f64;
        // A float becomes the nearest integer that there is.
        let burst = NonZeroU32::new(units.ceil() as u32).unwrap_or(NonZeroU32::MIN);
        Self { per_second: units / seconds, burst }
    }

    /// How long the bucket takes to gain one unit.
    fn period(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(Duration::MAX).max(Duration::from_nanos(1))
    }
}

/// What a client is told of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Most that it can hold.
    pub limit: u32,
    pub remaining: u32,
    /// Until it is full again.
    pub reset: Duration,
}

/// See the module.
pub struct Bucket {
    rate: Rate,
    limiter: RateLimiter<NotKeyed, InMemoryState, ToldClock, StateInformationMiddleware>,
    clock: ToldClock,
    origin: Instant,
    /// What was there, and when that was known.
    seen: (u32, Instant),
    /// Used beyond what was taken; below 0 = taken and not used.
    owed: i64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let clock = ToldClock::default();
        let quota = Quota::with_period(rate.period()).unwrap_or(Quota::per_second(rate.burst)).allow_burst(rate.burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        Self { rate, limiter, clock, origin: now, seen: (rate.burst.get(), now), owed: 0 }
    }

    /// One of another rate that is as full as this one, in proportion, and owes the same.
    pub fn at_rate(&self, rate: Rate, now: Instant) -> Self {
        let limit = self.rate.burst.get();
        // Without what is owed: that is taken over as it is, below.
        let used = u64::from(limit - self.filled(now)) * u64::from(rate.burst.get()) / u64::from(limit);
        let mut other = Self::new(rate, now);
        if let Some(used) = NonZeroU32::new(used as u32) {
            let _there_is_as_much = other.check(used, now);
        }
        other.correct(self.owed);
        other
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes so many units, or says how long to wait for them.
    ///
    /// # Errors
    /// The wait, from `now`.
    pub fn take(&mut self, units: u32, now: Instant) -> Result<(), Duration> {
        while let Some(owed) = self.at_most_burst(self.owed) {
            self.check(owed, now)?;
            self.owed -= i64::from(owed.get());
        }
        let needed = i64::from(units) + self.owed;
        if let Some(part) = self.at_most_burst(needed) {
            self.check(part, now)?;
            self.owed = needed - i64::from(part.get());
        } else {
            self.owed = needed;
        }
        Ok(())
    }

    /// So many more units were used than were taken, or fewer if below 0. To the good is at most one burst: the bucket
    /// fills meanwhile, and who was given back a lot over hours must not use it all in a second.
    pub fn correct(&mut self, more: i64) {
        self.owed = self.owed.saturating_add(more).max(-i64::from(self.rate.burst.get()));
    }

    pub fn level(&self, now: Instant) -> Level {
        let limit = self.rate.burst.get();
        let remaining = u32::try_from(i64::from(self.filled(now)) - self.owed.max(0)).unwrap_or(0);
        let missing = u64::from(limit - remaining);
        Level { limit, remaining, reset: Duration::from_secs_f64(missing as f64 / self.rate.per_second) }
    }

    /// What the bucket holds, whatever is owed.
    fn filled(&self, now: Instant) -> u32 {
        let (remaining, at) = self.seen;
        let gained = now.saturating_duration_since(at).as_secs_f64() * self.rate.per_second;
        remaining.saturating_add(gained as u32).min(self.rate.burst.get())
    }

    /// `units`, as far as one check can ask for them; `None` if there is nothing to ask for.
    fn at_most_burst(&self, units: i64) -> Option<NonZeroU32> {
        let units = units.min(i64::from(self.rate.burst.get()));
        u32::try_from(units).ok().and_then(NonZeroU32::new)
    }

    fn check(&mut self, units: NonZeroU32, now: Instant) -> Result<(), Duration> {
        self.clock.set(now.saturating_duration_since(self.origin));
        match self.limiter.check_n(units) {
            Ok(Ok(state)) => {
                self.seen = (state.remaining_burst_capacity(), now);
                Ok(())
            }
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            // Nobody asks for more than the burst.
            Err(_) => Err(self.rate.period()),
        }
    }
}

/// Time since the bucket's origin, as it was told last.
#[derive(Debug, Clone, Default)]
struct ToldClock(Arc<AtomicU64>);

impl ToldClock {
    fn set(&self, since: Duration) {
        self.0.store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate { per_second, burst: NonZeroU32::new(burst).unwrap() }
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 3), start);
        assert_eq!((0..4).map(|_| bucket.take(1, start).is_ok()).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.level(start), Level { limit: 3, remaining: 0, reset: Duration::from_millis(300) });
        assert_eq!(bucket.take(1, start + SECOND / 10), Ok(()));
        assert!(bucket.take(1, start + SECOND / 10).is_err());
        assert_eq!(bucket.level(start + 2 * SECOND).remaining, 3);
    }

    #[test]
    fn what_was_estimated_too_low_is_paid_by_those_who_come_after() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 100), start);
        bucket.take(10, start).unwrap();
        bucket.correct(90);
        assert_eq!(bucket.level(start).remaining, 0);
        assert_eq!(bucket.take(10, start), Err(SECOND));
        assert_eq!(bucket.take(10, start + SECOND), Ok(()));
    }

    #[test]
    fn what_was_estimated_too_high_is_to_the_good() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1.0, 100), start);
        bucket.take(100, start).unwrap();
        assert!(bucket.take(50, start).is_err());
        bucket.correct(-60);
        assert_eq!((bucket.take(50, start), bucket.take(10, start)), (Ok(()), Ok(())));
        assert!(bucket.take(1, start).is_err());
    }

    #[test]
    fn a_request_larger_than_the_bucket_takes_a_full_one_and_owes_the_rest() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 10), start);
        assert_eq!(bucket.take(25, start), Ok(()));
        assert!(bucket.take(1, start + SECOND).is_err(), "15 are owed, 10 have come");
        assert_eq!(bucket.take(1, start + 2 * SECOND), Ok(()));
    }

    #[test]
    fn another_rate_does_not_fill_the_bucket() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 100), start);
        bucket.take(90, start).unwrap();
        let mut half = bucket.at_rate(rate(5.0, 50), start);
        assert_eq!(half.level(start).remaining, 5);
        assert!(half.take(6, start).is_err());
        assert_eq!(half.take(5, start), Ok(()));
    }

    #[test]
    fn another_rate_does_not_count_a_debt_twice() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 100), start);
        bucket.take(10, start).unwrap();
        bucket.correct(40);
        let half = bucket.at_rate(rate(5.0, 50), start);
        assert_eq!((bucket.level(start).remaining, half.level(start).remaining), (50, 5), "45 are there, 40 are owed");
        assert_eq!(half.at_rate(rate(10.0, 100), start).level(start).remaining, 50);
    }

    #[test]
    fn no_more_than_a_burst_is_to_the_good() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10.0, 20), start);
        for second in 0..100 {
            bucket.take(10, start + second * SECOND).unwrap();
        }
        // All of it fails in the end.
        (0..100).for_each(|_| bucket.correct(-10));
        let later = start + 1_000 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.take(1, later).is_ok()).count(), 40, "a full bucket, and as much again");
    }

    #[test]
    fn the_shares_of_all_apis_are_the_whole() {
        assert_eq!(Rate::share(50.0, 1.0, 2), rate(25.0, 25));
        assert_eq!(Rate::share(0.5, 1.0, 4), rate(0.125, 1));
        assert_eq!(Rate::share(1_000.0, 60.0, 1).burst.get(), 1_000);
    }

    proptest! {
        /// Whatever is asked for and corrected, what is used stays within the burst and the rate, one request aside.
        #[test]
        fn over_time_no_more_than_the_rate_is_used(
            steps in prop::collection::vec((0u64..3_000, 1u32..40, -20i64..60), 1..100)
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut used) = (Bucket::new(rate(10.0, 20), start), start, 0i64);
            for (pause_ms, units, more) in steps {
                now += Duration::from_millis(pause_ms);
                let before = used;
                if bucket.take(units, now).is_ok() {
                    let allowed = 20.0 + 10.0 * now.duration_since(start).as_secs_f64();
                    prop_assert!(before as f64 <= allowed + 1.0, "{before} used, {allowed} allowed");
                    let more = more.max(-i64::from(units));
                    bucket.correct(more);
                    used += i64::from(units) + more;
                }
                let level = bucket.level(now);
                prop_assert!(level.remaining <= level.limit);
            }
        }

        /// Within any window no more is used than the rate brings, beside a full bucket and a burst to the good.
        #[test]
        fn in_no_window_more_than_two_bursts_and_the_rate_are_used(
            steps in prop::collection::vec((0u64..3_000, 1u32..20, 0.0f64..1.0), 1..100)
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut uses) = (Bucket::new(rate(10.0, 20), start), start, Vec::new());
            for (pause_ms, units, kept) in steps {
                now += Duration::from_millis(pause_ms);
                if bucket.take(units, now).is_ok() {
                    let used = (f64::from(units) * kept) as u32;
                    bucket.correct(i64::from(used) - i64::from(units));
                    uses.push((now, used));
                }
            }
            for first in 0..uses.len() {
                let mut sum = 0;
                for (at, used) in &uses[first..] {
                    sum += used;
                    let allowed = 40.0 + 10.0 * at.duration_since(uses[first].0).as_secs_f64();
                    prop_assert!(f64::from(sum) <= allowed + 1.0, "{sum} used, {allowed} allowed");
                }
            }
        }
    }
}
