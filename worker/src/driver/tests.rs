//! The loop as a whole, on real threads, with a device that is told when each batch ends and how.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forebay_shared::error::JobError;
use forebay_shared::metrics::EngineFault;

use super::bench::{Answer, Bench};
use crate::models::EngineError;
use crate::quarantine::Ticket;

const MEMORY: EngineError = EngineError::OutOfMemory { tokens: 0 };

fn numbers(answers: &[Answer]) -> Vec<u32> {
    answers.iter().map(|(job, _)| *job).collect()
}

/// Every job once, each with its own answer.
fn assert_answered(answers: &[Answer], jobs: impl IntoIterator<Item = u32>) {
    let mut got = numbers(answers);
    got.sort_unstable();
    assert_eq!(got, jobs.into_iter().collect::<Vec<_>>());
    assert!(answers.iter().all(|(job, answer)| *answer == Ok(*job as f32)), "{answers:?}");
}

fn faults(bench: &Bench, fault: EngineFault) -> u64 {
    bench.metrics.inference_errors_total.with(&("m".into(), fault)).get()
}

#[test]
fn a_full_batch_is_submitted_before_the_one_before_has_landed() {
    let bench = Bench::start(2);
    bench.send(0..1, 10);
    let first = bench.asked();
    bench.send(1..9, 10);
    let second = bench.asked();
    assert_eq!((&first.rows[..], &second.rows[..]), (&[0][..], &[1, 2, 3, 4][..]));
    bench.not_asked();
    first.land();
    let third = bench.asked();
    assert_eq!(third.rows, [5, 6, 7, 8]);
    second.land();
    third.land();
    assert_eq!(bench.most_under_way(), 2);
    let (answers, ended) = bench.end();
    assert!(ended.is_ok());
    assert_eq!(numbers(&answers), Vec::from_iter(0..9), "in order");
    assert_answered(&answers, 0..9);
}

#[test]
fn a_batch_that_can_grow_waits_until_the_device_is_about_to_be_idle() {
    let bench = Bench::start(2);
    // So the driver learns that a batch takes some 40 ms.
    for job in 0..10 {
        bench.send([job], 10);
        let asked = bench.asked();
        std::thread::sleep(Duration::from_millis(40));
        asked.land();
    }
    let idle = |bench: &Bench| bench.metrics.batches_in_flight.with(&()).get() == 0.0;
    while !idle(&bench) {
        std::thread::yield_now();
    }
    bench.send([10], 10);
    let (first, since) = (bench.asked(), Instant::now());
    bench.send([11], 10);
    std::thread::sleep(Duration::from_millis(5));
    bench.send([12], 10);
    let second = bench.asked();
    assert!(since.elapsed() >= Duration::from_millis(25), "{:?}", since.elapsed());
    assert_eq!(second.rows, [11, 12], "it grew, and did not wait for the landing");
    first.land();
    second.land();
    assert_answered(&bench.end().0, 0..13);
}

#[test]
fn with_depth_one_there_is_never_a_second_batch() {
    let bench = Bench::start(1);
    bench.send(0..12, 10);
    let tried = bench.serve(12, |_| Ok(()));
    assert_eq!((tried.len(), bench.most_under_way()), (3, 1));
    assert_answered(&bench.end().0, 0..12);
}

#[test]
fn a_batch_without_memory_is_halved_with_nothing_else_under_way() {
    for depth in [1, 2] {
        let bench = Bench::start(depth);
        bench.send(0..4, 25);
        let tried = bench.serve(4, |rows| if rows.len() > 1 { Err(MEMORY) } else { Ok(()) });
        assert_eq!(tried, [vec![0, 1, 2, 3], vec![0, 1], vec![0], vec![1], vec![2, 3], vec![2], vec![3]]);
        assert_eq!((bench.most_under_way(), faults(&bench, EngineFault::OutOfMemory)), (1, 3));
        // From now on batches stay below the smallest that failed, and as long as the longest input.
        bench.send(4..8, 20);
        let tried = bench.serve(4, |_| Ok(()));
        assert_eq!(tried, [vec![4, 5], vec![6, 7]], "49 tokens at most");
        assert_answered(&bench.end().0, 0..8);
    }
}

