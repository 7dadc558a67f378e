//! A tenant that floods queues behind itself; lanes keep their order under overload. `make bench-fairness` runs the
//! ignored ones, which print the figures of the docs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Cluster, ClusterOptions, Load, Report, client, eventually};
use tokio::task::JoinSet;

const LONG: Duration = Duration::from_secs(60);

/// SHA-256 of `flooder` and of `victim`, who use their names as keys.
const FLOODER: &str = "b73ae829af66ea1898fa421deebd6bbc60b0232189cf39bdc9d4f10163f3cd78";
const VICTIM: &str = "1bdd5b5b92e2d9f30a3b223bb359551d0da20e3702923e5f7b0a73889eba3d21";

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Size {
    batch_rows: usize,
    batch: Duration,
    /// Jobs of the flood that wait in each api, and rows of each of its requests.
    flood_per_api: usize,
    flood_rows: usize,
    victim_for: Duration,
}

const SMALL: Size = Size {
    batch_rows: 8,
    batch: Duration::from_millis(20),
    flood_per_api: 2_000,
    flood_rows: 500,
    victim_for: Duration::from_secs(4),
};

/// 50 000 jobs on two apis, two workers of 1 600 rows a second each.
const LARGE: Size = Size {
    batch_rows: 32,
    batch: Duration::from_millis(20),
    flood_per_api: 25_000,
    flood_rows: 1_000,
    victim_for: Duration::from_secs(20),
};

