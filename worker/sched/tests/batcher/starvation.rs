//! More work than the device can take, in the sizes that hurt most.

use std::time::Instant;

use forebay_sched::{BatchLimits, Batcher, Lane, LaneWeights, QueuedJob};
use proptest::prelude::*;

use super::model::Model;
use super::{Id, batcher, job, poll};

const MAX_TOKENS: usize = 64;

/// Tiny jobs, which close batches by rows; whole batches; and what leaves a gap that only a tiny one fits.
fn hard_size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..=2_usize, 1 => 30..=34_usize, 2 => MAX_TOKENS - 2..=MAX_TOKENS]
}

/// What arrives between two batches.
fn arrivals() -> impl Strategy<Value = Vec<(Lane, usize, bool)>> {
    let lane = prop_oneof![5 => Just(Lane::High), 2 => Just(Lane::Normal), 1 => Just(Lane::Low)];
    prop::collection::vec((lane, hard_size(), prop::bool::weighted(0.05)), 0..8)
}

#[test]
fn filling_room_that_nobody_else_can_use_is_not_held_against_a_lane() {
    let now = Instant::now();
    let limits = BatchLimits { max_tokens: MAX_TOKENS, max_overtakes: 0, ..BatchLimits::default() };
    let sized = |id, lane, tokens| QueuedJob { lane, tokens, ..job(id, now) };
    // First the high lane leaves a gap in every other batch, which the low lane fills; then it leaves none.
    let gaps = (0..400).map(|id| sized(id, Lane::High, if id % 2 == 0 { 1 } else { MAX_TOKENS }));
    let high = gaps.chain((400..900).map(|id| sized(id, Lane::High, MAX_TOKENS)));
    let low = (1000..1400).map(|id| sized(id, Lane::Low, MAX_TOKENS - 1));
    let mut batcher = batcher(limits.clone(), high.chain(low));
    let (mut unserved, mut longest) = (0, 0);
    for _ in 0..800 {
        let served = poll(&mut batcher, now).jobs.iter().any(|job| job.lane == Lane::Low);
        unserved = if served { 0 } else { unserved + 1 };
        longest = longest.max(unserved);
    }
    assert!(longest <= limits.starvation_bound(Lane::Low), "waited for {longest} batches");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lane_waits_longer_than_its_bound(
        max_rows in 1..=16_usize,
        max_overtakes in 0..4_u32,
        [high, normal, low] in prop_oneof![Just([8, 3, 1]), [1..60_u8, 1..12_u8, 1..4_u8]],
        rounds in prop::collection::vec(arrivals(), 1..300),
    ) {
        let now = Instant::now();
        let lane_weights = LaneWeights { high, normal, low };
        let limits =
            BatchLimits { max_tokens: MAX_TOKENS, max_rows, max_overtakes, lane_weights, ..BatchLimits::default() };
        let (mut batcher, mut model) = (Batcher::new(limits.clone()), Model::new(limits.clone()));
        let mut waiting = [0_usize; 3];
        let mut unserved = [0_u32; 3];
        let mut next: Id = 0;
        for round in rounds {
            for (lane, tokens, isolated) in round {
                let job = QueuedJob { lane, tokens, isolated, ..job(next, now) };
                next += 1;
                waiting[lane as usize] += 1;
                model.push(job.clone());
                batcher.push(job).expect("fits");
            }
            let Some(batch) = batcher.poll(now) else { continue };
            model.check_batch(&batch, now);
            for lane in Lane::ALL {
                let (waiting, unserved) = (&mut waiting[lane as usize], &mut unserved[lane as usize]);
                let served = batch.jobs.iter().filter(|job| job.lane == lane).count();
                *unserved = if served > 0 || *waiting == 0 { 0 } else { *unserved + 1 };
                *waiting -= served;
                prop_assert!(*unserved <= limits.starvation_bound(lane), "{:?} waited for {} batches", lane, unserved);
            }
        }
    }
}
