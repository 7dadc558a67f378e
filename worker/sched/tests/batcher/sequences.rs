//! Random histories: whatever happens in whatever order, every promise holds after every step.

use std::time::{Duration, Instant};

use forebay_sched::{BatchLimits, Batcher, Lane, LaneWeights, QueuedJob};
use proptest::prelude::*;

use super::model::Model;
use super::{Id, MS};

#[derive(Debug, Clone)]
enum Step {
    Push { lane: Lane, tokens: usize, time_left: Duration, isolated: bool },
    Advance(Duration),
    Poll,
    PollFull,
    Narrow(usize),
    TakeExpired,
    RemoveWhere { every: Id },
}

fn step() -> impl Strategy<Value = Step> {
    let lane = prop::sample::select(&Lane::ALL[..]);
    let time_left = prop_oneof![4 => 20..400_u32, 1 => 0..20_u32];
    let push = (lane, 0..=45_usize, time_left, prop::bool::weighted(0.15));
    prop_oneof![
        10 => push.prop_map(|(lane, tokens, ms, isolated)| Step::Push { lane, tokens, time_left: MS * ms, isolated }),
        3 => (0..8_u32).prop_map(|ms| Step::Advance(MS * ms)),
        6 => Just(Step::Poll),
        2 => Just(Step::PollFull),
        1 => (0..=60_usize).prop_map(Step::Narrow),
        1 => Just(Step::TakeExpired),
        1 => (3..9_u32).prop_map(|every| Step::RemoveWhere { every }),
    ]
}

fn any_limits() -> impl Strategy<Value = BatchLimits> {
    let delay = prop_oneof![Just(0), 1..15_u32];
    (20..=60_usize, 1..=6_usize, delay, 1..10_u32, 0..4_u32, [1..9_u8, 1..9_u8, 1..9_u8]).prop_map(
        |(max_tokens, max_rows, delay, margin, max_overtakes, [high, normal, low])| BatchLimits {
            max_tokens,
            max_rows,
            max_delay: MS * delay,
            deadline_margin: MS * margin,
            max_overtakes,
            lane_weights: LaneWeights { high, normal, low },
        },
    )
}

fn something_happens(batcher: &Batcher<Id>, now: Instant) -> bool {
    batcher.clone().poll(now).is_some() || something_expires(batcher, now)
}

fn something_expires(batcher: &Batcher<Id>, now: Instant) -> bool {
    !batcher.clone().take_expired(now).is_empty()
}

/// At `next`, or now if that has passed, it happens; between now and then it does not.
fn check_honest(next: Option<Instant>, now: Instant, happens: impl Fn(Instant) -> bool) {
    let Some(at) = next else {
        assert!(!happens(now) && !happens(now + MS * 100_000), "something happens and was not announced");
        return;
    };
    assert!(happens(at.max(now)), "nothing happens at the instant that was announced");
    if at > now {
        let before = [now, now + (at - now) / 2, at - Duration::from_nanos(1)];
        assert!(!before.into_iter().any(happens), "something happens before the instant that was announced");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_after_every_step(limits in any_limits(), steps in prop::collection::vec(step(), 1..150)) {
        let mut now = Instant::now();
        let mut batcher = Batcher::new(limits.clone());
        let mut model = Model::new(limits.clone());
        for (id, step) in (0..).zip(steps) {
            match step {
                Step::Push { lane, tokens, time_left, isolated } => {
                    let deadline = now + time_left;
                    let job = QueuedJob { payload: id, lane, tokens, queued_at: now, deadline, isolated };
                    match batcher.push(job.clone()) {
                        Ok(()) => model.push(job),
                        Err(rejected) => {
                            prop_assert!(tokens > limits.max_tokens);
                            prop_assert_eq!(rejected.into_job(), job);
                        }
                    }
                }
                Step::Advance(by) => now += by,
                Step::Poll => match batcher.poll(now) {
                    Some(batch) => model.check_batch(&batch, now),
                    None => model.check_idle(now),
                },
                Step::PollFull => match batcher.poll_full(now) {
                    Some(batch) => {
                        prop_assert!(model.is_full(now));
                        model.check_batch(&batch, now);
                    }
                    None => prop_assert!(!model.is_full(now)),
                },
                Step::Narrow(max_tokens) => {
                    batcher.narrow(max_tokens);
                    model.narrow(max_tokens);
                }
                Step::TakeExpired => model.check_removed(&batcher.take_expired(now), |job| job.deadline <= now),
                Step::RemoveWhere { every } => {
                    model.check_removed(&batcher.remove_where(|id| id % every == 0), |job| job.payload % every == 0);
                }
            }
            prop_assert_eq!(batcher.len(), model.len());
            prop_assert_eq!(batcher.is_empty(), model.len() == 0);
            prop_assert_eq!(batcher.waiting_tokens(), model.tokens());
            check_honest(batcher.next_deadline(), now, |at| something_happens(&batcher, at));
            check_honest(batcher.next_expiry(), now, |at| something_expires(&batcher, at));
        }
        model.check_removed(&batcher.drain(), |_| true);
        prop_assert_eq!(batcher.next_deadline(), None);
    }
}
