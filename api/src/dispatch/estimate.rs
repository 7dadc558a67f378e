//! How fast a lane drains while it is limited, and whether a request can be answered in time. Pure, told the time.
//!
//! Only time in which work was held back counts: then the rate of answers is what workers can do for this api in this
//! lane, whatever other apis, lanes and tenants take. At any other time it only says how much was asked for. The wait is
//! what stands before a request, over that rate (Little's law).
//!
//! Each api measures its own share, and that is enough: because every api keeps the lanes in the broker shallow, what can
//! make a request late waits in its own api, and an api that is new or holds nothing back has nothing to refuse for.
//!
//! What keeps it from refusing everything after trouble:
//! * standing still is no rate: a gap of [`STANDSTILL`] is left out, and a rate is forgotten after [`FRESH`];
//! * nothing is refused while nothing is held back, so the first requests after a stall always go through, and measure.

use std::time::{Duration, Instant};

/// Shortest time over which a rate is taken, and fewest rows.
const INTERVAL: Duration = Duration::from_millis(250);
const INTERVAL_ROWS: u64 = 16;
/// A longer time without any answer says that something is broken, not how fast it goes when it is not.
const STANDSTILL: Duration = Duration::from_secs(5);
/// How long a rate is believed.
const FRESH: Duration = Duration::from_secs(10);
/// The estimate is of a moment; what waits takes its time, and may be somewhat slower than the moment was.
const CAUTION: f64 = 1.2;
/// Nobody is told to wait longer, whatever the rate.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Jobs answered since the start, by number and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    pub rows: u64,
    pub cost: u64,
}

/// The drain rate of one lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    last: Option<Mark>,
    /// The interval that is being measured.
    elapsed: Duration,
    sum: Answered,
    /// Limited time since the last answer.
    silent: Duration,
    rate: Option<Rate>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    answered: Answered,
    limited: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    rows_per_second: f64,
    cost_per_second: f64,
    at: Instant,
}

/// A deadline that cannot be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// When the answer could be there.
    pub estimate: Duration,
    /// When asking again with the same time-out may succeed.
    pub retry_after: Duration,
}

impl Drain {
    /// Takes note of what has been answered until `now`. `limited`: work is held back from now on.
    pub(crate) fn observe(&mut self, answered: Answered, limited: bool, now: Instant) {
        if let Some(last) = self.last.replace(Mark { at: now, answered, limited })
            && last.limited
        {
            let took = now.saturating_duration_since(last.at);
            let rows = answered.rows - last.answered.rows;
            self.elapsed += took;
            self.sum.rows += rows;
            self.sum.cost += answered.cost - last.answered.cost;
            self.silent += took;
            if self.silent > STANDSTILL {
                self.begin_again();
            } else if self.elapsed >= INTERVAL && self.sum.rows >= INTERVAL_ROWS {
                self.close(now);
            }
            if rows > 0 {
                self.silent = Duration::ZERO;
            }
        }
    }

    fn close(&mut self, now: Instant) {
        let seconds = self.elapsed.as_secs_f64();
        let (rows, cost) = (self.sum.rows as f64 / seconds, self.sum.cost as f64 / seconds);
        let before = self.rate.filter(|rate| is_fresh(rate, now));
        let mixed = |new: f64, old: Option<f64>| old.map_or(new, |old| f64::midpoint(new, old));
        self.rate = Some(Rate {
            rows_per_second: mixed(rows, before.map(|rate| rate.rows_per_second)),
            cost_per_second: mixed(cost, before.map(|rate| rate.cost_per_second)),
            at: now,
        });
        self.begin_again();
    }

    fn begin_again(&mut self) {
        (self.elapsed, self.sum) = (Duration::ZERO, Answered::default());
    }

    /// The rate when it was last measured, however long ago.
    pub(crate) fn rows_per_second(&self) -> Option<f64> {
        self.rate.map(|rate| rate.rows_per_second)
    }

