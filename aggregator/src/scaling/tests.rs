//! The advice, followed in a simulation, and the invariants of [`super::policy`].

use std::time::Duration;

use proptest::prelude::*;

use super::policy::{Bounds, Demand, Steps, Targets, need};
use super::simulation::{CAPACITY, MINUTE, SECOND, World, args, turns};
use super::{Scaling, ScalingArgs};
use crate::merge::Millis;

/// Until a change is seen in rates over 10 s, and asked for.
const REACTION: Millis = 5 * SECOND;

fn start() -> Millis {
    args().worker_start_time.as_millis() as Millis
}

/// Workers for so many jobs a second.
fn enough_for(rate: f64) -> u32 {
    (rate / (0.8 * CAPACITY)).ceil() as u32
}

/// Ten minutes of twenty times the load, after two minutes of 100 jobs/s.
fn step(args: ScalingArgs) -> World {
    let mut world = after_a_quiet_time(args);
    world.run(10 * MINUTE, |_| 2_000.0);
    world
}

fn spike() -> World {
    let mut world = after_a_quiet_time(args());
    world.run(20 * SECOND, |_| 2_000.0);
    world.run(15 * MINUTE, |_| 100.0);
    world
}

/// Up for half an hour, and down again.
fn drift() -> World {
    let mut world = World::new(args(), 1);
    world.run(30 * MINUTE, |at| DRIFT_PEAK * at as f64 / (30 * MINUTE) as f64);
    world.run(30 * MINUTE, |at| DRIFT_PEAK * (1.0 - at as f64 / (30 * MINUTE) as f64));
    world.run(10 * MINUTE, |_| 1.0);
    world
}

const DRIFT_PEAK: f64 = 3_000.0;

/// An hour of a load that is there for so long and away for as long, after the first two times.
fn on_and_off(lasting: Millis) -> World {
    let load = |at: Millis| if (at / lasting).is_multiple_of(2) { 1_500.0 } else { 0.0 };
    let mut world = World::new(args(), 1);
    world.run(4 * lasting, load);
    world.turn_the_page();
    world.run(60 * MINUTE, load);
    world
}

/// Two hours in which each second brings up to twice the mean, or nothing, after ten minutes of the same.
fn noise() -> World {
    let mut world = World::new(args(), 1);
    world.run_noisy(10 * MINUTE, 1_000.0);
    world.turn_the_page();
    world.run_noisy(120 * MINUTE, 1_000.0);
    world
}

fn after_a_quiet_time(args: ScalingArgs) -> World {
    let mut world = World::new(args, 1);
    world.run(2 * MINUTE, |_| 100.0);
    assert_eq!(world.desired(), 1);
    world.turn_the_page();
    world
}

#[test]
fn nobody_is_late_for_longer_than_a_scale_up_takes_after_a_step() {
    let mut world = step(args());
    let story = world.seen.clone();
    let rises: Vec<Millis> = story.advice.windows(2).filter(|two| two[1].1 > two[0].1).map(|two| two[1].0).collect();
    let scale_up = rises.last().unwrap() - rises[0] + start();
    assert!(story.longest_late <= scale_up && scale_up <= 2 * start(), "{scale_up} {story:?}");
    assert!(story.turns() <= 1 && story.largest() <= 2 * enough_for(2_000.0), "{story:?}");
    assert_eq!(world.desired(), enough_for(2_000.0), "{story:?}");
    world.turn_the_page();
    world.run(20 * MINUTE, |_| 2_000.0);
    assert_eq!((world.seen.advice.len(), world.seen.longest_late), (1, 0), "a steady load moves nothing");
}

#[test]
fn nobody_is_late_at_all_where_the_target_is_longer_than_a_start() {
    let world = step(ScalingArgs { target_wait: Duration::from_secs(15), ..args() });
    assert_eq!(world.seen.longest_late, 0, "{:?}", world.seen);
}

#[test]
fn a_spike_costs_one_rise_and_one_fall() {
    let world = spike();
    assert!(world.seen.longest_late <= 2 * start(), "{:?}", world.seen);
    assert_eq!((world.seen.turns(), world.desired()), (1, 1), "{:?}", world.seen);
}

#[test]
fn a_slow_drift_is_followed_without_anybody_waiting() {
    let (world, most) = (drift(), enough_for(DRIFT_PEAK));
    assert_eq!((world.seen.longest_late, world.seen.turns(), world.desired()), (0, 1, 1), "{:?}", world.seen);
    assert!(world.seen.largest() <= most, "{:?}", world.seen);
}

