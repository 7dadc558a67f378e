use std::collections::HashMap;

use forebay_shared::job::Reply;
use proptest::prelude::*;

use super::*;
use crate::dispatch::gather::Answer;

fn id(n: u8) -> JobId {
    JobId::from_bytes([n; 16])
}

fn ok(n: u8) -> Reply {
    Reply { id: id(n), outcome: Ok(Output { tokens: u32::from(n), device_us: 0, vector: Vec::new() }) }
}

fn group(bundle: u64, replies: Vec<Reply>) -> ReplyGroup {
    ReplyGroup { bundle, ack: format!("ack-{bundle}"), replies }
}

fn open(pending: &mut Pending, ids: &[u8]) -> (u64, Vec<Answer>) {
    let mut answers = Vec::new();
    let jobs: Vec<_> = ids
        .iter()
        .map(|n| {
            let (gather, answer) = Gather::new(1);
            answers.push(answer);
            (id(*n), Arc::new(gather), 0)
        })
        .collect();
    (pending.open(jobs, &flow(), 10, Vec::new(), Instant::now()), answers)
}

thread_local! {
    static FLOW: Arc<Flow> = Arc::default();
}

/// The lane of all bundles of a test.
fn flow() -> Arc<Flow> {
    FLOW.with(Arc::clone)
}

fn settle(pending: &mut Pending, group: ReplyGroup) -> Settled {
    pending.settle(group, Instant::now())
}

#[test]
fn a_bundle_is_acknowledged_with_its_last_job() {
    let mut pending = Pending::default();
    let (bundle, mut answers) = open(&mut pending, &[1, 2]);
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(1)])), Settled::default());
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(2)])).ack.as_deref(), Some("ack-0"));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
}

#[test]
fn an_answer_that_comes_twice_is_counted_and_acknowledged_again() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1]);
    settle(&mut pending, group(bundle, vec![ok(1)]));
    assert_eq!(
        settle(&mut pending, group(bundle, vec![ok(1)])),
        Settled { ack: Some("ack-0".into()), unknown: 1, ..Settled::default() }
    );
}

#[test]
fn withdrawing_the_last_waiter_releases_a_known_acknowledgement() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1, 2]);
    settle(&mut pending, group(bundle, vec![ok(1)]));
    assert_eq!(pending.withdraw(&[id(2)]), Withdrawal { acks: vec!["ack-0".into()], jobs: vec![(bundle, id(2))] });
    assert_eq!(pending.verdict(&id(2)), Verdict::Cancelled);
    assert_eq!(pending.verdict(&id(1)), Verdict::Done);
}

#[test]
fn a_late_answer_to_a_withdrawn_job_acknowledges_its_message() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1]);
    assert!(pending.withdraw(&[id(1)]).acks.is_empty(), "no worker has said where yet");
    assert_eq!(
        settle(&mut pending, group(bundle, vec![ok(1)])),
        Settled { ack: Some("ack-0".into()), unknown: 1, ..Settled::default() }
    );
}

#[test]
fn a_bundle_that_cannot_be_published_fails_every_job_of_it() {
    let mut pending = Pending::default();
    let (bundle, mut answers) = open(&mut pending, &[1, 2]);
    pending.fail(bundle, &[id(1), id(2)], &JobError::BrokerUnavailable);
    for answer in &mut answers {
        assert_eq!(answer.try_recv().unwrap(), Err(JobError::BrokerUnavailable));
    }
    pending.check();
}

#[test]
fn a_worker_that_spared_a_withdrawn_job_frees_its_message_and_is_not_counted_as_work_in_vain() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1]);
    assert_eq!(pending.withdraw(&[id(1)]).jobs, [(bundle, id(1))]);
    let reply = Reply { id: id(1), outcome: Err(JobError::Cancelled) };
    assert_eq!(
        settle(&mut pending, group(bundle, vec![reply])),
        Settled { ack: Some("ack-0".into()), unknown: 1, spared: 1, ..Settled::default() }
    );
}

#[test]
fn the_cancelled_life_of_a_job_does_not_end_the_one_that_was_submitted_anew() {
    let mut pending = Pending::default();
    let (first, _answers) = open(&mut pending, &[1]);
    pending.withdraw(&[id(1)]);
    let (second, mut answers) = open(&mut pending, &[1]);
    let cancelled = Reply { id: id(1), outcome: Err(JobError::Cancelled) };
    assert_eq!(settle(&mut pending, group(first, vec![cancelled])).spared, 1);
    assert_eq!(pending.verdict(&id(1)), Verdict::Wanted);
    settle(&mut pending, group(second, vec![ok(1)]));
    assert!(answers[0].try_recv().unwrap().is_ok());
}

