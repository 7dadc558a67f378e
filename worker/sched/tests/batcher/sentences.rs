//! One promise at a time.

use std::time::{Duration, Instant};

use forebay_sched::{BatchLimits, Batcher, CloseReason, Lane, LaneWeights, LimitsError, QueuedJob, Rejected};

use super::{MS, batcher, ids, job, limits, poll};

fn delayed(max_delay: Duration) -> BatchLimits {
    BatchLimits { max_delay, ..limits() }
}

#[test]
fn an_empty_batcher_has_nothing_to_do() {
    let now = Instant::now(); // arbitrary origin; only differences matter
    let mut batcher = batcher(limits(), []);
    assert_eq!((batcher.poll(now), batcher.next_deadline(), batcher.next_expiry()), (None, None, None));
    assert!(batcher.is_empty() && batcher.drain().is_empty() && batcher.take_expired(now).is_empty());
}

#[test]
fn what_waits_leaves_as_soon_as_the_device_is_free() {
    let start = Instant::now();
    let mut batcher = batcher(limits(), [job(1, start), job(2, start)]);
    assert_eq!(batcher.next_deadline(), Some(start));
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.tokens, batch.reason), (vec![1, 2], 20, CloseReason::DeviceIdle));
    assert!(batcher.is_empty());
}

#[test]
fn a_lone_job_leaves_exactly_at_max_delay() {
    let start = Instant::now();
    let mut batcher = batcher(delayed(MS * 4), [job(1, start)]);
    assert_eq!(batcher.next_deadline(), Some(start + MS * 4));
    assert_eq!(batcher.poll(start + MS * 3), None);
    let batch = poll(&mut batcher, start + MS * 4);
    assert_eq!((ids(&batch.jobs), batch.reason), (vec![1], CloseReason::MaxDelay));
}

#[test]
fn company_does_not_restart_the_wait() {
    let start = Instant::now();
    let mut batcher = batcher(delayed(MS * 4), [job(1, start), job(2, start + MS * 3)]);
    assert_eq!(batcher.next_deadline(), Some(start + MS * 4));
    assert_eq!(ids(&poll(&mut batcher, start + MS * 4).jobs), [1, 2]);
}

#[test]
fn a_batch_full_of_rows_does_not_wait() {
    let start = Instant::now();
    let mut batcher = batcher(delayed(MS * 4), (0..5).map(|id| job(id, start)));
    assert_eq!(batcher.next_deadline(), Some(start));
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.reason), (vec![0, 1, 2, 3], CloseReason::Full));
    assert_eq!(batcher.poll(start), None, "the fifth waits for company again");
}

#[test]
fn a_batch_full_of_tokens_does_not_wait() {
    let start = Instant::now();
    let mut batcher = batcher(delayed(MS * 4), (0..3).map(|id| QueuedJob { tokens: 50, ..job(id, start) }));
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.tokens, batch.reason), (vec![0, 1], 100, CloseReason::Tokens));
}

#[test]
fn a_job_does_not_wait_for_company_past_its_deadline() {
    let start = Instant::now();
    let limits = BatchLimits { deadline_margin: MS, ..delayed(MS * 40) };
    let mut batcher = batcher(limits, [QueuedJob { deadline: start + MS * 6, ..job(1, start) }]);
    assert_eq!(batcher.next_deadline(), Some(start + MS * 5));
    assert_eq!(batcher.poll(start + MS * 4), None);
    assert_eq!(poll(&mut batcher, start + MS * 5).reason, CloseReason::Deadline);
}

#[test]
fn a_job_without_time_to_spare_leaves_at_once() {
    let start = Instant::now();
    let limits = BatchLimits { deadline_margin: MS * 10, ..delayed(MS * 40) };
    let mut batcher = batcher(limits, [QueuedJob { deadline: start + MS * 6, ..job(1, start) }]);
    assert_eq!(poll(&mut batcher, start).reason, CloseReason::Deadline);
}

#[test]
fn an_expired_job_is_handed_out_and_never_run() {
    let start = Instant::now();
    let mut batcher = batcher(limits(), [QueuedJob { deadline: start + MS, ..job(1, start) }]);
    assert_eq!(batcher.next_expiry(), Some(start + MS));
    assert_eq!(batcher.take_expired(start), []);
    assert_eq!(batcher.poll(start + MS), None);
    assert_eq!((batcher.len(), batcher.waiting_tokens()), (1, 10), "it is held until it is answered");
    assert_eq!(batcher.next_deadline(), Some(start + MS));
    assert_eq!(ids(&batcher.take_expired(start + MS)), [1]);
    assert_eq!((batcher.len(), batcher.waiting_tokens(), batcher.next_deadline()), (0, 0, None));
}