    /// How long work of this cost takes; `None` = not known at present.
    pub(crate) fn time_for(&self, cost: u64, now: Instant) -> Option<Duration> {
        let rate = self.rate.filter(|rate| is_fresh(rate, now))?;
        let seconds = cost as f64 / rate.cost_per_second.max(f64::MIN_POSITIVE);
        Some(Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())))
    }

    /// Whether work that is done once `cost` has been drained can be answered within `left`.
    ///
    /// # Errors
    /// [`Unreachable`] with the estimate.
    pub(crate) fn check(&self, cost: u64, left: Duration, now: Instant) -> Result<(), Unreachable> {
        let Some(estimate) = self.time_for(cost, now) else { return Ok(()) };
        let cautious = estimate.mul_f64(CAUTION);
        if cautious <= left {
            return Ok(());
        }
        Err(Unreachable { estimate, retry_after: cautious - left })
    }
}

fn is_fresh(rate: &Rate, now: Instant) -> bool {
    now.saturating_duration_since(rate.at) < FRESH
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(50);

    /// A lane that answers `per_step` rows of cost 10 every 50 ms.
    struct Lane {
        drain: Drain,
        now: Instant,
        answered: Answered,
    }

    impl Lane {
        fn new() -> Self {
            Self { drain: Drain::default(), now: Instant::now(), answered: Answered::default() }
        }

        fn run(&mut self, steps: u32, per_step: u64, limited: bool) {
            for _ in 0..steps {
                self.drain.observe(self.answered, limited, self.now);
                self.now += STEP;
                self.answered.rows += per_step;
                self.answered.cost += per_step * 10;
            }
            self.drain.observe(self.answered, limited, self.now);
        }
    }

    #[test]
    fn the_wait_is_what_stands_before_over_the_rate() {
        let mut lane = Lane::new();
        lane.run(20, 5, true);
        assert_eq!(lane.drain.time_for(2000, lane.now), Some(2 * SECOND));
        assert_eq!(lane.drain.rows_per_second(), Some(100.0));
        assert_eq!(lane.drain.check(2000, 3 * SECOND, lane.now), Ok(()));
        let unreachable = lane.drain.check(2000, SECOND, lane.now).unwrap_err();
        assert_eq!(unreachable, Unreachable { estimate: 2 * SECOND, retry_after: Duration::from_millis(1400) });
    }

    #[test]
    fn nothing_is_refused_while_nothing_is_known() {
        let mut lane = Lane::new();
        assert_eq!(lane.drain.check(u64::MAX, STEP, lane.now), Ok(()));
        lane.run(100, 5, false);
        assert_eq!(lane.drain.check(u64::MAX, STEP, lane.now), Ok(()), "how much was asked for is no capacity");
    }

    #[test]
    fn idle_times_between_limited_ones_do_not_count() {
        let mut lane = Lane::new();
        for _ in 0..10 {
            lane.run(4, 5, true);
            lane.run(100, 0, false);
        }
        let rate = lane.drain.rows_per_second().unwrap();
        assert!((rate - 100.0).abs() < 5.0, "{rate}");
    }

    #[test]
    fn standing_still_is_no_rate() {
        let mut lane = Lane::new();
        lane.run(40, 5, true);
        lane.run(400, 0, true);
        assert_eq!(
            lane.drain.check(u64::MAX, STEP, lane.now),
            Ok(()),
            "forgotten, so that requests go through and measure"
        );
        lane.run(20, 5, true);
        assert_eq!(lane.drain.time_for(1000, lane.now), Some(SECOND), "the stall is not part of the new rate");
    }

    #[test]
    fn a_new_speed_is_known_within_a_second() {
        let mut lane = Lane::new();
        lane.run(100, 50, true);
        lane.run(20, 5, true);
        let rate = lane.drain.rows_per_second().unwrap();
        assert!((100.0..170.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_device_with_long_batches_is_measured_from_batch_to_batch() {
        let mut lane = Lane::new();
        for _ in 0..10 {
            lane.run(40, 0, true);
            lane.answered.rows += 64;
            lane.answered.cost += 640;
            lane.drain.observe(lane.answered, true, lane.now);
        }
        assert_eq!(lane.drain.rows_per_second(), Some(32.0));
    }
}
