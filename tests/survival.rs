//! Processes die under load; requests do not. Real processes, real signals, a real broker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use support::{Client, Cluster, ClusterOptions, Load, Process, eventually, queue, verify};

/// Redelivery takes `ack_wait` (5 s) when nobody gives the work back; the question and the answer come on top.
const RECOVERY_LIMIT: Duration = Duration::from_millis(7_500);
/// A stuck engine is noticed a moment after its limit of 1 s, and its work is given back at once.
const STUCK_LIMIT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(20);

fn simulated(workers: usize) -> ClusterOptions {
    ClusterOptions {
        workers,
        model: "simulated".to_owned(),
        env: vec![("FOREBAY_SIMULATED_BASE", "10ms".to_owned()), ("FOREBAY_BATCH_MAX_ROWS", "8".to_owned())],
        ..ClusterOptions::default()
    }
}

/// Rows that a worker has computed.
async fn rows(worker: &Process) -> f64 {
    let page = support::client::get(worker.addr(), "/metrics").await.unwrap().text();
    let line = page.lines().find(|line| line.starts_with("forebay_worker_rows_total{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_worker_killed_under_load_fails_no_request() {
    let cluster = Cluster::start(simulated(2)).await;
    let load = Load::new(&cluster).concurrency(32).start();
    load.progress(200, LONG).await;
    cluster.worker(0).kill9();
    load.progress(500, LONG).await;
    // What the dead worker held comes back after ack_wait.
    tokio::time::sleep(RECOVERY_LIMIT).await;
    let report = load.stop().await;
    println!("worker killed: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < RECOVERY_LIMIT, "recovery took {:?}", report.latency(1.0));
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_only_worker_is_killed_and_started_again_and_no_request_fails() {
    let cluster = Cluster::start(simulated(1)).await;
    let load = Load::new(&cluster).concurrency(16).start();
    load.progress(100, LONG).await;
    cluster.worker(0).kill9();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.worker(0).restart();
    load.progress(200, LONG).await;
    let report = load.stop().await;
    println!("only worker killed: {report}");
    assert!(report.all_right(), "{report}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_drained_worker_fails_no_request_and_delays_none() {
    let cluster = Cluster::start(simulated(2)).await;
    let load = Load::new(&cluster).concurrency(32).start();
    load.progress(200, LONG).await;
    let status = cluster.worker(0).terminate(LONG).await;
    assert!(status.success(), "{status}");
    load.progress(500, LONG).await;
    let report = load.stop().await;
    println!("worker drained: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < Duration::from_secs(2), "a drain gives back at once, took {:?}", report.latency(1.0));
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn two_workers_of_equal_speed_share_the_work() {
    let cluster = Cluster::start(simulated(2)).await;
    let report = Load::new(&cluster).concurrency(64).run(Duration::from_secs(3)).await;
    assert!(report.all_right(), "{report}");
    let rows = [rows(cluster.worker(0)).await, rows(cluster.worker(1)).await];
    println!("rows per worker: {rows:?}; {report}");
    // Who else has the machine in these seconds takes from one more than from the other; a worker that is left out has none.
    let all = rows[0] + rows[1];
    assert!(rows.iter().all(|rows| *rows >= all / 4.0), "{rows:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_api_takes_nobody_else_down_and_its_work_leaves_the_queue() {
    let cluster = Cluster::start(ClusterOptions { apis: 2, ..simulated(2) }).await;
    let addrs = cluster.api_addrs();
    let doomed = Load::new(&cluster).targets(vec![addrs[0]]).concurrency(16).start();
    let others = Load::new(&cluster).targets(vec![addrs[1]]).concurrency(16).start();
    others.progress(100, LONG).await;
    cluster.api(0).kill9();
    others.progress(300, LONG).await;
    let lost = doomed.stop().await;
    assert_eq!(lost.wrong(), 0, "{lost}");
    let report = others.stop().await;
    println!("api killed, others: {report}");
    assert!(report.all_right(), "{report}");
    // Nobody waits for the dead api's jobs: workers ask, hear nothing, and drop them.
    queue::is_empty_in_the_end(&cluster).await;
}

#[tokio::test]
async fn the_broker_is_killed_and_restarted_and_every_request_ends_in_time() {
    let cluster = Cluster::start(simulated(2)).await;
    let timeout = Duration::from_secs(15);
    let load = Load::new(&cluster).concurrency(16).timeout(timeout).start();
    load.progress(200, LONG).await;
    let begin = Instant::now();
    cluster.restart_nats(Duration::from_millis(300)).await;
    load.progress(300, LONG).await;
    println!("broker restarted: answers flow again after {:?}", begin.elapsed());
    tokio::time::sleep(RECOVERY_LIMIT).await;
    let report = load.stop().await;
    println!("broker restarted: {report}");
    assert_eq!(report.wrong() + report.broken(), 0, "{report}");
    assert!(report.by_status().keys().all(|status| [200, 503, 504].contains(status)), "{report}");
    assert!(report.samples.iter().all(|sample| sample.took < timeout + Duration::from_secs(1)), "{report}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_worker_is_survived_with_a_large_request_in_flight() {
    let cluster = Cluster::start(simulated(2)).await;
    let inputs: Vec<String> = (0..500).map(|i| format!("row {i}")).collect();
    let body = json!({ "model": "simulated", "input": inputs });
    let request = cluster.post("/v1/embeddings", &body);
    let killer = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        cluster.worker(1).kill9();
    };
    let (answer, ()) = tokio::join!(request, killer);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let verify = verify::built_in();
    for (index, input) in inputs.iter().enumerate() {
        let row = &answer["data"][index];
        assert_eq!(row["index"], index);
        verify(input, &json!({ "data": [row] })).unwrap();
    }
    queue::is_empty_in_the_end(&cluster).await;
}

#[tokio::test]
async fn accepted_requests_wait_on_disk_while_the_broker_is_killed_and_are_answered_in_time() {
    // As many as an api puts on the queue while nobody takes them: two batches of eight.
    const REQUESTS: usize = 12;
    let cluster = Cluster::start(simulated(1)).await;
    cluster.worker(0).kill9();
    let addr = cluster.api(0).addr();
    let requests = (0..REQUESTS).map(|i| async move {
        // One after the other, so that they travel in several messages.
        tokio::time::sleep(Duration::from_millis(200 + 20 * i as u64)).await;
        let input = format!("request {i}");
        let mut client = Client::new(addr).header("x-request-timeout", "20");
        let answer = client.post("/v1/embeddings", &json!({ "model": "simulated", "input": input })).await.unwrap();
        (input, answer)
    });
    let disturbance = async {
        eventually("all requests are in the stream", LONG, || async {
            queue::messages(&cluster).await.iter().map(queue::Queued::jobs).sum::<usize>() == REQUESTS
        })
        .await;
        let before = queue::messages(&cluster).await;
        assert!(before.len() > 1, "{before:?}");
        cluster.restart_nats(Duration::from_millis(300)).await;
        let after = queue::messages(&cluster).await;
        assert_eq!(after, before, "what was acknowledged is still there, unchanged");
        cluster.worker(0).restart();
        println!("{} messages survived", after.len());
    };
    let (answers, ()) = tokio::join!(join_all(requests), disturbance);
    for (input, answer) in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        verify::built_in()(&input, &answer.json()).unwrap();
    }
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_frozen_worker_delays_only_what_it_held_and_does_no_harm_when_it_thaws() {
    let cluster = Cluster::start(simulated(2)).await;
    let load = Load::new(&cluster).concurrency(32).start();
    load.progress(200, LONG).await;
    cluster.worker(0).freeze();
    load.progress(500, LONG).await;
    tokio::time::sleep(RECOVERY_LIMIT).await;
    cluster.worker(0).thaw();
    let before = rows(cluster.worker(0)).await;
    load.progress(1_000, LONG).await;
    let report = load.stop().await;
    println!("worker frozen: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) > Duration::from_secs(3), "it held something: {report}");
    assert!(report.latency(1.0) < RECOVERY_LIMIT, "recovery took {:?}", report.latency(1.0));
    assert!(rows(cluster.worker(0)).await > before, "the thawed worker works again");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_with_a_stuck_engine_gives_its_work_back_and_ends_by_itself() {
    let mut cluster = Cluster::start(simulated(1)).await;
    // A request of 300 words holds this one for half a minute; its own warm-up of 16 tokens takes 1.6 s.
    cluster.add_worker_with(&[
        ("FOREBAY_SIMULATED_BASE", "0s"),
        ("FOREBAY_SIMULATED_PER_TOKEN", "100ms"),
        ("FOREBAY_STALL_LIMIT", "1s"),
    ]);
    cluster.ready().await;
    let load = Load::new(&cluster).concurrency(8).words(300).start();
    let status = cluster.worker(1).ended(LONG).await;
    assert!(!status.success() && status.code().is_some(), "{status}");
    assert!(cluster.worker(1).log().contains("--stall-limit"), "{}", cluster.worker(1).log_tail(10));
    load.progress(200, LONG).await;
    let report = load.stop().await;
    println!("engine stuck: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < STUCK_LIMIT, "recovery took {:?}", report.latency(1.0));
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}
