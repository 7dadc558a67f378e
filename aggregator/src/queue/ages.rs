//! How long a lane's oldest message has waited, from what info tells: pure, told the time.
//!
//! The broker gives a time for the stream's first message only; reading one message per lane would show an aggregator
//! the customers' inputs. So the age of a lane that does not hold the first message is an upper bound: its oldest
//! message is younger than the stream's first, came after the lane was last seen empty, and came after the poll at
//! which everything in the stream was at or below what the lane has acknowledged. Under steady traffic the bound is
//! about a second wide.

use std::collections::VecDeque;

use super::depth::{Reading, StreamDepth};
use crate::merge::Millis;

/// Polls remembered, one a second.
const REMEMBERED: usize = 3_600;

/// Ages of one stream's lanes.
#[derive(Debug, Default)]
pub struct LaneAges {
    /// Time of a poll and the last sequence then.
    polls: VecDeque<(Millis, u64)>,
    /// When each lane was last seen empty.
    empty: [Option<Millis>; 3],
}

impl LaneAges {
    /// Age in milliseconds of the oldest message of each lane, 0 where it is empty.
    pub fn observe(&mut self, reading: &Reading, depth: &StreamDepth, now: Millis) -> [Millis; 3] {
        let holds = depth.lanes.map(|lane| lane.pending_messages + lane.in_flight_messages > 0);
        let alone = holds.iter().filter(|holds| **holds).count() == 1;
        let ages = std::array::from_fn(|lane| {
            if !holds[lane] {
                self.empty[lane] = Some(now);
                return 0;
            }
            let mut earliest = reading.first_ms;
            if !alone {
                let acknowledged = reading.consumers[lane].ack_floor.sequence;
                let passed = self.polls.partition_point(|(_, last)| *last <= acknowledged);
                let after = passed.checked_sub(1).map(|index| self.polls[index].0);
                earliest = earliest.max(self.empty[lane].unwrap_or(0)).max(after.unwrap_or(0));
            }
            now.saturating_sub(earliest)
        });
        self.polls.push_back((now, reading.last_sequence));
        if self.polls.len() > REMEMBERED {
            self.polls.pop_front();
        }
        ages
    }
}

#[cfg(test)]
mod tests {
    use forebay_shared::ids::Lane;

    use super::super::depth::{AckFloor, Consumer, depth};
    use super::*;

    fn reading(lanes: &[Lane], first_ms: Millis, last: u64, low_acknowledged: u64) -> Reading {
        let mut reading = Reading { first_ms, last_sequence: last, ..Reading::default() };
        reading.bundles = lanes.iter().map(|lane| (*lane, 1, 1)).collect();
        let ack_floor = AckFloor { sequence: low_acknowledged };
        reading.consumers[Lane::Low.index()] = Consumer { ack_pending: 0, ack_floor };
        reading
    }

    fn observe(ages: &mut LaneAges, reading: &Reading, now: Millis) -> [Millis; 3] {
        ages.observe(reading, &depth(reading), now)
    }

    #[test]
    fn the_only_lane_that_holds_something_is_exact() {
        let mut ages = LaneAges::default();
        assert_eq!(observe(&mut ages, &reading(&[Lane::Low], 4_000, 9, 0), 10_000), [0, 0, 6_000]);
    }

    #[test]
    fn a_lane_is_not_older_than_its_last_emptiness() {
        let mut ages = LaneAges::default();
        observe(&mut ages, &reading(&[Lane::High], 1_000, 5, 0), 9_000);
        let [high, _, low] = observe(&mut ages, &reading(&[Lane::High, Lane::Low], 1_000, 6, 0), 10_000);
        assert_eq!((high, low), (9_000, 1_000));
    }

    #[test]
    fn what_is_acknowledged_bounds_what_is_left() {
        let mut ages = LaneAges::default();
        for (second, last) in [(1, 10), (2, 20), (3, 30)] {
            observe(&mut ages, &reading(&[Lane::High, Lane::Low], 500, last, 0), second * 1_000);
        }
        // Low has acknowledged up to 25: its oldest came after the poll at which 20 was the last.
        let [_, _, low] = observe(&mut ages, &reading(&[Lane::High, Lane::Low], 500, 40, 25), 4_000);
        assert_eq!(low, 2_000);
    }
}