#[test]
fn a_load_that_comes_and_goes_faster_than_workers_are_given_up_moves_nothing() {
    let fast = on_and_off(2 * MINUTE).seen;
    assert!(fast.turns() == 0 && fast.longest_late == 0, "{fast:?}");
    let slow = on_and_off(10 * MINUTE).seen;
    assert!(slow.turns() <= 6, "one rise and one fall for each of three times: {slow:?}");
}

#[test]
fn noise_is_carried_and_not_followed() {
    let story = noise().seen;
    let turns_are_bounded = story.turns() <= 2 * (1 + 120 / 5);
    assert!(turns_are_bounded && story.longest_late == 0 && story.largest() <= enough_for(2_000.0), "{story:?}");
}

#[test]
fn the_document_shows_what_happens_here() {
    let document = include_str!("../../../docs/autoscaling.md");
    let mut missing = String::new();
    for (what, World { seen, .. }) in [
        ("step from 100 to 2 000 jobs/s", step(args())),
        ("the same, target wait 15 s", step(ScalingArgs { target_wait: Duration::from_secs(15), ..args() })),
        ("spike of 20 s to 2 000 jobs/s", spike()),
        ("drift to 3 000 jobs/s and back in an hour", drift()),
        ("2 min on, 2 min off, 1 500 jobs/s, for an hour", on_and_off(2 * MINUTE)),
        ("10 min on, 10 min off, for an hour", on_and_off(10 * MINUTE)),
        ("noise, 0 to 2 000 jobs/s each second, for two hours", noise()),
    ] {
        let (late, turns, most) = (seen.longest_late as f64 / 1_000.0, seen.turns(), seen.largest());
        let row = format!("| {what} | {most} | {turns} | {} | {late:.1} s |\n", seen.largest_backlog);
        if !document.contains(&row) {
            missing.push_str(&row);
        }
    }
    assert!(missing.is_empty(), "docs/autoscaling.md lacks these rows:\n{missing}");
}

#[test]
fn a_model_without_workers_gets_one_when_it_is_asked_for_and_loses_it_when_it_is_not() {
    let mut world = World::new(ScalingArgs { min_workers: "0".parse().unwrap(), ..args() }, 0);
    world.run(5 * MINUTE, |_| 0.0);
    assert_eq!(world.seen.advice, [(0, 0)], "nobody asked");
    let asked = world.now();
    world.turn_the_page();
    world.run(MINUTE, |_| 2.0);
    let story = world.seen.clone();
    assert!(story.advice[1].0 <= asked + SECOND && story.advice[1].1 == 1, "{story:?}");
    assert!(story.refused > 0 && story.done > 0, "refused until the worker was there: {story:?}");
    let last = world.now();
    world.run(20 * MINUTE, |_| 0.0);
    let (when, workers) = world.seen.advice.last().copied().unwrap();
    assert_eq!(workers, 0);
    let idle = args().scale_to_zero_after.as_millis() as Millis;
    assert!((last + idle - SECOND..=last + idle + 10 * SECOND).contains(&when), "arrivals are an average over 10 s");
}

#[test]
fn an_aggregator_that_has_just_started_takes_no_worker_away() {
    let mut world = World::new(args(), 8);
    world.run(2 * MINUTE, |_| 2_000.0);
    assert_eq!(world.desired(), 8, "who is there counts as needed");
    world.run(10 * MINUTE, |_| 2_000.0);
    assert_eq!(world.seen.longest_late, 0, "they are given up one by one, and what they can do is seen in time");
    assert_eq!(world.desired(), enough_for(2_000.0));
}

#[test]
fn the_largest_answer_of_two_aggregators_is_as_good_as_one_and_survives_a_restart() {
    let mut world = World::new(args(), 1);
    let new = || Scaling::new(args(), args().targets().unwrap());
    world.scalings.push(new());
    world.run(5 * MINUTE, |_| 2_000.0);
    let before = world.desired();
    world.scalings[0] = new();
    world.run(MINUTE, |_| 2_000.0);
    assert_eq!(world.desired(), before);
    world.run_noisy(30 * MINUTE, 1_500.0);
    let each: Vec<u32> = world.scalings.iter().flat_map(|one| one.advice().map(|(_, advice)| advice.workers)).collect();
    assert!(each[0].abs_diff(each[1]) <= 1 && world.seen.longest_late <= 2 * start() + REACTION, "{each:?}");
}

#[test]
fn while_nothing_can_be_seen_the_last_answer_stands() {
    let mut world = World::new(args(), 1);
    world.run(15 * MINUTE, |_| 2_000.0);
    let before = world.desired();
    let (until, now) = (world.now() + 30 * MINUTE, world.now());
    let scaling = &mut world.scalings[0];
    for at in (now..until).step_by(SECOND as usize) {
        scaling.observe(None, at);
        assert_eq!(scaling.advice().next().unwrap().1.workers, before);
    }
}