#[test]
fn a_job_larger_than_any_batch_comes_back() {
    let start = Instant::now();
    let mut batcher = Batcher::new(limits());
    let large = QueuedJob { tokens: 101, ..job(1, start) };
    assert_eq!(batcher.push(large.clone()), Err(Rejected::TooLarge { job: large, max_tokens: 100 }));
    assert!(batcher.is_empty());
}

#[test]
fn look_ahead_fills_the_room_that_the_next_job_does_not_fit() {
    let start = Instant::now();
    let sizes = [60, 50, 40];
    let mut batcher = batcher(limits(), (0..).zip(sizes).map(|(id, tokens)| QueuedJob { tokens, ..job(id, start) }));
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.reason), (vec![0, 2], CloseReason::Tokens));
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [1]);
}

#[test]
fn look_ahead_gives_up_after_a_number_of_jobs() {
    let start = Instant::now();
    let long = BatchLimits::LOOK_AHEAD as u32;
    let sized = |id, tokens| QueuedJob { tokens, ..job(id, start) };
    for (long, expected) in [(long - 1, vec![0, 100]), (long, vec![0])] {
        let jobs = (0..=long).map(|id| sized(id, 60)).chain([sized(100, 40)]);
        assert_eq!(ids(&poll(&mut batcher(limits(), jobs), start).jobs), expected);
    }
}

#[test]
fn without_overtakes_a_lane_is_strictly_first_in_first_out() {
    let start = Instant::now();
    let sizes = [60, 50, 40];
    let jobs = (0..).zip(sizes).map(|(id, tokens)| QueuedJob { tokens, ..job(id, start) });
    let mut batcher = batcher(BatchLimits { max_overtakes: 0, ..limits() }, jobs);
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [0]);
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [1, 2]);
}

#[test]
fn a_job_overtaken_to_the_bound_holds_its_lane_until_it_leaves() {
    let start = Instant::now();
    let sized = |id, lane, tokens| QueuedJob { lane, tokens, ..job(id, start) };
    let mut batcher = batcher(
        BatchLimits { max_overtakes: 2, lane_weights: LaneWeights { high: 1, normal: 1, low: 1 }, ..limits() },
        [sized(0, Lane::High, 60), sized(1, Lane::Normal, 50), sized(2, Lane::Normal, 30)],
    );
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [0, 2], "overtaken once");
    let mut left = Vec::new();
    for id in 3..20 {
        batcher.push(sized(id, Lane::Normal, 30)).expect("fits");
        batcher.push(sized(id + 100, Lane::High, 60)).expect("fits");
        left.push(ids(&poll(&mut batcher, start).jobs));
        if left.iter().flatten().any(|&id| id == 1) {
            break;
        }
    }
    assert!(left.len() <= 2, "it opens a batch as soon as its lane's turn comes: {left:?}");
}

#[test]
fn a_job_that_arrives_in_the_high_lane_goes_first() {
    let start = Instant::now();
    let limits = BatchLimits { max_rows: 1, ..limits() };
    let mut batcher = batcher(limits, (0..5).map(|id| job(id, start)));
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [0]);
    batcher.push(QueuedJob { lane: Lane::High, ..job(9, start) }).expect("fits");
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [9]);
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [1]);
}

#[test]
fn lanes_that_always_wait_share_eight_to_three_to_one() {
    let start = Instant::now();
    let mut batcher = batcher(limits(), []);
    for id in 0..240 {
        for lane in Lane::ALL {
            batcher.push(QueuedJob { lane, tokens: 25, ..job(id, start) }).expect("fits");
        }
    }
    let left: Vec<Lane> = (0..60).flat_map(|_| poll(&mut batcher, start).jobs).map(|job| job.lane).collect();
    let rows = Lane::ALL.map(|lane| left.iter().filter(|&&left| left == lane).count());
    assert_eq!(rows, [160, 60, 20]);
}

#[test]
fn a_lane_that_was_empty_has_saved_up_nothing() {
    let start = Instant::now();
    let limits = BatchLimits { max_rows: 1, ..limits() };
    let mut batcher = batcher(limits, (0..100).map(|id| QueuedJob { lane: Lane::High, ..job(id, start) }));
    for _ in 0..50 {
        poll(&mut batcher, start);
    }
    (200..300).for_each(|id| batcher.push(QueuedJob { lane: Lane::Low, ..job(id, start) }).expect("fits"));
    let low = (0..18).flat_map(|_| poll(&mut batcher, start).jobs).filter(|job| job.lane == Lane::Low).count();
    assert_eq!(low, 2, "one in nine, from the first batch on");
}

