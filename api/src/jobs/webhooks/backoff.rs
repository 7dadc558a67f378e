//! When a call that failed is made again.

use std::time::Duration;

/// Pause after the `attempt`th call (from 1): doubles from `min` up to `max`, and is varied by up to half either way with
/// `dice` in `0..1`, so that a receiver that comes back is not called by all at once.
pub fn pause(attempt: u32, min: Duration, max: Duration, dice: f64) -> Duration {
    let doubled = min.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(max).mul_f64(0.5 + dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(5);
    const MAX: Duration = Duration::from_secs(3_600);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u64> = (1..=12).map(|attempt| pause(attempt, MIN, MAX, 0.5).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
        assert_eq!(pause(u32::MAX, MIN, MAX, 0.5), MAX);
    }

    #[test]
    fn a_pause_varies_by_half() {
        assert_eq!(pause(1, MIN, MAX, 0.0), MIN / 2);
        assert_eq!(pause(1, MIN, MAX, 1.0), MIN * 3 / 2);
    }
}
