//! The whole path once: a request over HTTP, through the queue, to a worker and back; the pages; the end.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Cluster, ClusterOptions, Load, client, verify};

#[tokio::test]
async fn a_request_is_answered_and_a_clean_stop_leaves_nothing() {
    let cluster = Cluster::start(ClusterOptions::default()).await;

    let answer = cluster.post("/v1/embeddings", &json!({ "model": "identity", "input": "one sentence" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    verify::built_in()("one sentence", &answer.json()).unwrap();

    let pids: Vec<u32> =
        [cluster.api(0), cluster.worker(0), cluster.aggregator(0), cluster.nats()].map(|p| p.pid().unwrap()).into();
    cluster.stop().await;
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()), "{pids:?}");
}

#[tokio::test]
async fn every_process_serves_its_metrics() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    for (process, name) in
        [(cluster.api(0), "forebay_api_"), (cluster.worker(0), "forebay_worker_"), (cluster.aggregator(0), "forebay_")]
    {
        let page = client::get(process.addr(), "/metrics").await.unwrap();
        assert_eq!(page.status, 200, "{}", process.name());
        assert!(page.text().contains(name), "{}: {}", process.name(), page.text());
    }
}

#[tokio::test]
async fn each_of_many_answers_belongs_to_its_request() {
    let cluster = Cluster::start(ClusterOptions { workers: 2, ..ClusterOptions::default() }).await;
    let report = Load::new(&cluster).concurrency(32).run(Duration::from_secs(1)).await;
    assert!(report.all_right(), "{report}");
    let report = Load::new(&cluster).rate(200.0).run(Duration::from_secs(1)).await;
    assert!(report.all_right(), "{report}");
}