#[test]
fn what_an_earlier_message_answers_leaves_nothing_of_the_later_one() {
    let mut pending = Pending::default();
    let (first, _answers) = open(&mut pending, &[1]);
    let (second, mut answers) = open(&mut pending, &[1, 2]);
    settle(&mut pending, group(second, vec![ok(2)]));
    let settled = settle(&mut pending, group(first, vec![ok(1)]));
    assert_eq!((settled.ack.as_deref(), settled.more_acks), (Some("ack-0"), vec!["ack-1".to_owned()]));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    assert!(pending.bundles.is_empty());
    pending.check();
}

#[test]
fn a_job_that_was_never_published_needs_no_cancellation() {
    let mut pending = Pending::default();
    assert_eq!(pending.withdraw(&[id(9)]), Withdrawal::default());
}

#[test]
fn the_memory_of_withdrawn_jobs_is_bounded() {
    let mut pending = Pending::default();
    let nth = |n: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        JobId::from_bytes(bytes)
    };
    for n in 0..WITHDRAWN_KEPT + 10 {
        pending.remember(nth(n));
    }
    assert_eq!((pending.withdrawn.len(), pending.is_withdrawn.len()), (WITHDRAWN_KEPT, WITHDRAWN_KEPT));
    assert_eq!(pending.verdict(&nth(0)), Verdict::Done);
    assert_eq!(pending.verdict(&nth(WITHDRAWN_KEPT)), Verdict::Cancelled);
}

#[derive(Debug, Clone)]
enum Step {
    Open(u8),
    Settle(Vec<prop::sample::Index>),
    Withdraw(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u8..8).prop_map(Step::Open),
        prop::collection::vec(any::<prop::sample::Index>(), 1..6).prop_map(Step::Settle),
        any::<prop::sample::Index>().prop_map(Step::Withdraw),
    ]
}

proptest! {
    /// Whatever the order of answers (repeated ones too) and withdrawals: each job ends once, each bundle is released
    /// exactly when its last job has ended.
    #[test]
    fn every_job_ends_once_and_every_bundle_with_its_last(steps in prop::collection::vec(step(), 1..80)) {
        FLOW.with(|flow| assert_eq!(flow.out_rows(), 0));
        let flow = flow();
        let mut pending = Pending::default();
        let mut next = 0u8;
        let mut bundle_of: HashMap<u8, u64> = HashMap::new();
        let mut answers: HashMap<u8, Answer> = HashMap::new();
        let mut waiting: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Open(n) => {
                    let ids: Vec<u8> = (0..n).filter_map(|_| { next = next.checked_add(1)?; Some(next) }).collect();
                    let (bundle, new) = open(&mut pending, &ids);
                    for (n, answer) in ids.iter().zip(new) {
                        bundle_of.insert(*n, bundle);
                        answers.insert(*n, answer);
                        waiting.push(*n);
                    }
                }
                Step::Settle(picks) if next > 0 => {
                    for pick in picks {
                        let n = pick.index(usize::from(next)) as u8 + 1;
                        let bundle = bundle_of[&n];
                        let known = waiting.contains(&n);
                        let settled = settle(&mut pending, group(bundle, vec![ok(n)]));
                        waiting.retain(|w| *w != n);
                        prop_assert_eq!(settled.unknown, u64::from(!known));
                        let others = waiting.iter().any(|w| bundle_of[w] == bundle);
                        prop_assert_eq!(settled.ack.is_some(), !others);
                        if known {
                            prop_assert!(answers.get_mut(&n).unwrap().try_recv().unwrap().is_ok());
                        }
                    }
                }
                Step::Withdraw(pick) if next > 0 => {
                    let n = pick.index(usize::from(next)) as u8 + 1;
                    pending.withdraw(&[id(n)]);
                    waiting.retain(|w| *w != n);
                }
                _ => {}
            }
            pending.check();
            prop_assert_eq!(flow.out_rows(), waiting.len());
            for n in 1..=next {
                prop_assert_eq!(pending.verdict(&id(n)) == Verdict::Wanted, waiting.contains(&n));
            }
        }
        pending.withdraw(&(1..=next).map(id).collect::<Vec<_>>());
        prop_assert_eq!(flow.out_rows(), 0);
    }
}