const TARGETS: Targets = Targets {
    wait: Duration::from_secs(2),
    start_time: Duration::from_secs(30),
    stored_wait: Duration::from_secs(600),
    down_after: Duration::from_secs(300),
    zero_after: Duration::from_secs(600),
};

#[test]
fn the_formula_by_hand() {
    let demand = Demand { arrivals: 160.0, ready: 1, capacity: Some(100.0), ..Demand::default() };
    assert_eq!(need(&demand, &TARGETS), 2, "160 of 2 × 100 × 0.8");
    assert_eq!(need(&Demand { depth: 200.0, ..demand }, &TARGETS), 2, "all of it within the target");
    assert_eq!(need(&Demand { depth: 3_200.0, ..demand }, &TARGETS), 3, "200 and a thirtieth of 3000 each second");
    assert_eq!(need(&Demand { stored: 60_000.0, ..demand }, &TARGETS), 3, "100 more each second for ten minutes");
    let unknown = Demand { capacity: None, ready: 4, ..demand };
    assert_eq!(need(&unknown, &TARGETS), 4);
    assert_eq!(need(&Demand { ready: 0, ..unknown }, &TARGETS), 1);
    assert_eq!(need(&Demand { arrivals: 0.0, ..unknown }, &TARGETS), 0);
}

proptest! {
    #[test]
    fn the_answer_keeps_its_promises_whatever_is_needed(
        needs in prop::collection::vec((1..400u64, 0..30u32, any::<bool>()), 1..200),
        workers in 0..5u32,
        min in 0..3u32,
        more in 0..20u32,
    ) {
        let (bounds, mut now) = (Bounds { min, max: min + more }, 1_000_000);
        let mut steps = Steps::beginning_with(workers, now);
        let (mut asked, mut history) = ((workers > 0).then_some(now), vec![(now, workers)]);
        let (mut answers, mut rose): (Vec<u32>, Option<Millis>) = (Vec::new(), None);
        let begun = now;
        for (seconds, need, is_wanted) in needs {
            now += seconds * SECOND;
            let earlier = answers.last().copied();
            let answer = steps.decide(need, is_wanted, &TARGETS, bounds, now);
            prop_assert!((bounds.min..=bounds.max).contains(&answer));
            prop_assert!(answer >= need.min(bounds.max), "more at once");
            // What it should be, said without a queue.
            history.push((now, need));
            if is_wanted || need > 0 {
                asked = Some(now);
            }
            let recent = history.iter().filter(|(at, _)| now - at < 5 * MINUTE).map(|(_, need)| *need).max().unwrap();
            let kept = u32::from(asked.is_some_and(|at| now - at < 10 * MINUTE));
            let wanted = recent.max(kept).clamp(bounds.min, bounds.max);
            let before = answers.last().copied().unwrap_or(workers);
            let slowly = before - before.div_ceil(10);
            prop_assert!(answer == wanted || (answer > wanted && (answer == before || answer == slowly)));
            if earlier.is_some_and(|earlier| answer > earlier) {
                rose = Some(now);
            }
            if earlier.is_some_and(|earlier| answer < earlier) {
                prop_assert!(rose.is_none_or(|at| now - at >= 5 * MINUTE), "fewer late");
            }
            answers.push(answer);
        }
        let most = 2 * (1 + (now - begun) / (5 * MINUTE));
        prop_assert!(turns(answers.into_iter()) as u64 <= most);
    }

    #[test]
    fn more_demand_never_needs_fewer_workers(
        arrivals in 0.0..1e5f64, depth in 0.0..1e6f64, stored in 0.0..1e6f64, capacity in 0.1..1e4f64,
        ready in 0..100u32, more in 0.0..1e5f64,
    ) {
        let demand = Demand { arrivals, depth, stored, ready, capacity: Some(capacity) };
        let base = need(&demand, &TARGETS);
        let other = need(&Demand { arrivals: arrivals + more, ..demand }, &TARGETS);
        prop_assert!(other >= base);
        let other = need(&Demand { depth: depth + more, ..demand }, &TARGETS);
        prop_assert!(other >= base);
        let other = need(&Demand { stored: stored + more, ..demand }, &TARGETS);
        prop_assert!(other >= base);
        let other = need(&Demand { capacity: Some(capacity * 2.0), ..demand }, &TARGETS);
        prop_assert!(other <= base);
        prop_assert!(f64::from(base) >= (arrivals / capacity).min(u32::MAX.into()), "less than what arrives could be done");
    }
}