async fn start(size: Size, keys: Option<&std::path::Path>) -> Cluster {
    let mut api_args = vec!["--max-in-flight-jobs".to_owned(), (4 * size.flood_per_api).to_string()];
    if let Some(file) = keys {
        api_args.extend(["--api-keys".to_owned(), file.display().to_string()]);
    }
    let worker_args = ["--batch-max-rows", &size.batch_rows.to_string(), "--simulated-base"];
    let mut worker_args: Vec<String> = worker_args.map(str::to_owned).into();
    worker_args.push(format!("{}ms", size.batch.as_millis()));
    let options = ClusterOptions {
        apis: 2,
        workers: 2,
        model: "simulated".to_owned(),
        api_args,
        worker_args,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await;
    // Apis know of each other by their reports, one a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster
}

/// Requests of many rows, one after the other, so that about `flood_per_api` jobs wait in each api. Ends when dropped.
fn flood(cluster: &Cluster, size: Size, headers: &[(&str, &str)]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for addr in cluster.api_addrs() {
        for _ in 0..size.flood_per_api.div_ceil(size.flood_rows) {
            let client = Client::new(addr).header("x-request-timeout", "120");
            let mut client = headers.iter().fold(client, |client, (name, value)| client.header(name, value));
            let input: Vec<String> =
                (0..size.flood_rows).map(|row| format!("flood of eight words row {row} it is")).collect();
            let body = json!({ "model": "simulated", "input": input });
            tasks.spawn(async move {
                loop {
                    if !client.post("/v1/embeddings", &body).await.is_ok_and(|answer| answer.status == 200) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
    }
    tasks
}

/// The sum of a metric's series on one page that carry this label.
async fn metric(addr: SocketAddr, name: &str, label: &str) -> f64 {
    let page = client::get(addr, "/metrics").await.map(|answer| answer.text()).unwrap_or_default();
    let of_name = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn held_back(cluster: &Cluster, lane: &str, jobs_per_api: usize) {
    for addr in cluster.api_addrs() {
        eventually("the flood waits", LONG, || async move {
            metric(addr, "forebay_api_unpublished_jobs", &format!("lane=\"{lane}\"")).await >= jobs_per_api as f64
        })
        .await;
    }
}

/// What nobody waits for any more is not kept: neither work nor counts.
async fn gone(cluster: &Cluster) {
    for addr in cluster.api_addrs() {
        eventually("nothing is held back any more", LONG, || async move {
            metric(addr, "forebay_api_unpublished_jobs", "lane").await == 0.0
        })
        .await;
    }
}

/// Ten requests a second.
async fn trickle(cluster: &Cluster, size: Size, headers: &[(&'static str, &str)]) -> Report {
    let load = Load::new(cluster).rate(10.0).timeout(Duration::from_secs(20));
    headers.iter().fold(load, |load, (name, value)| load.header(name, value)).run(size.victim_for).await
}

fn write_keys(file: &std::path::Path) {
    let tenant = |name: &str, hash: &str| json!({ "name": name, "keys": [{ "id": "1", "sha256": hash }] });
    let tenants: Value = [tenant("flooder", FLOODER), tenant("victim", VICTIM)].into_iter().collect();
    std::fs::write(file, json!({ "tenants": tenants }).to_string()).unwrap();
}

const AS_FLOODER: [(&str, &str); 1] = [("authorization", "Bearer flooder")];
const AS_VICTIM: [(&str, &str); 1] = [("authorization", "Bearer victim")];

/// What the victim saw: in an idle system, in a busy one, and in one that is flooded.
async fn victim(size: Size) -> [Report; 3] {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    write_keys(&file);
    let cluster = start(size, Some(&file)).await;
    let idle = trickle(&cluster, size, &AS_VICTIM).await;

    // As many requests at a time as two batches on each worker hold: busy, and nothing waits elsewhere.
    let busy_load =
        Load::new(&cluster).concurrency(4 * size.batch_rows).header("authorization", "Bearer flooder").start();
    busy_load.progress(4 * size.batch_rows, LONG).await;
    let busy = trickle(&cluster, size, &AS_VICTIM).await;
    busy_load.stop().await;

    let flood = flood(&cluster, size, &AS_FLOODER);
    held_back(&cluster, "normal", size.flood_per_api * 9 / 10).await;
    let flooded = trickle(&cluster, size, &AS_VICTIM).await;
    drop(flood);
    gone(&cluster).await;
    [idle, busy, flooded]
}

#[tokio::test]
async fn a_flooder_queues_behind_itself_and_not_in_front_of_others() {
    let [idle, busy, flooded] = victim(SMALL).await;
    for report in [&idle, &busy, &flooded] {
        assert!(report.all_right(), "{report}");
    }
    // Behind the flood it would be five seconds.
    let bound = (busy.latency(0.95) * 3).max(Duration::from_millis(500));
    assert!(flooded.latency(0.95) < bound, "idle {idle}, busy {busy}, flooded {flooded}");
}

/// Asynchronous jobs of four rows, so many at a time, until one is refused; how many were taken.
async fn file_jobs(addr: SocketAddr, key: &'static str, at_once: usize) -> usize {
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        tasks.spawn(async move {
            let mut client = Client::new(addr).header("authorization", key);
            let body = json!({ "task": "embed", "model": "simulated", "input": ["a", "b", "c", "d"] });
            let mut taken = 0;
            loop {
                let answer = client.post("/v1/jobs", &body).await.unwrap();
                match answer.status {
                    202 => taken += 1,
                    429 => return taken,
                    status => panic!("{status}: {}", answer.text()),
                }
            }
        });
    }
    tasks.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn a_job_does_not_wait_for_another_tenants_backlog_and_one_tenant_cannot_fill_the_queue() {
    const MOST: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    write_keys(&file);
    let most = MOST.to_string();
    let api_args = ["--tenant-max-waiting-jobs", &most, "--api-keys", &file.display().to_string()];
    // 80 rows a second: the flooder's jobs are work for a minute.
    let options = ClusterOptions {
        apis: 2,
        model: "simulated".to_owned(),
        api_args: api_args.map(str::to_owned).into(),
        worker_args: ["--batch-max-rows", "8", "--simulated-base", "100ms"].map(str::to_owned).into(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await;
    let addr = cluster.api(0).addr();
    // Another's are known when their record has come by.
    let filed = file_jobs(addr, "Bearer flooder", 16).await;
    assert!((MOST..MOST + 200).contains(&filed), "{filed} were taken");
    let mut victim = Client::new(cluster.api(1).addr()).header("authorization", "Bearer victim");
    let body = json!({ "task": "embed", "model": "simulated", "input": "x" });
    let job = victim.post("/v1/jobs", &body).await.unwrap();
    assert_eq!(job.status, 202, "{}", job.text());
    let path = format!("/v1/jobs/{}?wait=20s", job.json()["id"].as_str().unwrap());
    let asked = std::time::Instant::now();
    assert_eq!(victim.get(&path).await.unwrap().json()["state"], "done");
    let took = asked.elapsed();
    let waiting = metric(addr, "forebay_api_async_jobs", "state=\"queued\"").await;
    assert!(took < Duration::from_secs(10) && waiting > MOST as f64 / 2.0, "took {took:?}, {waiting} wait");
}

#[tokio::test]
async fn a_keyed_request_that_cannot_be_answered_in_time_is_refused_and_its_key_is_not_taken() {
    let cluster = start(SMALL, None).await;
    let addr = cluster.api(0).addr();
    let flood = flood(&cluster, SMALL, &[]);
    held_back(&cluster, "normal", SMALL.flood_per_api * 9 / 10).await;
    let body = json!({ "model": "simulated", "input": "x" });
    let impatient = || Client::new(addr).header("x-request-timeout", "0.5");
    let code = |answer: &client::Answer| answer.json()["error"]["code"].as_str().map(str::to_owned);
    eventually("how long it takes is known", LONG, || async {
        let answer = impatient().post("/v1/embeddings", &body).await.unwrap();
        answer.status == 503 && code(&answer).as_deref() == Some("deadline_unreachable")
    })
    .await;
    let refused = impatient().header("idempotency-key", "k").post("/v1/embeddings", &body).await.unwrap();
    assert_eq!((refused.status, code(&refused).as_deref()), (503, Some("deadline_unreachable")), "{}", refused.text());
    assert!(refused.header("retry-after-ms").is_some());
    assert_eq!(client::get(addr, "/v1/jobs").await.unwrap().json()["data"], json!([]), "nothing was begun");
    drop(flood);
    gone(&cluster).await;
    let again = Client::new(addr).header("idempotency-key", "k").post("/v1/embeddings", &body).await.unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, None), "{}", again.text());
}

/// What the high lane saw when idle and when the others are flooded, and rows per second that went through normal and low.
async fn lanes(size: Size) -> ([Report; 2], [f64; 2]) {
    let cluster = start(size, None).await;
    let idle = trickle(&cluster, size, &[("x-priority", "high")]).await;
    let normal = flood(&cluster, size, &[("x-priority", "normal")]);
    let low = flood(&cluster, size, &[("x-priority", "low")]);
    held_back(&cluster, "normal", size.flood_per_api / 2).await;
    held_back(&cluster, "low", size.flood_per_api / 2).await;
    let waited = async |lane: &str| {
        let mut rows = 0.0;
        for worker in cluster.workers() {
            let label = format!("lane=\"{lane}\"");
            rows += metric(worker.addr(), "forebay_worker_queue_wait_seconds_count", &label).await;
        }
        rows
    };
    let before = [waited("normal").await, waited("low").await];
    let flooded = trickle(&cluster, size, &[("x-priority", "high")]).await;
    let after = [waited("normal").await, waited("low").await];
    drop((normal, low));
    let seconds = size.victim_for.as_secs_f64();
    ([idle, flooded], [0, 1].map(|lane| (after[lane] - before[lane]) / seconds))
}

#[tokio::test]
async fn high_keeps_its_latency_and_low_still_progresses() {
    let ([idle, flooded], [normal, low]) = lanes(SMALL).await;
    assert!(idle.all_right() && flooded.all_right(), "idle {idle}, flooded {flooded}");
    assert!(
        flooded.latency(0.95) < (idle.latency(0.95) * 4).max(Duration::from_millis(300)),
        "idle {idle}, flooded {flooded}"
    );
    assert!(low > 0.0 && normal > 1.5 * low, "normal {normal:.0} rows/s, low {low:.0} rows/s");
}

fn row(what: &str, report: &Report) {
    let ms = |quantile| report.latency(quantile).as_secs_f64() * 1e3;
    println!(
        "| {what} | {} | {} | {:.1} | {:.1} | {:.1} |",
        report.sent(),
        report.right(),
        ms(0.5),
        ms(0.95),
        ms(0.99)
    );
}

#[tokio::test]
#[ignore = "a measurement: make bench-fairness"]
async fn bench_victim_of_a_flood() {
    let [idle, busy, flooded] = victim(LARGE).await;
    println!(
        "### A victim at 10 requests/s; two apis, two workers (simulated, {} rows in {:?}); {} jobs of the flooder accepted",
        LARGE.batch_rows,
        LARGE.batch,
        2 * LARGE.flood_per_api
    );
    println!("| system | sent | right | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|---|");
    row("idle", &idle);
    row("busy, nothing waits", &busy);
    row("flooded", &flooded);
    let ratio = |base: &Report| flooded.latency(0.95).as_secs_f64() / base.latency(0.95).as_secs_f64();
    println!("p95 flooded / busy {:.2}, flooded / idle {:.2}", ratio(&busy), ratio(&idle));
}

#[tokio::test]
#[ignore = "a measurement: make bench-fairness"]
async fn bench_lanes_under_overload() {
    let ([idle, flooded], [normal, low]) = lanes(LARGE).await;
    println!("### Lanes: `high` at 10 requests/s while `normal` and `low` are flooded; two apis, two workers");
    println!("| system | sent | right | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|---|");
    row("high, idle", &idle);
    row("high, others flooded", &flooded);
    println!("rows per second meanwhile: normal {normal:.0}, low {low:.0}, ratio {:.1}", normal / low.max(0.001));
}
