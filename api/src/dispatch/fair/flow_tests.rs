use std::sync::Arc;

use forebay_shared::ids::JobId;
use forebay_shared::job::{EmbedParams, Input, Job, Task};
use forebay_shared::metrics::JobSource;

use super::*;
use crate::dispatch::gather::{Answer, Gather};

const SECOND: Duration = Duration::from_secs(1);

/// A job of one row and 12 tokens.
fn ready(tenant: &str) -> (Ready, Answer) {
    let (gather, answer) = Gather::new(1);
    let job = Job {
        id: JobId::random(),
        generation: 0,
        tenant: tenant.into(),
        enqueued_us: 0,
        deadline_us: 0,
        trace: None,
        task: Task::Embed(EmbedParams::default()),
        input: Input::Tokens(vec![1; 10]),
    };
    let now = Instant::now();
    let (gather, source) = (Arc::new(gather), JobSource::Request);
    (Ready { job, gather, index: 0, accepted: now, deadline: now + SECOND, source, ticket: None }, answer)
}

fn hold(flow: &Flow, tenant: &str, jobs: usize) -> Vec<Answer> {
    let (jobs, answers): (Vec<_>, Vec<_>) = (0..jobs).map(|_| ready(tenant)).unzip();
    flow.hold_back(jobs);
    answers
}

/// Tenants of the jobs that go out now.
fn release(flow: &Flow, window: usize, now: Instant) -> Vec<String> {
    let mut out = Vec::new();
    flow.release(window, now, |ready| {
        out.push(ready.job.tenant.to_string());
        true
    });
    flow.sent(out.len(), 12 * out.len() as u64);
    out
}

#[test]
fn no_more_than_the_window_goes_out_and_the_rest_when_a_quarter_is_free() {
    let (flow, now) = (Flow::default(), Instant::now());
    let _answers = hold(&flow, "a", 20);
    assert_eq!(release(&flow, 8, now).len(), 8);
    assert_eq!((flow.out_rows(), flow.held_rows()), (8, 12));
    flow.returned(12, true);
    assert!(release(&flow, 8, now).is_empty(), "a row at a time would make messages of one row");
    flow.returned(12, true);
    assert_eq!(release(&flow, 8, now).len(), 2);
}

#[tokio::test]
async fn the_publisher_is_woken_when_there_is_room_and_not_before() {
    let (flow, now) = (Flow::default(), Instant::now());
    let _answers = hold(&flow, "a", 20);
    release(&flow, 8, now);
    let pause = Duration::from_millis(5);
    flow.returned(12, true);
    assert!(tokio::time::timeout(pause, flow.room()).await.is_err());
    flow.returned(12, false);
    assert!(tokio::time::timeout(pause, flow.room()).await.is_ok());
}

#[test]
fn a_newcomer_goes_out_with_the_next_that_do() {
    let (flow, now) = (Flow::default(), Instant::now());
    let _flood = hold(&flow, "flooder", 1000);
    release(&flow, 64, now);
    let _one = hold(&flow, "victim", 1);
    (0..32).for_each(|_| flow.returned(12, true));
    assert!(release(&flow, 64, now).contains(&"victim".to_owned()));
}

#[test]
fn who_asks_for_less_than_its_share_passes_by_a_flood() {
    let flow = Flow::default();
    let _flood = hold(&flow, "flooder", 1000);
    let (mut jobs, _answers): (Vec<_>, Vec<_>) =
        ["flooder", "victim", "flooder", "victim", "other"].into_iter().map(ready).unzip();
    let passing = flow.let_pass(&mut jobs, 64);
    let tenants = |jobs: &[Ready]| jobs.iter().map(|ready| ready.job.tenant.to_string()).collect::<Vec<_>>();
    assert_eq!(tenants(&passing), ["victim", "victim", "other"]);
    assert_eq!(tenants(&jobs), ["flooder", "flooder"], "in their order");
    assert_eq!(flow.held_rows(), 1000);
}

#[test]
fn who_sends_more_than_a_turn_waits_behind_itself() {
    let flow = Flow::default();
    let (mut jobs, _answers): (Vec<_>, Vec<_>) = (0..20).map(|_| ready("busy")).unzip();
    let passing = flow.let_pass(&mut jobs, 1000);
    assert_eq!((passing.len(), jobs.len()), (5, 15), "64 tokens of 12 each");
    flow.hold_back(jobs);
    drop(passing);
    let (mut more, _answers): (Vec<_>, Vec<_>) = (0..1).map(|_| ready("busy")).unzip();
    assert!(flow.let_pass(&mut more, 1000).is_empty(), "it has a queue of its own by now");
}

#[test]
fn withdrawn_jobs_vanish_without_being_looked_for_one_by_one() {
    let flow = Flow::default();
    let answers = hold(&flow, "a", 200);
    drop(answers);
    assert_eq!(flow.withdrawn(63), 0);
    assert_eq!(flow.withdrawn(137), 200);
    assert_eq!(flow.held_rows(), 0);
}

#[test]
fn a_request_is_refused_for_what_stands_before_it_and_not_for_the_flood_of_another() {
    let (flow, start) = (Flow::default(), Instant::now());
    let left = SECOND / 2;
    assert_eq!(flow.check(&"flooder".into(), 1_000_000, left, start), Ok(()), "nothing is held back");
    let _flood = hold(&flow, "flooder", 1000);
    for step in 0..20 {
        release(&flow, 40, start + step * SECOND / 20);
        (0..20).for_each(|_| flow.returned(12, true));
    }
    let now = start + SECOND;
    assert!(release(&flow, 40, now).len() == 20, "400 rows of 4800 tokens a second");
    let late = flow.check(&"flooder".into(), 12, left, now).unwrap_err();
    assert!(late.estimate > SECOND, "{late:?}");
    assert_eq!(flow.check(&"victim".into(), 12, left, now), Ok(()));
}
