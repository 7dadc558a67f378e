//! What the pipeline promises: over random histories, and on a simulated device under load.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forebay_sched::{Pipeline, Wanted, began};
use proptest::prelude::*;

const US: Duration = Duration::from_micros(1);
const MARGIN: Duration = Duration::from_micros(300);

#[derive(Debug, Clone)]
enum Step {
    Submit { tokens: usize, alone: bool, host: u32 },
    Land { computed: bool },
    Advance(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..200_usize, prop::bool::weighted(0.1), 0..500_u32)
            .prop_map(|(tokens, alone, host)| Step::Submit { tokens, alone, host }),
        3 => prop::bool::weighted(0.9).prop_map(|computed| Step::Land { computed }),
        3 => (0..3_000_u32).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_after_every_step(depth in 1..4_usize, steps in prop::collection::vec(step(), 1..120)) {
        let mut now = Instant::now();
        let mut pipeline = Pipeline::new(depth, MARGIN);
        // Submission and whether it must be alone, oldest first.
        let mut model: VecDeque<(Instant, bool)> = VecDeque::new();
        let mut last: Option<Instant> = None;
        for step in steps {
            let wanted = pipeline.wanted(now);
            match step {
                Step::Advance(us) => now += US * us,
                // A driver submits what is wanted, and what must be alone only to an idle device.
                Step::Submit { alone: true, .. } if !pipeline.is_idle() => {}
                Step::Submit { .. } if wanted == Wanted::Nothing => {}
                Step::Submit { tokens, alone, host } => {
                    pipeline.submitted(tokens, alone, now, US * host);
                    model.push_back((now, alone));
                    now += US * host;
                }
                Step::Land { computed } => {
                    pipeline.landed(now, computed);
                    if let Some((submitted, _)) = model.pop_front() {
                        last = Some(now.max(began(submitted, last)));
                    }
                }
            }
            prop_assert_eq!(pipeline.under_way(), model.len());
            prop_assert!(model.len() <= depth);
            prop_assert!(model.len() == 1 || !model.iter().any(|(_, alone)| *alone), "not alone");
            prop_assert_eq!(pipeline.oldest_began(), model.front().map(|(submitted, _)| began(*submitted, last)));
            check_wanted(&pipeline, now, depth, model.iter().any(|(_, alone)| *alone));
        }
    }

    /// A serial device takes a fixed time and one per token: whatever the history, its times are told apart, and they fill
    /// no more than the time that has passed.
    #[test]
    fn time_on_the_device_never_overlaps(batches in prop::collection::vec((0..2_000_u64, 1..2_000_u64), 1..50)) {
        let origin = Instant::now();
        let (mut submitted, mut free, mut landing, mut busy) = (origin, origin, None, Duration::ZERO);
        for (pause, work) in batches {
            submitted += Duration::from_micros(pause);
            let begins = submitted.max(free);
            free = begins + Duration::from_micros(work);
            prop_assert_eq!(began(submitted, landing), begins);
            busy += free - began(submitted, landing);
            landing = Some(free);
        }
        prop_assert!(busy <= free - origin);
    }
}

fn check_wanted(pipeline: &Pipeline, now: Instant, depth: usize, alone: bool) {
    let wanted = pipeline.wanted(now);
    match pipeline.under_way() {
        0 => assert_eq!((wanted, pipeline.next_change()), (Wanted::Any, None), "idle"),
        busy if busy == depth || alone => assert_eq!((wanted, pipeline.next_change()), (Wanted::Nothing, None)),
        _ => match pipeline.next_change() {
            None => assert!([now, now + US * 1_000_000].iter().all(|at| pipeline.wanted(*at) == Wanted::Full)),
            Some(at) => {
                assert_eq!(pipeline.wanted(at), Wanted::Any, "at the instant that was announced");
                assert_eq!(pipeline.wanted(at - US), Wanted::Full, "before it");
                assert_eq!(wanted, if at <= now { Wanted::Any } else { Wanted::Full });
            }
        },
    }
}

/// A serial device of 2 ms and 20 µs per token, and a host that needs 500 µs for every batch, fed by rows of 10 tokens.
struct Simulation {
    depth: usize,
    /// Between two rows.
    every: Duration,
    max_rows: u64,
}

#[derive(Debug)]
struct Outcome {
    batches: u64,
    rows: u64,
    idle: Duration,
    took: Duration,
}

impl Simulation {
    const HOST: Duration = Duration::from_micros(500);

    fn run(&self, total: u64) -> Outcome {
        let origin = Instant::now();
        let mut pipeline = Pipeline::new(self.depth, MARGIN);
        let mut landings: VecDeque<Instant> = VecDeque::new();
        let (mut now, mut free, mut taken) = (origin, origin, 0);
        let mut outcome = Outcome { batches: 0, rows: 0, idle: Duration::ZERO, took: Duration::ZERO };
        while taken < total {
            while let Some(at) = landings.pop_front_if(|at| *at <= now) {
                pipeline.landed(at, true);
            }
            let arrived = (((now - origin).as_nanos() / self.every.as_nanos().max(1)) as u64 + 1).min(total);
            let waiting = arrived - taken;
            let goes = match pipeline.wanted(now) {
                Wanted::Nothing => false,
                Wanted::Full => waiting >= self.max_rows,
                Wanted::Any => waiting > 0,
            };
            if !goes {
                now += US * 20;
                continue;
            }
            let rows = waiting.min(self.max_rows);
            taken += rows;
            pipeline.submitted(10 * rows as usize, false, now, Self::HOST);
            now += Self::HOST;
            let begins = now.max(free);
            if outcome.batches > 10 {
                outcome.idle += begins - free;
            }
            free = begins + Duration::from_micros(2_000 + 200 * rows);
            landings.push_back(free);
            outcome.batches += 1;
            outcome.rows += rows;
        }
        outcome.took = free - origin;
        outcome
    }
}

#[test]
fn under_full_load_the_device_never_waits() {
    let run = |depth| Simulation { depth, every: US, max_rows: 16 }.run(16_000);
    let (serial, overlapped) = (run(1), run(2));
    assert!(overlapped.idle.is_zero() && overlapped.batches <= 1_001, "{overlapped:?}");
    assert!(serial.idle > serial.took / 20, "{serial:?}");
}

#[test]
fn under_half_load_batches_stay_as_large_as_without_a_pipeline() {
    let run = |depth| Simulation { depth, every: US * 400, max_rows: 64 }.run(20_000);
    let (serial, overlapped) = (run(1), run(2));
    let mean = |outcome: &Outcome| outcome.rows as f64 / outcome.batches as f64;
    assert!(mean(&overlapped) > 0.8 * mean(&serial), "{overlapped:?} {serial:?}");
    assert!(overlapped.idle < serial.idle / 4, "{overlapped:?} {serial:?}");
}
