//! The one page tells the truth: fleet counters never go down, whoever dies, and requests are counted exactly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::{Cluster, ClusterOptions, Load, client, eventually};

const LONG: Duration = Duration::from_secs(20);

/// Every sample of a page: series → value.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

async fn fleet_page(cluster: &Cluster, aggregator: usize) -> Option<BTreeMap<String, f64>> {
    let answer = client::get(cluster.aggregator(aggregator).addr(), "/metrics").await.ok()?;
    (answer.status == 200).then(|| samples(&answer.text()))
}

fn is_monotonic(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or(series);
    // The aggregator's own counters (reports, process_*) begin anew with its process; these are the fleet's.
    let merged = [
        "forebay_requests",
        "forebay_http_request",
        "forebay_jobs",
        "forebay_rows",
        "forebay_predictions",
        "forebay_tokens",
        "forebay_batch",
        "forebay_queue_wait",
        "forebay_inference_seconds",
        "forebay_engine_steps",
    ];
    let counter = ["_total", "_bucket", "_sum", "_count"].iter().any(|suffix| name.ends_with(suffix));
    counter && merged.iter().any(|prefix| name.starts_with(prefix))
}

#[track_caller]
fn nothing_went_down(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for (series, value) in before.iter().filter(|(series, _)| is_monotonic(series)) {
        let now = after.get(series).unwrap_or_else(|| panic!("{series} is gone"));
        assert!(now >= value, "{series} went from {value} to {now}");
    }
}

fn ok_requests(page: &BTreeMap<String, f64>) -> f64 {
    page[r#"forebay_requests_total{model="identity",outcome="ok",task="embed"}"#]
}

#[tokio::test]
async fn fleet_counters_never_go_down_while_processes_die_and_requests_are_counted_exactly() {
    let mut cluster =
        Cluster::start(ClusterOptions { workers: 2, aggregators: 2, apis: 2, ..ClusterOptions::default() }).await;
    let load = Load::new(&cluster).rate(100.0).start();
    load.progress(100, LONG).await;
    let mut last = BTreeMap::new();
    for step in 0..24 {
        match step {
            4 => cluster.worker(0).kill9(),
            8 => cluster.worker(0).restart(),
            12 => cluster.aggregator(0).kill9(),
            14 => cluster.aggregator(0).restart(),
            18 => cluster.add_worker(),
            _ => {}
        }
        for aggregator in [0, 1] {
            if let Some(page) = fleet_page(&cluster, aggregator).await {
                if aggregator == 1 {
                    nothing_went_down(&last, &page);
                    last = page;
                } else if !(12..=20).contains(&step) {
                    assert!(ok_requests(&page) > 0.0);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let report = load.stop().await;
    assert!(report.all_right(), "{report}");
    let sent = report.right() as f64;
    for aggregator in [0, 1] {
        eventually("the aggregator counts what was sent", LONG, || async {
            fleet_page(&cluster, aggregator).await.is_some_and(|page| ok_requests(&page) == sent)
        })
        .await;
    }
    let pages = [fleet_page(&cluster, 0).await.unwrap(), fleet_page(&cluster, 1).await.unwrap()];
    let fleet = |page: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        page.iter().filter(|(series, _)| is_monotonic(series)).map(|(series, value)| (series.clone(), *value)).collect()
    };
    assert_eq!(fleet(&pages[0]), fleet(&pages[1]), "two aggregators give the same answer");
    // What the killed worker counted in its last second is lost, no more than that.
    let rows = pages[1][r#"forebay_rows_total{model="identity"}"#];
    assert!(rows >= sent - 250.0, "{rows} rows of {sent}");
    cluster.stop().await;
}

#[tokio::test]
async fn an_api_killed_and_started_again_under_load_loses_at_most_the_count_of_its_last_second() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let load = Load::new(&cluster).rate(100.0).start();
    load.progress(150, LONG).await;
    let mut last = BTreeMap::new();
    for step in 0..12 {
        match step {
            4 => cluster.api(0).kill9(),
            6 => cluster.api(0).restart(),
            _ => {}
        }
        if let Some(page) = fleet_page(&cluster, 0).await {
            nothing_went_down(&last, &page);
            last = page;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let before = ok_requests(&last);
    load.progress(100, LONG).await;
    let report = load.stop().await;
    assert_eq!(report.right() + report.broken(), report.sent(), "{report}");
    eventually("the new api's requests are added to those of the old", LONG, || async {
        fleet_page(&cluster, 0).await.is_some_and(|page| ok_requests(&page) >= before + 100.0)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let page = fleet_page(&cluster, 0).await.unwrap();
    nothing_went_down(&last, &page);
    let lost = report.right() as f64 - ok_requests(&page);
    println!("api killed: {lost} requests uncounted of {report}");
    // Above: a second between two reports, and the way to the aggregator. Below: answers that the kill cut off.
    assert!((-10.0..=150.0).contains(&lost), "{lost} requests are not counted of {report}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_worker_shows_as_down_and_a_drained_one_disappears() {
    let cluster = Cluster::start(ClusterOptions { workers: 2, ..ClusterOptions::default() }).await;
    let up = |page: &BTreeMap<String, f64>, worker: &str| {
        page.iter()
            .find(|(series, _)| series.starts_with("forebay_worker_up{") && series.contains(worker))
            .map(|(_, value)| *value)
    };
    let (page, sd) = (
        || fleet_page(&cluster, 0),
        || async {
            client::get(cluster.aggregator(0).addr(), "/sd").await.map(|answer| answer.text()).unwrap_or_default()
        },
    );
    eventually("both workers are up", LONG, || async {
        page().await.is_some_and(|page| up(&page, "worker-1") == Some(1.0) && up(&page, "worker-2") == Some(1.0))
    })
    .await;
    cluster.worker(0).kill9();
    cluster.worker(1).terminate(LONG).await;
    eventually("the killed one is down and the drained one gone", LONG, || async {
        page().await.is_some_and(|page| up(&page, "worker-1") == Some(0.0) && up(&page, "worker-2").is_none())
    })
    .await;
    let listed = sd().await;
    assert!(listed.contains("worker-1"), "a killed process stays listed, so that up == 0 is seen: {listed}");
    assert!(!listed.contains("worker-2"), "{listed}");
}

#[tokio::test]
async fn the_queue_is_shown_in_jobs_while_no_worker_takes_them() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    cluster.worker(0).kill9();
    let load = Load::new(&cluster).concurrency(12).timeout(Duration::from_secs(4)).start();
    eventually("the waiting jobs are shown", LONG, || async {
        fleet_page(&cluster, 0).await.is_some_and(|page| {
            let jobs: f64 =
                page.iter().filter(|(series, _)| series.starts_with("forebay_queue_pending{")).map(|(_, v)| v).sum();
            let flying: f64 =
                page.iter().filter(|(series, _)| series.starts_with("forebay_queue_in_flight{")).map(|(_, v)| v).sum();
            (12.0..=26.0).contains(&(jobs + flying))
        })
    })
    .await;
    let report = load.stop().await;
    assert!(report.by_status().keys().all(|status| [503, 504].contains(status)), "{report}");
}
