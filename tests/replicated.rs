//! Three brokers that are one queue: any of them may die under load, and what was accepted is answered.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use futures::TryStreamExt;
use support::{Cluster, ClusterOptions, Load, eventually, queue};

const LONG: Duration = Duration::from_secs(60);
/// Streams are deaf for 5 to 8 s while a leader is chosen; deliveries that were in flight come back after `ack_wait`, 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
const FAILOVER_LIMIT: Duration = Duration::from_secs(15);

fn replicated() -> ClusterOptions {
    ClusterOptions {
        workers: 2,
        brokers: 3,
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
    assert!(report.all_right(), "{report}");
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
