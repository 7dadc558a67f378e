//! How slow a client may be, in either direction: a value that is told how long was waited and how much moved.
//!
//! Patience for a client starts full, is used up by waiting for it, and comes back with every byte that moves. So a
//! client may pause for as long as the patience lasts and may be slow for a while, but in the long run it moves
//! [`LEAST_BYTES_PER_SECOND`] or is given up. Only what is waited for the client counts: who holds a `Pace` reports
//! neither time in which we have nothing to send nor time in which we are busy with what came.

use std::time::Duration;

/// Slower than the slowest network that anybody works over; fast enough that a slot costs somebody who only wants to
/// hold it a lasting effort.
pub const LEAST_BYTES_PER_SECOND: u32 = 1_024;

/// One client's pace in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    patience: Duration,
    used: Duration,
}

impl Pace {
    /// For a client that may pause for `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { patience, used: Duration::ZERO }
    }

    /// How much longer it may be waited for.
    pub fn left(&self) -> Duration {
        self.patience.saturating_sub(self.used)
    }

    /// It was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.used = self.used.saturating_add(time);
    }

    /// It sent or took something. Never buys more than the patience of the beginning: who was fast may not stop for long.
    pub fn moved(&mut self, bytes: u64) {
        let bought = Duration::from_secs(bytes) / LEAST_BYTES_PER_SECOND;
        self.used = self.used.saturating_sub(bought);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// How long a client lasts that moves `bytes` after every pause, in whole pauses; `None` if for 10 000 of them.
    fn lasts(pause: Duration, bytes: u64) -> Option<u32> {
        let mut pace = Pace::new(PATIENCE);
        (0..10_000).find(|_| {
            let too_long = pause > pace.left();
            pace.waited(pause);
            pace.moved(bytes);
            too_long
        })
    }

    #[test]
    fn a_byte_now_and_then_does_not_keep_a_client() {
        assert_eq!(lasts(29 * SECOND, 1), Some(1));
        assert_eq!(lasts(SECOND, 1), Some(30));
        assert_eq!(lasts(SECOND, 512), Some(59));
    }

    #[test]
    fn a_client_at_the_least_rate_is_kept_however_it_pauses() {
        for seconds in [1, 5, 30] {
            assert_eq!(lasts(seconds * SECOND, u64::from(seconds * LEAST_BYTES_PER_SECOND)), None, "{seconds} s");
        }
    }

    #[test]
    fn a_pause_longer_than_the_patience_is_too_long_however_fast_the_client_was() {
        let mut pace = Pace::new(PATIENCE);
        pace.moved(u64::MAX);
        assert_eq!(pace.left(), PATIENCE);
    }

    proptest! {
        #[test]
        fn whoever_is_kept_moves_at_least_the_rate_but_for_the_patience(
            steps in prop::collection::vec((0_u64..40_000, 0_u64..50_000), 1..200)
        ) {
            let (mut pace, mut waited, mut moved) = (Pace::new(PATIENCE), Duration::ZERO, 0);
            for (pause_ms, bytes) in steps {
                let pause = Duration::from_millis(pause_ms);
                if pause > pace.left() {
                    break;
                }
                pace.waited(pause);
                (waited, moved) = (waited + pause, moved + bytes);
                pace.moved(bytes);
                let paid = Duration::from_secs(moved) / LEAST_BYTES_PER_SECOND;
                prop_assert!(waited <= paid + PATIENCE, "waited {waited:?} for {moved} bytes");
            }
        }
    }
}