#[test]
fn an_isolated_job_runs_alone_and_after_its_lane() {
    let start = Instant::now();
    let isolated = QueuedJob { isolated: true, ..job(1, start) };
    let mut batcher = batcher(limits(), [isolated, job(2, start), job(3, start)]);
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.reason), (vec![2, 3], CloseReason::DeviceIdle));
    let batch = poll(&mut batcher, start);
    assert_eq!((ids(&batch.jobs), batch.tokens, batch.reason), (vec![1], 10, CloseReason::Isolated));
}

#[test]
fn an_isolated_job_waits_for_no_company() {
    let start = Instant::now();
    let isolated = QueuedJob { isolated: true, ..job(1, start) };
    let mut batcher = batcher(delayed(MS * 4), [job(0, start), isolated]);
    assert_eq!(batcher.next_deadline(), Some(start));
    assert_eq!(poll(&mut batcher, start).reason, CloseReason::DeviceIdle);
    assert_eq!(poll(&mut batcher, start).reason, CloseReason::Isolated);
}

#[test]
fn isolated_jobs_alternate_with_endless_younger_work() {
    let start = Instant::now();
    let isolated = |id| QueuedJob { isolated: true, ..job(id, start) };
    let mut batcher = batcher(BatchLimits { max_overtakes: 2, ..limits() }, [isolated(100), isolated(101)]);
    let mut reasons = Vec::new();
    for id in 0..6 {
        batcher.push(job(id, start)).expect("fits");
        reasons.push(poll(&mut batcher, start).reason == CloseReason::Isolated);
    }
    assert_eq!(reasons, [false, false, true, false, false, true]);
}

#[test]
fn cancelled_jobs_come_back_and_the_rest_stays() {
    let start = Instant::now();
    let jobs = (0..6).map(|id| QueuedJob { isolated: id == 4, ..job(id, start) });
    let mut batcher = batcher(limits(), jobs);
    assert_eq!(ids(&batcher.remove_where(|id| id % 2 == 0)), [0, 2, 4]);
    assert_eq!((batcher.len(), batcher.waiting_tokens()), (3, 30));
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [1, 3, 5]);
}

#[test]
fn draining_gives_back_expired_jobs_too() {
    let start = Instant::now();
    let mut batcher = batcher(limits(), [QueuedJob { deadline: start, ..job(0, start) }]);
    assert_eq!(batcher.poll(start), None);
    batcher.push(job(1, start)).expect("fits");
    assert_eq!(ids(&batcher.drain()), [0, 1]);
    assert_eq!((batcher.len(), batcher.waiting_tokens(), batcher.next_deadline()), (0, 0, None));
}

#[test]
fn limits_that_would_keep_a_job_for_ever_are_refused() {
    let weights = LaneWeights { low: 0, ..LaneWeights::default() };
    let refused = [
        (BatchLimits { max_rows: 0, ..limits() }, LimitsError::NoRows),
        (limits(), LimitsError::TooFewTokens { max_tokens: 100, longest_input_tokens: 512 }),
        (
            BatchLimits { deadline_margin: Duration::ZERO, max_tokens: 512, ..delayed(MS) },
            LimitsError::NoDeadlineMargin,
        ),
        (BatchLimits { lane_weights: weights, max_tokens: 512, ..limits() }, LimitsError::NoWeight { lane: Lane::Low }),
    ];
    for (limits, error) in refused {
        assert_eq!(limits.validate(512), Err(error));
    }
    assert_eq!(BatchLimits::default().validate(16_384), Ok(()));
}

#[test]
fn limits_that_nobody_validated_still_let_jobs_go() {
    let start = Instant::now();
    let weights = LaneWeights { high: 0, normal: 0, low: 0 };
    let zero = BatchLimits { max_rows: 0, deadline_margin: Duration::ZERO, lane_weights: weights, ..delayed(MS) };
    let mut batcher = batcher(zero, [job(1, start), job(2, start)]);
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [1]);
    assert_eq!(ids(&poll(&mut batcher, start).jobs), [2]);
}

#[test]
fn reasons_have_stable_names() {
    let names = CloseReason::ALL.map(CloseReason::as_str);
    assert_eq!(names, ["full", "tokens", "device_idle", "max_delay", "deadline", "isolated"]);
}
