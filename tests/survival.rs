//! Processes die under load; requests do not. Real processes, real signals, a real broker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use support::{Cluster, ClusterOptions, Load, eventually};

/// Redelivery takes `ack_wait` (5 s) when nobody gives the work back; the question and the answer come on top.
const RECOVERY_LIMIT: Duration = Duration::from_millis(7_500);
const LONG: Duration = Duration::from_secs(20);

fn simulated(workers: usize) -> ClusterOptions {
    ClusterOptions {
        workers,
        model: "simulated".to_owned(),
        env: vec![("FOREBAY_SIMULATED_BASE", "10ms".to_owned()), ("FOREBAY_BATCH_MAX_ROWS", "8".to_owned())],
        ..ClusterOptions::default()
    }
}

/// Messages left in all job streams.
async fn queued_messages(cluster: &Cluster) -> u64 {
    let client = async_nats::connect(cluster.broker_url()).await.unwrap();
    let mut streams = jetstream::new(client).streams();
    let mut messages = 0;
    while let Some(stream) = streams.next().await {
        let stream = stream.unwrap();
        if stream.config.name.starts_with("FOREBAY_JOBS_") {
            messages += stream.state.messages;
        }
    }
    messages
}

async fn the_queue_is_empty_in_the_end(cluster: &Cluster) {
    eventually("every message is acknowledged", LONG, || async { queued_messages(cluster).await == 0 }).await;
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
    the_queue_is_empty_in_the_end(&cluster).await;
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
    the_queue_is_empty_in_the_end(&cluster).await;
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
    the_queue_is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn two_workers_of_equal_speed_share_the_work_evenly() {
    let cluster = Cluster::start(simulated(2)).await;
    let report = Load::new(&cluster).concurrency(64).run(Duration::from_secs(3)).await;
    assert!(report.all_right(), "{report}");
    let mut rows = Vec::new();
    for worker in cluster.workers() {
        let page = support::client::get(worker.addr(), "/metrics").await.unwrap().text();
        let line = page.lines().find(|line| line.starts_with("forebay_worker_rows_total{")).unwrap().to_owned();
        rows.push(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    }
    println!("rows per worker: {rows:?}; {report}");
    let mean = (rows[0] + rows[1]) / 2.0;
    assert!((rows[0] - rows[1]).abs() <= 0.2 * mean, "{rows:?}");
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
    the_queue_is_empty_in_the_end(&cluster).await;
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
    the_queue_is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_worker_is_survived_with_a_large_request_in_flight() {
    let cluster = Cluster::start(simulated(2)).await;
    let inputs: Vec<String> = (0..500).map(|i| format!("row {i}")).collect();
    let body = serde_json::json!({ "model": "simulated", "input": inputs });
    let request = cluster.post("/v1/embeddings", &body);
    let killer = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        cluster.worker(1).kill9();
    };
    let (answer, ()) = tokio::join!(request, killer);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let verify = support::verify::built_in();
    for (index, input) in inputs.iter().enumerate() {
        let row = &answer["data"][index];
        assert_eq!(row["index"], index);
        verify(input, &serde_json::json!({ "data": [row] })).unwrap();
    }
    the_queue_is_empty_in_the_end(&cluster).await;
}
