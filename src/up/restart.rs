//! When a process that ended is started again. A value that is told the time; `keeper` acts on it.
//!
//! running --ends--> wait 0, 0.2 s, 0.4 s … 10 s --> running
//!                   └ third end before the system was ready once --> give up
//!
//! Giving up belongs to the start only: a model file that cannot be read will not get better, and whoever typed the
//! command is there to read why. Once the system has served, somebody depends on it, so trying goes on.

use std::time::{Duration, Instant};

/// A process that ran for this long was healthy: what ends it now has nothing to do with what ended it before.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Ends before the system was ready once, after which starting fails.
pub const START_ATTEMPTS: u32 = 3;

/// One process' history.
#[derive(Debug, Default)]
pub struct Restarts {
    ends_in_a_row: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    RestartAfter(Duration),
    GiveUp,
}

impl Restarts {
    /// The process started at `started` ended at `now`. `settled`: the whole system has been ready once.
    pub fn ended(&mut self, started: Instant, now: Instant, settled: bool) -> Verdict {
        if settled && now.duration_since(started) >= HEALTHY_AFTER {
            self.ends_in_a_row = 0;
        }
        self.ends_in_a_row += 1;
        if !settled && self.ends_in_a_row >= START_ATTEMPTS {
            return Verdict::GiveUp;
        }
        Verdict::RestartAfter(match self.ends_in_a_row {
            1 => Duration::ZERO,
            n => FIRST_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LONGEST_DELAY),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Ends after `ran`, once the system has been ready.
    fn end(restarts: &mut Restarts, ran: Duration) -> Verdict {
        let started = Instant::now();
        restarts.ended(started, started + ran, true)
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_next_ones_wait_twice_as_long_each() {
        let mut restarts = Restarts::default();
        let delays: Vec<_> = (0..9).map(|_| end(&mut restarts, MS)).collect();
        let expected = [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(delays, expected.map(|ms| Verdict::RestartAfter(MS * ms)));
    }

    #[test]
    fn thirty_healthy_seconds_forget_what_was_before() {
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            end(&mut restarts, MS);
        }
        assert_eq!(end(&mut restarts, HEALTHY_AFTER - MS), Verdict::RestartAfter(MS * 3200));
        assert_eq!(end(&mut restarts, HEALTHY_AFTER), Verdict::RestartAfter(Duration::ZERO));
    }

    #[test]
    fn a_process_that_ends_three_times_during_start_is_given_up_however_long_it_takes() {
        for ran in [MS, HEALTHY_AFTER * 2] {
            let mut restarts = Restarts::default();
            let started = Instant::now();
            let verdicts: Vec<_> = (0..3).map(|_| restarts.ended(started, started + ran, false)).collect();
            let after = |ms| Verdict::RestartAfter(MS * ms);
            assert_eq!(verdicts, [after(0), after(200), Verdict::GiveUp]);
        }
    }

    #[test]
    fn a_process_that_served_is_never_given_up() {
        let mut restarts = Restarts::default();
        assert!((0..10_000).all(|_| end(&mut restarts, MS) != Verdict::GiveUp));
    }
}
