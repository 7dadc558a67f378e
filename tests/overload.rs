//! More is asked for than can be answered: what is answered is answered in time, and nearly as much as there is capacity for.
//! `make bench-overload` runs the ignored one, which prints the curve of the docs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Client, Cluster, ClusterOptions, Load, Report};

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Size {
    batch_rows: usize,
    batch: Duration,
    timeout: Duration,
    duration: Duration,
}

async fn start(size: Size, by_deadline: bool) -> Cluster {
    let worker_args = ["--batch-max-rows", &size.batch_rows.to_string(), "--simulated-base"];
    let mut worker_args: Vec<String> = worker_args.map(str::to_owned).into();
    worker_args.push(format!("{}ms", size.batch.as_millis()));
    let api_args = if by_deadline { Vec::new() } else { vec!["--no-deadline-admission".to_owned()] };
    let model = "simulated".to_owned();
    Cluster::start(ClusterOptions { model, worker_args, api_args, apis: 2, ..ClusterOptions::default() }).await
}

/// Answers per second when as much is asked for as is answered.
async fn capacity(cluster: &Cluster, size: Size) -> f64 {
    let load = Load::new(cluster).concurrency(4 * size.batch_rows).start();
    load.progress(4 * size.batch_rows, Duration::from_secs(20)).await;
    let (before, begin) = (load.right(), Instant::now());
    tokio::time::sleep(size.duration / 2).await;
    let rate = (load.right() - before) as f64 / begin.elapsed().as_secs_f64();
    load.stop().await;
    rate
}

/// Open-loop load, and right answers per second between its first and its last request.
async fn offer(cluster: &Cluster, size: Size, per_second: f64) -> (Report, f64) {
    let report = Load::new(cluster).rate(per_second).timeout(size.timeout).run(size.duration).await;
    let seconds = size.duration.as_secs_f64().max(report.sent() as f64 / per_second);
    let goodput = report.right() as f64 / seconds;
    (report, goodput)
}

/// Asks beside the load until it is refused for its deadline: what a client needs to know is in the answer.
async fn a_refusal_says_when(cluster: &Cluster, size: Size) {
    let body = json!({ "model": cluster.model_name(), "input": "x" });
    let mut client = Client::new(cluster.api(0).addr()).header("x-request-timeout", "0.2");
    let end = Instant::now() + size.duration;
    let refusal = loop {
        let answer = client.post("/v1/embeddings", &body).await.unwrap();
        if answer.status == 503 && answer.json()["error"]["code"] == "deadline_unreachable" {
            break answer;
        }
        assert!(Instant::now() < end, "nothing was refused for its deadline; the last answer: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let millis = |name: &str| refusal.header(name).and_then(|value| value.parse::<u64>().ok());
    let (seconds, millis) = (millis("retry-after").unwrap(), millis("retry-after-ms").unwrap());
    assert!(seconds >= 1 && millis >= 1 && seconds == millis.div_ceil(1_000), "{seconds} s, {millis} ms");
    let text = refusal.json()["error"]["message"].as_str().unwrap().to_owned();
    let estimate = text.split("about ").nth(1).and_then(|rest| rest.split(" ms").next()?.parse::<u64>().ok());
    assert!(estimate.is_some_and(|estimate| estimate > 200), "{text}");
}

#[tokio::test]
async fn under_threefold_overload_the_capacity_is_spent_on_answers_in_time() {
    let size = Size {
        batch_rows: 4,
        batch: Duration::from_millis(20),
        timeout: Duration::from_millis(1_000),
        duration: Duration::from_secs(6),
    };
    let cluster = start(size, true).await;
    let before = capacity(&cluster, size).await;
    let ((report, goodput), ()) =
        tokio::join!(offer(&cluster, size, 3.0 * before), a_refusal_says_when(&cluster, size));
    let statuses = report.by_status();
    // Other tests of a busy machine take from both: the smaller is what there was. On a quiet one nine tenths are reached,
    // see the bench.
    let capacity = before.min(capacity(&cluster, size).await);
    assert!(goodput > 0.8 * capacity, "capacity {capacity:.0}/s, goodput {goodput:.0}/s: {report}");
    assert!(statuses.get(&503).is_some_and(|refused| *refused > report.sent() / 4), "refused at the door: {report}");
    let refusal = support::client::get(cluster.api(0).addr(), "/metrics").await.unwrap().text();
    let refused = refusal.lines().find(|line| line.contains("admission_refused_total") && line.contains("deadline"));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{refused:?}");
    // The trouble is over: everything is answered again.
    let after = Load::new(&cluster).rate(capacity / 4.0).timeout(size.timeout * 5).run(Duration::from_secs(1)).await;
    assert!(after.all_right(), "{after}");
}

#[tokio::test]
#[ignore = "a measurement: make bench-overload"]
async fn bench_goodput_against_offered_load() {
    let size = Size {
        batch_rows: 16,
        batch: Duration::from_millis(20),
        timeout: Duration::from_millis(1_000),
        duration: Duration::from_secs(15),
    };
    println!(
        "### Answers within a deadline of {:?} against offered load; two apis, one worker (simulated, {} rows in {:?})",
        size.timeout, size.batch_rows, size.batch
    );
    println!(
        "| admission by deadline | offered / capacity | offered/s | goodput/s | of capacity | refused | late | p95 ms of answers |\n|---|---|---|---|---|---|---|---|"
    );
    for by_deadline in [true, false] {
        let cluster = start(size, by_deadline).await;
        let capacity = capacity(&cluster, size).await;
        for factor in [0.5, 0.8, 1.0, 1.5, 2.0, 3.0] {
            let (report, goodput) = offer(&cluster, size, factor * capacity).await;
            let statuses = report.by_status();
            let count = |status| statuses.get(&status).copied().unwrap_or(0);
            println!(
                "| {} | {factor} | {:.0} | {goodput:.0} | {:.0} % | {} | {} | {:.0} |",
                if by_deadline { "on" } else { "off" },
                factor * capacity,
                100.0 * goodput / capacity,
                count(503),
                count(504),
                report.latency(0.95).as_secs_f64() * 1e3
            );
            tokio::time::sleep(2 * size.timeout).await;
        }
    }
}