#[test]
fn a_row_that_lacks_memory_beside_another_batch_is_tried_alone_before_it_fails() {
    let bench = Bench::start(2);
    bench.send(0..4, 10);
    let beside = bench.asked();
    bench.send([4, 5, 6, 7], 1);
    let crowded = bench.asked();
    beside.land();
    crowded.end(Err(MEMORY));
    let tried = bench.serve(3, |rows| if rows.contains(&5) { Err(MEMORY) } else { Ok(()) });
    assert_eq!(tried, [vec![4, 5], vec![4], vec![5], vec![5], vec![6, 7]]);
    let (answers, ended) = bench.end();
    assert!(ended.is_ok());
    let (failed, right): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(job, _)| *job == 5);
    assert_eq!(failed, [(5, Err(JobError::Internal))]);
    assert_answered(&right, [0, 1, 2, 3, 4, 6, 7]);
}

#[test]
fn a_broken_row_fails_alone() {
    for depth in [1, 2] {
        let bench = Bench::start(depth);
        bench.send(0..4, 10);
        let broken = || Err(EngineError::Compute("broken".to_owned()));
        let tried = bench.serve(3, |rows| if rows.contains(&2) { broken() } else { Ok(()) });
        assert_eq!(tried, [vec![0, 1, 2, 3], vec![0], vec![1], vec![2], vec![3]]);
        let (answers, _) = bench.end();
        assert_eq!(numbers(&answers), [0, 1, 2, 3]);
        assert_eq!(answers[2].1, Err(JobError::Internal));
    }
}

#[test]
fn a_panic_on_the_landing_thread_fails_its_batch_only() {
    let bench = Bench::start(2);
    bench.send([0], 10);
    drop(bench.asked());
    bench.send([1], 10);
    bench.asked().land();
    assert_eq!(faults(&bench, EngineFault::Panic), 1);
    let (answers, ended) = bench.end();
    assert!(ended.is_ok());
    assert_eq!(answers, [(0, Err(JobError::Internal)), (1, Ok(1.0))]);
}

#[test]
fn a_lost_device_answers_nothing_more_and_ends_the_driver() {
    for depth in [1, 2] {
        let bench = Bench::start(depth);
        let (ticket, begun, mut ended) = Ticket::for_test();
        bench.send_suspect(0, ticket);
        let suspect = bench.asked();
        bench.send(1..5, 10);
        bench.not_asked();
        assert!(begun.load(Ordering::Acquire));
        suspect.end(Err(EngineError::DeviceLost("gone".to_owned())));
        let (answers, lost) = bench.end();
        assert_eq!(answers, [], "they go back to the queue");
        let lost = lost.expect_err("the device is lost");
        assert_eq!(lost.reason, "gone");
        // It must look as if the process had ended in the middle of it, until everything was given back.
        assert!(ended.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(lost);
    }
}

#[test]
fn what_was_under_way_behind_a_lost_batch_is_not_waited_for() {
    let bench = Bench::start(2);
    bench.send([0], 10);
    let first = bench.asked();
    bench.send(1..5, 10);
    let _never_lands = bench.asked();
    first.end(Err(EngineError::DeviceLost("gone".to_owned())));
    let (answers, lost) = bench.end();
    assert!(answers.is_empty() && lost.is_err());
}

#[test]
fn a_suspect_shares_the_device_with_nothing() {
    let bench = Bench::start(2);
    bench.send([0], 10);
    let first = bench.asked();
    let (ticket, begun, mut ended) = Ticket::for_test();
    bench.send_suspect(1, ticket);
    bench.send(2..10, 10);
    let second = bench.asked();
    assert_eq!(second.rows, [2, 3, 4, 5], "after the ordinary jobs of its lane");
    first.land();
    let third = bench.asked();
    assert_eq!(third.rows, [6, 7, 8, 9]);
    second.land();
    bench.not_asked();
    assert!(!begun.load(Ordering::Acquire));
    third.land();
    let suspect = bench.asked();
    bench.send(10..18, 10);
    bench.not_asked();
    suspect.land();
    let tried = bench.serve(8, |_| Ok(()));
    assert_eq!(tried.len(), 2);
    let (answers, _) = bench.end();
    assert_answered(&answers, 0..18);
    drop(answers);
    assert!(ended.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Closed));
}

#[test]
fn a_pipelined_batch_that_does_not_land_counts_as_stuck_from_the_landing_before_it() {
    let bench = Bench::start(2);
    let limit = Duration::from_millis(400);
    bench.send([0], 10);
    let first = bench.asked();
    bench.send(1..5, 10);
    let second = bench.asked();
    std::thread::sleep(Duration::from_millis(300));
    first.land();
    std::thread::sleep(Duration::from_millis(200));
    // 500 ms after its submission, 200 ms after the device got to it.
    assert!(!bench.pulse.is_stalled(limit, Instant::now()));
    std::thread::sleep(Duration::from_millis(350));
    assert!(bench.pulse.is_stalled(limit, Instant::now()));
    second.land();
    assert_answered(&bench.end().0, 0..5);
}
