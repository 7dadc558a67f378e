//! How much one api may have out in one lane. Pure.
//!
//! Two batches per live worker keep every worker busy: one runs, one waits beside it. They are shared by the apis that hold
//! work back there; an api that holds nothing back is not limited anyway. Where batches are so short that the way
//! through the broker takes longer than they do, two would leave workers idle: then the window is what was drained in
//! [`ENOUGH`], so that it grows as long as more being out means more being answered. Fewer jobs out never mean less
//! throughput for longer than that takes; more jobs out mean that somebody else waits behind them.

use std::time::Duration;

const BATCHES_PER_WORKER: usize = 2;
/// Work for this long may be out, whatever a batch is.
const ENOUGH: Duration = Duration::from_millis(20);
/// While nobody has said how large its batches are.
const UNKNOWN_ROWS: usize = 1024;

/// What decides about the window of one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Rows that all live workers run at once; 0 = unknown.
    pub batch_rows: usize,
    /// Apis that hold work back in this lane, this one included.
    pub holding_apis: usize,
    /// Rows per second that this api was answered in this lane while it was limited; `None` = not measured.
    pub drained_per_second: Option<f64>,
}

impl Room {
    /// Most rows that may be published and unanswered.
    pub(crate) fn window(&self) -> usize {
        let batches = match self.batch_rows {
            0 => UNKNOWN_ROWS,
            rows => rows.saturating_mul(BATCHES_PER_WORKER),
        };
        let enough = self.drained_per_second.unwrap_or(0.0) * ENOUGH.as_secs_f64();
        batches.div_ceil(self.holding_apis.max(1)).max(enough as usize).max(1)
    }
}

/// What may be out before more is published: releasing a row for every answer would make messages of one row each.
pub(crate) const fn low_water(window: usize) -> usize {
    window - window / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { batch_rows: 128, holding_apis: 1, drained_per_second: None };

    #[test]
    fn two_batches_per_worker_are_shared_by_the_apis_that_hold_work_back() {
        assert_eq!(ROOM.window(), 256);
        assert_eq!(Room { holding_apis: 3, ..ROOM }.window(), 86);
        assert_eq!(Room { batch_rows: 0, ..ROOM }.window(), UNKNOWN_ROWS, "generous while nothing is known");
        assert_eq!(Room { batch_rows: 1, holding_apis: 9, ..ROOM }.window(), 1, "never nothing");
    }

    #[test]
    fn short_batches_get_as_much_as_is_drained_in_a_moment() {
        assert_eq!(Room { drained_per_second: Some(40_000.0), ..ROOM }.window(), 800);
        assert_eq!(Room { drained_per_second: Some(100.0), ..ROOM }.window(), 256);
    }

    #[test]
    fn more_is_published_when_a_quarter_is_free() {
        assert_eq!((low_water(256), low_water(4), low_water(1)), (192, 3, 1));
    }
}
