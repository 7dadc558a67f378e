//! The work of a worker that dies or freezes goes to another at once, and nobody else's does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use support::{Client, Cluster, ClusterOptions, Holdings, Load, Process, Taken, queue, verify};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(20);
/// What is promised between a death and the next delivery. Here for nine of ten: the 99th percentile of a quiet machine is
/// what `bench_recovery` measures, and a machine that does other things may hold a process up for a while.
const DEATH_LIMIT: Duration = Duration::from_millis(250);
/// Three heartbeats.
const FREEZE_LIMIT: Duration = Duration::from_secs(3);
/// Whatever the machine does: far from `ack_wait`, after which the work would have come back without a reaper.
const SLACK: Duration = Duration::from_secs(1);
/// Without a reaper the work comes back this much later.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// `base`: how long a batch takes.
fn simulated(workers: usize, base: &str) -> ClusterOptions {
    let env = vec![("FOREBAY_SIMULATED_BASE", base.to_owned()), ("FOREBAY_BATCH_MAX_ROWS", "8".to_owned())];
    ClusterOptions { workers, model: "simulated".to_owned(), reapers: true, env, ..ClusterOptions::default() }
}

/// The value of a metric, summed over its labels.
async fn metric(process: &Process, name: &str) -> f64 {
    let page = support::client::get(process.addr(), "/metrics").await.unwrap().text();
    let of_metric = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    page.lines().filter(of_metric).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

async fn naks(cluster: &Cluster) -> f64 {
    metric(cluster.aggregator(0), "forebay_recovery_naks_total").await
}

async fn rows(worker: &Process) -> f64 {
    metric(worker, "forebay_worker_rows_total").await
}

/// Sends one request and checks its answer.
fn request(cluster: &Cluster, input: String) -> JoinHandle<Duration> {
    let mut client = Client::new(cluster.api(0).addr());
    tokio::spawn(async move {
        let sent = Instant::now();
        let answer = client.post("/v1/embeddings", &json!({ "model": "simulated", "input": input })).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        verify::built_in()(&input, &answer.json()).unwrap();
        sent.elapsed()
    })
}

/// What a worker is done to while it holds work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Freeze,
}

/// From the blow to the announcement of the next delivery of what the worker held, `rounds` times.
async fn recoveries(cluster: &Cluster, blow: Blow, rounds: usize) -> Vec<Duration> {
    let mut holdings = Holdings::listen(cluster).await;
    for worker in cluster.workers() {
        holdings.settled(worker.name()).await;
    }
    let mut took = Vec::new();
    for round in 0..rounds {
        let answer = request(cluster, format!("round {round}"));
        let Taken { worker, stream_seq, .. } = holdings.taken(LONG, |taken| taken.delivered == 1).await;
        let victim = cluster.workers().iter().find(|process| process.name() == worker).unwrap();
        let begin = Instant::now();
        match blow {
            Blow::Kill => victim.kill9(),
            Blow::Freeze => victim.freeze(),
        }
        let next = holdings.taken(LONG, |taken| taken.stream_seq == stream_seq && taken.delivered == 2).await;
        took.push(next.at - begin);
        assert_ne!(next.worker, worker);
        match blow {
            Blow::Kill => victim.restart(),
            Blow::Freeze => victim.thaw(),
        }
        answer.await.unwrap();
        cluster.ready().await;
        holdings.settled(&worker).await;
    }
    took.sort_unstable();
    took
}

fn print(what: &str, took: &[Duration]) {
    let at = |quantile: f64| took[((took.len() - 1) as f64 * quantile).round() as usize].as_secs_f64() * 1e3;
    println!("| what | rounds | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|");
    println!("| {what} | {} | {:.0} | {:.0} | {:.0} |", took.len(), at(0.5), at(0.99), at(1.0));
}

