//! From messages to jobs: pure.
//!
//! The last token of a bundle's subject is its number of jobs, so the jobs in the stream are exact: the sum over the
//! stream's counts per subject. How many of them a worker holds is exact while a lane's messages are all waiting or all
//! delivered. In between, the broker counts delivered **messages** only and does not say which: then the lane's mean
//! jobs per message is taken for both, kept within what is possible (a message holds 1 to 32 jobs).

use forebay_shared::ids::Lane;
use forebay_shared::job::MAX_BUNDLE_JOBS;
use serde::Deserialize;

/// What stream and consumer info say.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub messages: u64,
    pub bytes: u64,
    /// -1 = no limit.
    pub max_messages: i64,
    pub max_bytes: i64,
    pub first_sequence: u64,
    /// When the oldest message was published, broker time.
    pub first_ms: u64,
    pub last_sequence: u64,
    /// Lane, jobs per message, messages.
    pub bundles: Vec<(Lane, u32, u64)>,
    /// By [`Lane::index`].
    pub consumers: [Consumer; 3],
}

/// One lane's consumer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Consumer {
    /// Messages delivered and not acknowledged.
    #[serde(rename = "num_ack_pending")]
    pub ack_pending: u64,
    pub ack_floor: AckFloor,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct AckFloor {
    /// Every message of the lane up to here is acknowledged.
    #[serde(rename = "stream_seq")]
    pub sequence: u64,
}

/// One lane of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneDepth {
    pub pending_jobs: u64,
    pub in_flight_jobs: u64,
    pub pending_messages: u64,
    pub in_flight_messages: u64,
    pub oldest_age_ms: u64,
}

/// The queue of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamDepth {
    /// By [`Lane::index`].
    pub lanes: [LaneDepth; 3],
    pub bytes: u64,
    pub capacity_jobs: u64,
}

impl StreamDepth {
    /// Adds another token of the same model: during a change of weights both have work.
    pub fn merge(&mut self, other: Self) {
        for (lane, other) in self.lanes.iter_mut().zip(other.lanes) {
            lane.pending_jobs += other.pending_jobs;
            lane.in_flight_jobs += other.in_flight_jobs;
            lane.pending_messages += other.pending_messages;
            lane.in_flight_messages += other.in_flight_messages;
            lane.oldest_age_ms = lane.oldest_age_ms.max(other.oldest_age_ms);
        }
        self.bytes += other.bytes;
        self.capacity_jobs += other.capacity_jobs;
    }
}

/// Depth in jobs; ages are left at 0.
pub fn depth(reading: &Reading) -> StreamDepth {
    let lanes = Lane::ALL.map(|lane| {
        let of_lane = || reading.bundles.iter().filter(|(of, _, _)| *of == lane);
        let messages: u64 = of_lane().map(|(_, _, count)| count).sum();
        let jobs: u64 = of_lane().map(|(_, rows, count)| u64::from(*rows) * count).sum();
        lane_depth(messages, jobs, reading.consumers[lane.index()].ack_pending)
    });
    StreamDepth { lanes, bytes: reading.bytes, capacity_jobs: capacity(reading) }
}

fn lane_depth(messages: u64, jobs: u64, ack_pending: u64) -> LaneDepth {
    let in_flight_messages = ack_pending.min(messages);
    let pending_messages = messages - in_flight_messages;
    let in_flight_jobs = if messages == 0 {
        0
    } else {
        let share = (u128::from(jobs) * u128::from(in_flight_messages) / u128::from(messages)) as u64;
        let most = jobs - pending_messages.min(jobs);
        let most = most.min(in_flight_messages * MAX_BUNDLE_JOBS as u64);
        share.clamp(in_flight_messages.min(most), most)
    };
    LaneDepth {
        pending_jobs: jobs - in_flight_jobs,
        in_flight_jobs,
        pending_messages,
        in_flight_messages,
        oldest_age_ms: 0,
    }
}

/// Jobs that are sure to fit, one to a message: the limit of messages, or that of bytes at the present size of a message.
fn capacity(reading: &Reading) -> u64 {
    let by_messages = u64::try_from(reading.max_messages).unwrap_or(u64::MAX);
    let mean = reading.bytes.checked_div(reading.messages).filter(|mean| *mean > 0);
    let by_bytes = match (u64::try_from(reading.max_bytes), mean) {
        (Ok(max), Some(mean)) => max / mean,
        _ => u64::MAX,
    };
    by_messages.min(by_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(bundles: Vec<(Lane, u32, u64)>, ack_pending: u64) -> Reading {
        let messages = bundles.iter().map(|(_, _, count)| count).sum();
        let mut reading = Reading { messages, bundles, max_messages: 100, max_bytes: -1, ..Reading::default() };
        reading.consumers[Lane::Normal.index()].ack_pending = ack_pending;
        reading
    }

    #[test]
    fn depth_counts_jobs_not_messages() {
        let depth = depth(&reading(vec![(Lane::Normal, 32, 10), (Lane::Normal, 1, 2), (Lane::High, 5, 1)], 0));
        assert_eq!(depth.lanes[Lane::Normal.index()].pending_jobs, 322);
        assert_eq!(depth.lanes[Lane::Normal.index()].pending_messages, 12);
        assert_eq!(depth.lanes[Lane::High.index()].pending_jobs, 5);
    }

    #[test]
    fn all_delivered_is_exact_and_half_delivered_takes_the_mean() {
        let bundles = || vec![(Lane::Normal, 32, 1), (Lane::Normal, 2, 3)];
        assert_eq!(depth(&reading(bundles(), 4)).lanes[1].in_flight_jobs, 38);
        let half = depth(&reading(bundles(), 2)).lanes[1];
        assert_eq!((half.in_flight_jobs, half.pending_jobs), (19, 19));
    }

    #[test]
    fn capacity_follows_the_tighter_limit() {
        let mut reading = reading(vec![(Lane::Normal, 1, 10)], 0);
        assert_eq!(capacity(&reading), 100);
        (reading.bytes, reading.max_bytes) = (10_000, 5_000);
        assert_eq!(capacity(&reading), 5);
    }

    proptest! {
        #[test]
        fn no_job_is_lost_or_invented_by_the_estimate(
            bundles in prop::collection::vec((1..=32u32, 0..5u64), 0..6),
            ack_pending in 0..40u64,
        ) {
            let bundles: Vec<_> = bundles.into_iter().map(|(rows, count)| (Lane::Normal, rows, count)).collect();
            let jobs: u64 = bundles.iter().map(|(_, rows, count)| u64::from(*rows) * count).sum();
            let lane = depth(&reading(bundles, ack_pending)).lanes[1];
            prop_assert_eq!(lane.pending_jobs + lane.in_flight_jobs, jobs);
            prop_assert!(lane.in_flight_jobs >= lane.in_flight_messages && lane.pending_jobs >= lane.pending_messages);
            prop_assert!(lane.in_flight_jobs <= lane.in_flight_messages * 32);
        }
    }
}
