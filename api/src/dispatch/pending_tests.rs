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
    (pending.open(jobs, &flow(), 10, Instant::now()), answers)
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
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(1)])), Settled { ack: None, unknown: 0 });
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(2)])).ack.as_deref(), Some("ack-0"));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
}

#[test]
fn an_answer_that_comes_twice_is_counted_and_acknowledged_again() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1]);
    settle(&mut pending, group(bundle, vec![ok(1)]));
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(1)])), Settled { ack: Some("ack-0".into()), unknown: 1 });
}

#[test]
fn withdrawing_the_last_waiter_releases_a_known_acknowledgement() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1, 2]);
    settle(&mut pending, group(bundle, vec![ok(1)]));
    assert_eq!(pending.withdraw(&[id(2)]), ["ack-0"]);
    assert_eq!(pending.verdict(&id(2)), Verdict::Done);
}

#[test]
fn a_late_answer_to_a_withdrawn_job_acknowledges_its_message() {
    let mut pending = Pending::default();
    let (bundle, _answers) = open(&mut pending, &[1]);
    assert!(pending.withdraw(&[id(1)]).is_empty(), "no worker has said where yet");
    assert_eq!(settle(&mut pending, group(bundle, vec![ok(1)])), Settled { ack: Some("ack-0".into()), unknown: 1 });
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
