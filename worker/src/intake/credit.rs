//! How much a worker asks the queue for. Pure.
//!
//! A worker holds what it runs and one prefetched batch, no more: what it holds is what is delayed when it dies. Each
//! lane has at most one request open. A lane may ask while
//! - less than one batch waits here and no higher lane has a backlog in the queue, or
//! - less than its weighted minimum (8 : 3 : 1 of a batch) of its own waits here, so that a lower lane progresses
//!   under endless higher work; or
//! - it is `high` and less than a batch of `high` waits: only `high` keeps a request open while a full batch waits.

use forebay_shared::ids::Lane;

/// Messages that one request asks for.
const PULL_MESSAGES: u32 = 2;
const WEIGHTS: [usize; 3] = [8, 3, 1];

/// What waits in this worker and, as far as the last delivery told, in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Rows per lane that were taken in and have not started.
    pub waiting_rows: [usize; 3],
    /// Tokens of those rows.
    pub waiting_tokens: usize,
    /// Messages per lane still in the queue.
    pub backlog: [u64; 3],
}

/// One batch of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefetch {
    pub max_rows: usize,
    pub max_tokens: usize,
}

impl Prefetch {
    /// Number of messages to ask for in `lane`; 0 = not now.
    pub(crate) fn messages(&self, lane: Lane, holdings: &Holdings) -> u32 {
        let own = holdings.waiting_rows[lane.index()];
        let room =
            holdings.waiting_rows.iter().sum::<usize>() < self.max_rows && holdings.waiting_tokens < self.max_tokens;
        let higher_backlog = holdings.backlog[..lane.index()].iter().any(|messages| *messages > 0);
        let minimum = (self.max_rows * WEIGHTS[lane.index()]).div_ceil(WEIGHTS.iter().sum());
        match lane {
            Lane::High if own < self.max_rows => PULL_MESSAGES,
            _ if room && !higher_backlog => PULL_MESSAGES,
            _ if own < minimum && holdings.waiting_tokens < 2 * self.max_tokens => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Prefetch = Prefetch { max_rows: 12, max_tokens: 1000 };

    fn waiting(rows: [usize; 3], backlog: [u64; 3]) -> Holdings {
        Holdings { waiting_rows: rows, waiting_tokens: rows.iter().sum(), backlog }
    }

    #[test]
    fn an_idle_worker_asks_in_every_lane() {
        for lane in Lane::ALL {
            assert_eq!(BATCH.messages(lane, &Holdings::default()), PULL_MESSAGES);
        }
    }

    #[test]
    fn only_high_asks_while_a_full_batch_waits() {
        let holdings = waiting([0, 12, 1], [0, 0, 0]);
        assert_eq!(Lane::ALL.map(|lane| BATCH.messages(lane, &holdings)), [PULL_MESSAGES, 0, 0]);
        assert_eq!(BATCH.messages(Lane::High, &waiting([12, 0, 0], [9, 0, 0])), 0);
    }

    #[test]
    fn a_lower_lane_keeps_its_minimum_under_endless_higher_work() {
        let holdings = waiting([12, 0, 0], [1000, 1000, 1000]);
        assert_eq!(BATCH.messages(Lane::Normal, &holdings), 1);
        assert_eq!(BATCH.messages(Lane::Low, &holdings), 1);
        assert_eq!(BATCH.messages(Lane::Low, &waiting([12, 0, 1], [1000, 0, 0])), 0, "its minimum of 12 rows is 1");
    }

    #[test]
    fn a_lower_lane_does_not_fill_the_room_that_higher_work_waits_for() {
        assert_eq!(BATCH.messages(Lane::Low, &waiting([0, 0, 1], [0, 5, 0])), 0);
        assert_eq!(BATCH.messages(Lane::Low, &waiting([0, 0, 1], [0, 0, 5])), PULL_MESSAGES);
    }

    #[test]
    fn long_inputs_count_by_their_tokens() {
        let holdings = Holdings { waiting_rows: [0, 2, 0], waiting_tokens: 2000, backlog: [0; 3] };
        assert_eq!(BATCH.messages(Lane::Normal, &holdings), 0);
    }
}