#[tokio::test]
async fn what_a_killed_worker_held_is_delivered_again_at_once() {
    let cluster = Cluster::start(ClusterOptions { aggregators: 2, ..simulated(2, "400ms") }).await;
    let took = recoveries(&cluster, Blow::Kill, 20).await;
    print("killed → next delivery", &took);
    assert!(took[17] < DEATH_LIMIT && took[19] < DEATH_LIMIT + SLACK, "{took:?}");
    let naks = naks(&cluster).await + metric(cluster.aggregator(1), "forebay_recovery_naks_total").await;
    assert!((20.0..30.0).contains(&naks), "one of the two aggregators acts each time: {naks}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_frozen_worker_held_is_delivered_again_within_three_heartbeats() {
    let cluster = Cluster::start(simulated(2, "400ms")).await;
    let took = recoveries(&cluster, Blow::Freeze, 3).await;
    print("frozen → next delivery", &took);
    assert!(took[took.len() - 1] < FREEZE_LIMIT + SLACK, "{took:?}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_reaper_that_starts_after_the_workers_finds_a_frozen_one_too() {
    let cluster = Cluster::start(simulated(2, "400ms")).await;
    cluster.aggregator(0).terminate(LONG).await;
    cluster.aggregator(0).restart();
    cluster.aggregator(0).ready(LONG).await;
    let took = recoveries(&cluster, Blow::Freeze, 1).await;
    assert!(took[0] < FREEZE_LIMIT + SLACK, "{took:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_went_into_the_socket_of_an_idle_frozen_worker_is_found_as_well() {
    let cluster = Cluster::start(simulated(2, "10ms")).await;
    let mut holdings = Holdings::listen(&cluster).await;
    holdings.settled(cluster.worker(1).name()).await;
    cluster.worker(0).freeze();
    let mut answers = Vec::new();
    for number in 0..8 {
        answers.push(request(&cluster, format!("request {number}")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut slowest = Duration::ZERO;
    for answer in answers {
        slowest = slowest.max(answer.await.unwrap());
    }
    println!("slowest answer {slowest:?}, {} naks", naks(&cluster).await);
    assert!(slowest > Duration::from_secs(1), "its open request has drawn something: {slowest:?}");
    assert!(slowest < FREEZE_LIMIT + SLACK, "{slowest:?}");
    cluster.worker(0).thaw();
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_killed_under_load_delays_requests_by_less_than_two_seconds() {
    let cluster = Cluster::start(simulated(2, "10ms")).await;
    Holdings::listen(&cluster).await.settled(cluster.worker(0).name()).await;
    let load = Load::new(&cluster).concurrency(32).start();
    // Long enough for a reaper that only listens to announcements to forget about the time.
    tokio::time::sleep(Duration::from_secs(5)).await;
    load.progress(200, LONG).await;
    cluster.worker(0).kill9();
    load.progress(500, LONG).await;
    let report = load.stop().await;
    let naks = naks(&cluster).await;
    println!("killed under load: {report}; {naks} naks");
    assert!(naks > 0.0, "its work came back by itself: {}", cluster.aggregator(0).log_tail(10));
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < Duration::from_secs(2), "{report}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_thawed_worker_says_nothing_about_what_it_held_and_works_again() {
    let cluster = Cluster::start(simulated(2, "1s")).await;
    let observer = async_nats::connect(cluster.broker_url()).await.unwrap();
    let mut acks = observer.subscribe("$JS.ACK.>").await.unwrap();
    let mut holdings = Holdings::listen(&cluster).await;
    holdings.settled(cluster.worker(1).name()).await;
    let answer = request(&cluster, "once and only once".to_owned());
    let first = holdings.taken(LONG, |taken| taken.delivered == 1).await;
    let frozen = cluster.workers().iter().find(|process| process.name() == first.worker).unwrap();
    frozen.freeze();
    let second = holdings.taken(LONG, |taken| taken.delivered == 2).await;
    // The other has it now, and computes.
    frozen.thaw();
    answer.await.unwrap();
    queue::is_empty_in_the_end(&cluster).await;
    holdings.settled(frozen.name()).await;
    let mut words = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), acks.next()).await {
        words.push((message.subject.to_string(), String::from_utf8_lossy(&message.payload).into_owned()));
    }
    println!("{words:#?}");
    assert_ne!(first.ack, second.ack);
    let about_first: Vec<&str> =
        words.iter().filter(|(subject, _)| *subject == first.ack).map(|(_, word)| word.as_str()).collect();
    // The reaper's; then, if the thawed worker was the first to answer, the api's.
    assert!([vec!["-NAK"], vec!["-NAK", "+ACK"]].contains(&about_first), "{words:?}");
    // It serves again: with the other gone, everything is its own.
    let before = rows(frozen).await;
    let other = cluster.workers().iter().find(|process| process.name() != first.worker).unwrap();
    other.terminate(LONG).await;
    request(&cluster, "again".to_owned()).await.unwrap();
    assert!(rows(frozen).await > before);
    cluster.stop().await;
}

#[tokio::test]
async fn a_short_stop_costs_nothing_but_its_own_time() {
    let cluster = Cluster::start(simulated(1, "10ms")).await;
    let load = Load::new(&cluster).concurrency(8).start();
    load.progress(100, LONG).await;
    cluster.worker(0).freeze();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.worker(0).thaw();
    load.progress(200, LONG).await;
    let report = load.stop().await;
    println!("stopped for 1.5 s: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < Duration::from_secs(3), "what waited in the socket was taken: {report}");
    assert_eq!(naks(&cluster).await, 0.0);
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_is_reaped_when_the_broker_is_killed_and_restarted() {
    let cluster = Cluster::start(simulated(3, "10ms")).await;
    Holdings::listen(&cluster).await.settled(cluster.worker(0).name()).await;
    let load = Load::new(&cluster).concurrency(16).timeout(Duration::from_secs(15)).start();
    load.progress(200, LONG).await;
    cluster.restart_nats(Duration::from_millis(300)).await;
    load.progress(300, LONG).await;
    tokio::time::sleep(ACK_WAIT + Duration::from_secs(1)).await;
    let report = load.stop().await;
    println!("broker restarted: {report}");
    assert_eq!(report.wrong() + report.broken(), 0, "{report}");
    assert_eq!(naks(&cluster).await, 0.0);
    // And afterwards it works as before.
    let took = recoveries(&cluster, Blow::Kill, 2).await;
    assert!(took[1] < DEATH_LIMIT + SLACK, "{took:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_that_drains_is_not_reaped() {
    let cluster = Cluster::start(simulated(2, "10ms")).await;
    Holdings::listen(&cluster).await.settled(cluster.worker(0).name()).await;
    let load = Load::new(&cluster).concurrency(16).start();
    load.progress(200, LONG).await;
    let status = cluster.worker(0).terminate(LONG).await;
    assert!(status.success(), "{status}");
    load.progress(200, LONG).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let report = load.stop().await;
    assert!(report.all_right(), "{report}");
    assert_eq!(naks(&cluster).await, 0.0, "{}", cluster.aggregator(0).log_tail(10));
    cluster.stop().await;
}

#[tokio::test]
async fn without_a_reaper_the_work_comes_back_after_ack_wait() {
    let cluster = Cluster::start(ClusterOptions { reapers: false, ..simulated(2, "400ms") }).await;
    let took = recoveries(&cluster, Blow::Kill, 1).await;
    println!("without a reaper: {took:?}");
    assert!(took[0] > ACK_WAIT - Duration::from_secs(1) && took[0] < ACK_WAIT + Duration::from_secs(3), "{took:?}");
    assert!(cluster.aggregator(0).log().contains("--system-credentials"));
    cluster.stop().await;
}

/// `make bench-recovery`.
#[tokio::test]
#[ignore = "a measurement of some minutes"]
async fn bench_recovery() {
    let rounds = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let cluster = Cluster::start(simulated(3, "400ms")).await;
    print(
        "SIGKILL of a worker that holds work → next delivery",
        &recoveries(&cluster, Blow::Kill, rounds("KILLS", 100)).await,
    );
    print(
        "SIGSTOP of a worker that holds work → next delivery",
        &recoveries(&cluster, Blow::Freeze, rounds("FREEZES", 20)).await,
    );
    cluster.stop().await;
}
