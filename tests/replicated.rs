//! Three brokers that are one queue: any of them may die under load, and what was accepted is answered.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use futures::TryStreamExt;
use serde_json::json;
use support::report::{Sample, Seen};
use support::{Client, Cluster, ClusterOptions, Holdings, Load, Taken, eventually, queue, verify};

const LONG: Duration = Duration::from_secs(60);
/// Streams are deaf for 5 to 8 s while a leader is chosen; deliveries that were in flight come back after `ack_wait`, 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
const FAILOVER_LIMIT: Duration = Duration::from_secs(25);
/// The broker itself misses a delivery after this.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// An answer that says no is at the door when it comes at once.
const AT_ONCE: Duration = Duration::from_secs(2);

fn replicated() -> ClusterOptions {
    ClusterOptions {
        workers: 2,
        brokers: 3,
        reapers: true,
        model: "simulated".to_owned(),
        env: vec![
            ("FOREBAY_DURABILITY", "replicated".to_owned()),
            ("FOREBAY_SIMULATED_BASE", "10ms".to_owned()),
            ("FOREBAY_BATCH_MAX_ROWS", "8".to_owned()),
        ],
        ..ClusterOptions::default()
    }
}

async fn jobs_stream(cluster: &Cluster) -> stream::Info {
    let js = jetstream::new(cluster.broker_client().await);
    let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
    let name = names.into_iter().find(|name| name.starts_with("FOREBAY_JOBS_")).unwrap();
    js.get_stream(&name).await.unwrap().cached_info().clone()
}

/// Index of the broker that leads the jobs' stream.
async fn leader(cluster: &Cluster) -> usize {
    let info = jobs_stream(cluster).await;
    let leader = info.cluster.unwrap().leader.unwrap();
    cluster.brokers().iter().position(|broker| broker.name() == leader).unwrap()
}

#[tokio::test]
async fn the_leader_of_the_queue_is_killed_under_load_and_what_was_accepted_is_answered() {
    let cluster = Cluster::start(replicated()).await;
    let info = jobs_stream(&cluster).await;
    assert_eq!(info.config.num_replicas, 3);
    let load = Load::new(&cluster).concurrency(16).timeout(TIMEOUT).start();
    load.progress(300, LONG).await;

    let leader = leader(&cluster).await;
    cluster.brokers()[leader].kill9();
    let killed = Instant::now();
    load.progress(50, LONG).await;
    let failover = killed.elapsed();
    load.progress(300, LONG).await;
    // Longer than the deliveries of the old leader are lent.
    tokio::time::sleep(Duration::from_secs(18)).await;
    let report = load.stop().await;
    println!("leader of the queue killed: answers flow again after {failover:?}; {report}");
    // While there is no leader a request may be refused; one that was accepted is answered.
    let is_refused = |sample: &Sample| {
        let at_the_door = matches!(sample.result, Seen::Status(503, _)) && sample.took < AT_ONCE;
        at_the_door && sample.sent >= killed && sample.sent < killed + FAILOVER_LIMIT
    };
    let failed = report.samples.iter().find(|sample| sample.result != Seen::Right && !is_refused(sample));
    assert!(failed.is_none(), "{failed:?} in {report}");
    assert!(report.max_gap() < FAILOVER_LIMIT, "no answer for {:?}", report.max_gap());

    // It comes back as a follower and catches up; the next may die.
    cluster.brokers()[leader].restart();
    cluster.brokers()[leader].ready(LONG).await;
    eventually("all replicas are current", LONG, || async {
        let replicas = jobs_stream(&cluster).await.cluster.unwrap().replicas;
        replicas.len() == 2 && replicas.iter().all(|replica| replica.current)
    })
    .await;
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_killed_under_load_fails_no_request() {
    let cluster = Cluster::start(replicated()).await;
    let load = Load::new(&cluster).concurrency(16).timeout(TIMEOUT).start();
    load.progress(300, LONG).await;
    let follower = (leader(&cluster).await + 1) % 3;
    cluster.brokers()[follower].kill9();
    load.progress(300, LONG).await;
    tokio::time::sleep(Duration::from_secs(18)).await;
    let report = load.stop().await;
    println!("follower killed: {report}");
    assert!(report.all_right(), "{report}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_killed_worker_held_is_delivered_again_long_before_the_broker_misses_it() {
    let mut options = replicated();
    options.env.push(("FOREBAY_SIMULATED_BASE", "400ms".to_owned()));
    let cluster = Cluster::start(options).await;
    let mut holdings = Holdings::listen(&cluster).await;
    for worker in cluster.workers() {
        holdings.settled(worker.name()).await;
    }
    let mut client = Client::new(cluster.api(0).addr()).header("x-request-timeout", "30");
    let body = json!({ "model": "simulated", "input": "held by the dead" });
    let answer = tokio::spawn(async move { client.post("/v1/embeddings", &body).await.unwrap() });
    let Taken { worker, stream_seq, .. } = holdings.taken(LONG, |taken| taken.delivered == 1).await;
    let killed = Instant::now();
    cluster.workers().iter().find(|process| process.name() == worker).unwrap().kill9();
    let next = holdings.taken(LONG, |taken| taken.stream_seq == stream_seq && taken.delivered == 2).await;
    let took = next.at - killed;
    println!("killed → next delivery on three brokers: {took:?}");
    assert_ne!(next.worker, worker);
    assert!(took < ACK_WAIT / 3, "{took:?}");
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    verify::built_in()("held by the dead", &answer.json()).unwrap();
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_was_accepted_before_the_death_of_the_leader_is_done_once() {
    const ROWS: usize = 80;
    let mut options = replicated();
    options.env.push(("FOREBAY_SIMULATED_BASE", "300ms".to_owned()));
    let cluster = Cluster::start(options).await;
    let rows: Vec<String> = (0..ROWS).map(|row| format!("row {row}")).collect();
    let order = json!({ "task": "embed", "model": "simulated", "input": rows });
    let submit = || async {
        let mut client = Client::new(cluster.api(0).addr()).header("idempotency-key", "before-the-death");
        client.post("/v1/jobs", &order).await.unwrap()
    };
    let accepted = submit().await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/jobs/{id}");
    eventually("it runs", LONG, || async { cluster.get(&path).await.json()["state"] == "running" }).await;
    cluster.brokers()[leader(&cluster).await].kill9();
    eventually("it is done", 2 * LONG, || async { cluster.get(&path).await.json()["state"] == "done" }).await;
    let done = cluster.get(&path).await.json();
    let results = done["result"]["data"].as_array().unwrap();
    assert_eq!((results.len(), &done["generation"]), (ROWS, &json!(0)), "{done}");

    // Who did not hear the answer sends it again, and is told of the same job.
    eventually("the key leads to the job", LONG, || async {
        let again = submit().await;
        again.status == 202 && again.json()["id"] == id
    })
    .await;
    queue::is_empty_in_the_end(&cluster).await;
    let after = cluster.get(&path).await.json();
    assert_eq!((&after["state"], &after["ended_at"]), (&json!("done"), &done["ended_at"]), "an end is for good");
    assert_eq!(cluster.get("/v1/jobs").await.json()["data"].as_array().unwrap().len(), 1);
    cluster.stop().await;
}
