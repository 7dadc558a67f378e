//! How fast jobs are being answered, for an honest `Retry-After` when too many wait. Over all models and lanes, as the
//! bound on what may wait is; what a single lane can do is [`super::estimate`].

use std::time::{Duration, Instant};

use super::{MAX_RETRY_AFTER, MIN_RETRY_AFTER};

const WINDOW: Duration = Duration::from_secs(2);

/// Answers per second over the last two windows. Told the time; keeps no history beyond that.
#[derive(Debug)]
pub(crate) struct DrainRate {
    window_start: Instant,
    count: u64,
    per_second: Option<f64>,
}

impl DrainRate {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window_start: now, count: 0, per_second: None }
    }

    pub(crate) fn answered(&mut self, jobs: u64, now: Instant) {
        self.roll(now);
        self.count += jobs;
    }

    /// How long it takes until `jobs` have been answered at the present rate; the longest wait while nothing is.
    pub(crate) fn time_to_drain(&mut self, jobs: usize, now: Instant) -> Duration {
        self.roll(now);
        match self.per_second {
            Some(rate) if rate > 0.0 => {
                Duration::from_secs_f64((jobs as f64 / rate).min(MAX_RETRY_AFTER.as_secs_f64())).max(MIN_RETRY_AFTER)
            }
            Some(_) => MAX_RETRY_AFTER,
            None => Duration::from_secs(1),
        }
    }

    fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.window_start);
        if elapsed >= WINDOW {
            let rate = self.count as f64 / elapsed.as_secs_f64();
            self.per_second = Some(self.per_second.map_or(rate, |before| (before + rate) / 2.0));
            (self.window_start, self.count) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_wait_is_the_backlog_over_the_rate() {
        let start = Instant::now();
        let mut rate = DrainRate::new(start);
        rate.answered(200, start + SECOND);
        let wait = rate.time_to_drain(500, start + 2 * SECOND);
        assert_eq!(wait, 5 * SECOND);
    }

    #[test]
    fn nothing_measured_yet_is_a_second_and_a_stand_still_the_longest_wait() {
        let start = Instant::now();
        let mut rate = DrainRate::new(start);
        assert_eq!(rate.time_to_drain(500, start), SECOND);
        assert_eq!(rate.time_to_drain(500, start + 4 * SECOND), MAX_RETRY_AFTER);
    }
}
