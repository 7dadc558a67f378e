//! A device that fails: memory that does not suffice, a device that is lost. And one that works by itself: batches overlap.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Answer, Client, Cluster, ClusterOptions, Load, Process, Report, eventually, queue, verify};

const LONG: Duration = Duration::from_secs(30);
/// A word that the tests' devices are lost by.
const FATAL: &str = "xyzzy";
/// What a lost device held comes back at once, not after `ack_wait` (5 s); the question on redelivery comes on top.
const RECOVERY_LIMIT: Duration = Duration::from_secs(4);

fn simulated(workers: usize, env: &[(&'static str, &str)]) -> ClusterOptions {
    let rows = ("FOREBAY_BATCH_MAX_ROWS", "8");
    let env = [rows].iter().chain(env).map(|(name, value)| (*name, (*value).to_owned())).collect();
    ClusterOptions { workers, model: "simulated".to_owned(), env, ..ClusterOptions::default() }
}

async fn ask(cluster: &Cluster, input: &str) -> Answer {
    let mut client = Client::new(cluster.api(0).addr()).header("x-request-timeout", "50");
    client.post("/v1/embeddings", &json!({ "model": "simulated", "input": input })).await.unwrap()
}

/// The sum of a metric's series with `labels` on one process' own page.
async fn metric(process: &Process, name: &str, labels: &str) -> f64 {
    let page = support::client::get(process.addr(), "/metrics").await.unwrap().text();
    let of_it = |line: &&str| line.starts_with(name) && line.contains(labels);
    page.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn a_worker_whose_device_is_lost_under_load_gives_all_back_and_ends_with_an_error() {
    let mut cluster = Cluster::start(simulated(1, &[("FOREBAY_SIMULATED_DEPTH", "2")])).await;
    cluster.add_worker_with(&[("FOREBAY_SIMULATED_LOSE_ON", FATAL)]);
    cluster.ready().await;
    let load = Load::new(&cluster).concurrency(32).start();
    eventually("both work", LONG, || async {
        metric(cluster.worker(1), "forebay_worker_rows_total", "").await > 100.0
    })
    .await;
    // Whichever worker gets it, it is answered: by the other one at last.
    let input = format!("loses {FATAL} devices");
    while cluster.worker(1).is_running() {
        let answer = ask(&cluster, &input).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        verify::built_in()(&input, &answer.json()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = cluster.worker(1).ended(LONG).await;
    assert!(!status.success() && status.code().is_some(), "{status}");
    let log = cluster.worker(1).log();
    assert!(log.contains("the device is lost") && !log.contains(FATAL), "{}", cluster.worker(1).log_tail(20));
    load.progress(300, LONG).await;
    let report = load.stop().await;
    println!("device lost: {report}");
    assert!(report.all_right(), "{report}");
    assert!(report.latency(1.0) < RECOVERY_LIMIT, "recovery took {:?}", report.latency(1.0));
    assert_eq!(
        metric(cluster.api(0), "forebay_api_replies_duplicate_total", "").await,
        0.0,
        "something was answered twice"
    );
    // The last report of the worker that is gone has its fault.
    eventually("the fleet knows of the fault", LONG, || async {
        metric(cluster.aggregator(0), "forebay_inference_errors_total", "kind=\"device\"").await >= 1.0
    })
    .await;
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_loses_every_device_is_put_aside_like_one_that_ends_every_worker() {
    let env = [("FOREBAY_SIMULATED_DEPTH", "2"), ("FOREBAY_SIMULATED_LOSE_ON", FATAL)];
    let cluster = Cluster::start(simulated(1, &env)).await;
    let input = format!("loses {FATAL} devices");
    let mut started = 0;
    let answer = {
        let mut answer = std::pin::pin!(ask(&cluster, &input));
        loop {
            tokio::select! {
                answer = &mut answer => break answer,
                () = tokio::time::sleep(Duration::from_millis(50)) => if !cluster.worker(0).is_running() {
                    cluster.worker(0).restart();
                    started += 1;
                }
            }
        }
    };
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("dead_lettered")), "{}", answer.text());
    assert_eq!(started, 3, "among others, and twice alone");
    cluster.ready().await;
    let answer = ask(&cluster, "the next").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_batch_without_memory_fails_no_request() {
    for depth in ["1", "2"] {
        // Eight rows of eight tokens are too many; three are not.
        let env = [
            ("FOREBAY_SIMULATED_DEPTH", depth),
            ("FOREBAY_SIMULATED_MEMORY_TOKENS", "31"),
            ("FOREBAY_SIMULATED_BASE", "5ms"),
        ];
        let cluster = Cluster::start(simulated(1, &env)).await;
        let load = Load::new(&cluster).concurrency(32).start();
        load.progress(300, LONG).await;
        let report = load.stop().await;
        assert!(report.all_right(), "{report}");
        let faults = metric(cluster.worker(0), "forebay_worker_inference_errors_total", "out_of_memory").await;
        println!("memory for 31 tokens, depth {depth}: {report} {faults} batches without memory");
        assert!(faults > 0.0);
        // What does not fit alone is an error of its own, and of nobody else.
        let answer = ask(&cluster, &"word ".repeat(40)).await;
        assert_eq!(answer.status, 500, "{}", answer.text());
        queue::is_empty_in_the_end(&cluster).await;
        cluster.stop().await;
    }
}

/// Full batches for which host and device need 10 ms each.
async fn with_depth(depth: &str) -> Report {
    let env =
        [("FOREBAY_SIMULATED_DEPTH", depth), ("FOREBAY_SIMULATED_BASE", "10ms"), ("FOREBAY_SIMULATED_SUBMIT", "10ms")];
    let cluster = Cluster::start(simulated(1, &env)).await;
    let report = Load::new(&cluster).concurrency(48).run(Duration::from_secs(3)).await;
    assert!(report.all_right(), "{report}");
    cluster.stop().await;
    report
}

#[tokio::test]
async fn two_batches_under_way_compute_more_than_one() {
    let (one, two) = (with_depth("1").await, with_depth("2").await);
    println!("depth 1: {one}depth 2: {two}");
    // Twice as many, were nobody else on the machine.
    assert!(two.throughput() > 1.25 * one.throughput(), "{one}{two}");
}
