//! The aggregator on a real nats-server: what the fleet's page promises when processes and aggregators die.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use forebay_aggregator::merge::{FOLD_AFTER_MS, Record};
use forebay_shared::ids::{Lane, ModelToken};
use forebay_shared::metrics::SavedReason;
use forebay_shared::settings::StoreArgs;
use forebay_shared::streams::{self, Bucket, Stores};
use forebay_shared::subjects;
use futures::StreamExt;
use support::{Aggregator, JOBS, Nats, Page, Worker, get};

fn jobs(wanted: f64) -> impl Fn(&Page) -> bool {
    move |page| page.value(JOBS) == Some(wanted)
}

const UP: &str = "forebay_worker_up{device=\"cpu\",model=\"mini\",worker=\"worker-1\"}";

#[tokio::test]
async fn a_killed_process_leaves_its_counters_and_loses_its_gauges() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let first = Worker::start(&nats, "worker-1").await;
    first.finish_jobs(100);
    let page = aggregator.page_where("the first boot's jobs", jobs(100.0)).await;
    assert_eq!(page.value("forebay_jobs_total{model=\"mini\",outcome=\"failed\"}"), Some(0.0));
    assert_eq!(page.value("forebay_inference_seconds_count{model=\"mini\"}"), Some(100.0));
    first.kill();

    let second = Worker::start(&nats, "worker-1").await;
    second.finish_jobs(5);
    let mut last = 100.0;
    let rises = |page: &Page, last: f64| page.value(JOBS).is_some_and(|now| now >= last);
    for _ in 0..40 {
        let page = aggregator.page().await.unwrap();
        assert!(rises(&page, last), "the fleet's counter fell below {last}:\n{}", page.0);
        last = page.value(JOBS).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let workers = |state: &str| format!("forebay_workers{{model=\"mini\",state=\"{state}\"}}");
    // Until it has missed three reports, the first boot passes for alive; then its successor speaks for it.
    let one_is_ready = |page: &Page| page.value(&workers("ready")) == Some(1.0) && page.value(UP) == Some(1.0);
    let page = aggregator.page_where("one worker", |page| jobs(105.0)(page) && one_is_ready(page)).await;
    assert_eq!(page.value(&workers("silent")), Some(0.0));

    second.kill();
    let page = aggregator.page_where("a worker that is down", |page| page.value(UP) == Some(0.0)).await;
    assert_eq!(page.value("forebay_models_loaded"), Some(0.0));
    assert_eq!(page.value(&workers("silent")), Some(1.0));
    assert_eq!(page.value(JOBS), Some(105.0));
    assert!(page.value("forebay_worker_last_report_timestamp_seconds{worker=\"worker-1\"}").unwrap() > 1.7e9);
}

#[tokio::test]
async fn a_killed_aggregator_finds_everything_again_and_serves_nothing_before() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let dead = Worker::start(&nats, "worker-1").await;
    dead.finish_jobs(40);
    aggregator.page_where("the jobs of the one that dies", jobs(40.0)).await;
    dead.kill();
    let alive = Worker::start(&nats, "worker-2").await;
    alive.finish_jobs(2);
    aggregator.page_where("a silent worker", |page| jobs(42.0)(page) && page.value(UP) == Some(0.0)).await;
    // The silent are written at once, so a second later nothing depends on this aggregator any more.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    aggregator.kill().await;
    alive.finish_jobs(1);

    let aggregator = Aggregator::start(&nats, "aggregator-1").await;
    let mut refused = 0;
    let page = loop {
        match get(aggregator.address, "/metrics").await {
            Some(answer) if answer.status == 200 => break Page(answer.body),
            Some(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.body);
                refused += 1;
            }
            None => {}
        }
        assert_ne!(get(aggregator.address, "/sd").await.map(|sd| sd.status), Some(500));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(refused > 10, "it answered before a report interval had passed");
    assert_eq!(page.value(JOBS), Some(43.0), "{}", page.0);
    assert_eq!(get(aggregator.address, "/health/ready").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_aggregator_that_stops_orderly_writes_what_the_living_counted() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let worker = Worker::start(&nats, "worker-1").await;
    worker.finish_jobs(9);
    aggregator.page_where("the jobs", jobs(9.0)).await;
    worker.kill();
    aggregator.stop().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-2").await;
    assert_eq!(aggregator.page().await.unwrap().value(JOBS), Some(9.0));
}

#[tokio::test]
async fn two_aggregators_serve_the_same_fleet() {
    let nats = Nats::start().await;
    let first = Aggregator::ready(&nats, "aggregator-1").await;
    let gone = Worker::start(&nats, "worker-1").await;
    gone.finish_jobs(7);
    first.page_where("the jobs", jobs(7.0)).await;
    gone.kill();
    first.page_where("silence", |page| page.value(UP) == Some(0.0)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // The second has never heard worker-1, and starts while the others count.
    let workers = [Worker::start(&nats, "worker-2").await, Worker::start(&nats, "worker-3").await];
    let second = Aggregator::ready(&nats, "aggregator-2").await;
    workers.iter().for_each(|worker| worker.finish_jobs(10));
    let pages = [first.page_where("all jobs", jobs(27.0)).await, second.page_where("all jobs", jobs(27.0)).await];
    assert_eq!(pages[0].merged(), pages[1].merged());
}

#[tokio::test]
async fn the_fleet_has_the_names_of_another_stack_for_who_asks() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let workers = [Worker::start(&nats, "worker-1").await, Worker::start(&nats, "worker-2").await];
    workers.iter().for_each(|worker| worker.finish_jobs(10));
    aggregator.page_where("all jobs", jobs(20.0)).await;
    let ask = async |query: &str| get(aggregator.address, &format!("/metrics?{query}")).await.unwrap();

    let page = Page(ask("names=1").await.body);
    let buckets = "batcher_inference_time_seconds_bucket";
    assert_eq!(page.value(&format!("{buckets}{{le=\"0.05\"}}")), Some(0.0), "{}", page.0);
    assert_eq!(page.value(&format!("{buckets}{{le=\"1.0\"}}")), Some(20.0), "{}", page.0);
    assert_eq!(page.value(&format!("{buckets}{{le=\"+Inf\"}}")), Some(20.0), "{}", page.0);
    assert_eq!(page.value("batcher_inference_time_seconds_count"), Some(20.0));
    assert!(page.0.contains("# TYPE batcher_inference_time_seconds histogram\n"), "{}", page.0);
    assert!(!page.0.contains("forebay_") && !page.0.contains("process_"), "{}", page.0);

    let page = Page(ask("names=3").await.body);
    assert_eq!(page.value("inferno_inference_duration_seconds_count{model=\"mini\"}"), Some(20.0), "{}", page.0);
    assert_eq!(page.value("inferno_models_loaded"), Some(2.0), "{}", page.0);
    // What nobody counts is 0 where the name must answer, and what an aggregator computes itself is there too.
    let page = Page(ask("names=2").await.body);
    assert_eq!(page.value("gpu_memory_used_bytes"), Some(0.0), "{}", page.0);
    assert_eq!(page.value("validation_checks{check=\"json\"}"), Some(1.0), "{}", page.0);

    for wrong in ["names=0", "names=6", "names=", "names=one", "names=256"] {
        let answer = ask(wrong).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.body.contains("1 to 5"), "{wrong}: {}", answer.body);
    }
    assert!(ask("other=1").await.body.contains("forebay_jobs_total"), "what is not about names changes nothing");
}

#[tokio::test]
async fn discovery_lists_the_killed_and_forgets_who_said_goodbye() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let (killed, left) = (Worker::start(&nats, "worker-1").await, Worker::start(&nats, "worker-2").await);
    let targets = || async { get(aggregator.address, "/sd").await.unwrap().body };
    let both = |page: &Page| page.value("forebay_workers{model=\"mini\",state=\"ready\"}") == Some(2.0);
    aggregator.page_where("two workers", both).await;
    let list = targets().await;
    assert!(list.contains("\"worker-1.example:9402\"") && list.contains("\"role\":\"worker\""), "{list}");
    left.finish_jobs(3);
    left.reporter.goodbye().await;
    killed.kill();
    let page = aggregator.page_where("one worker down", |page| page.value(UP) == Some(0.0)).await;
    assert_eq!(page.value(JOBS), Some(3.0), "the farewell carried the last jobs");
    assert!(!page.0.contains("worker=\"worker-2\""), "{}", page.0);
    let list = targets().await;
    assert!(list.contains("worker-1") && !list.contains("worker-2"), "{list}");
}

#[tokio::test]
async fn the_queue_is_counted_in_jobs() {
    let nats = Nats::start().await;
    let js = async_nats::jetstream::new(nats.client().await);
    let token = ModelToken::from("mini-0123456789");
    Stores::new(js.clone(), &StoreArgs::default()).jobs(&token).await.unwrap();
    for rows in [32, 32, 4] {
        let subject = subjects::jobs(&token, Lane::Normal, rows);
        js.publish(subject, "x".into()).await.unwrap().await.unwrap();
    }
    let _worker = Worker::start(&nats, "worker-1").await; // tells which model the token is
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let lane = |stem: &str| format!("forebay_queue_{stem}{{lane=\"normal\",model=\"mini\"}}");
    let page = aggregator.page_where("68 jobs", |page| page.value(&lane("pending")) == Some(68.0)).await;
    assert_eq!(page.value("forebay_queue_messages{lane=\"normal\",model=\"mini\",state=\"pending\"}"), Some(3.0));
    assert_eq!(page.value("forebay_queue_pending{lane=\"high\",model=\"mini\"}"), Some(0.0));
    assert_eq!(page.value("forebay_broker_up"), Some(1.0));
    assert!(page.value(&lane("oldest_age_seconds")).unwrap() > 1.0);

    let stream = js.get_stream(streams::jobs_stream(&token)).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer("normal").await.unwrap();
    let held: Vec<_> = consumer.fetch().max_messages(3).messages().await.unwrap().collect().await;
    assert_eq!(held.len(), 3);
    let in_flight = |page: &Page| page.value(&lane("in_flight")) == Some(68.0);
    let page = aggregator.page_where("68 jobs in flight", in_flight).await;
    assert_eq!(page.value(&lane("pending")), Some(0.0));
    let fleet = get(aggregator.address, "/v1/fleet").await.unwrap().body;
    assert!(fleet.contains("\"in_flight\":68") && fleet.contains("\"workers_ready\":1"), "{fleet}");
}

#[tokio::test]
async fn the_fleet_page_tells_what_cancelling_has_saved() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let workers = [Worker::start(&nats, "worker-1").await, Worker::start(&nats, "worker-2").await];
    for worker in &workers {
        worker.metrics.cancelled_total.with(&(worker.model.clone(),)).inc_by(3);
        worker.metrics.work_saved_seconds_total.with(&(SavedReason::Cancelled,)).inc_by(0.75);
        worker.metrics.work_saved_seconds_total.with(&(SavedReason::Expired,)).inc_by(0.25);
    }
    let both = |page: &Page| page.value("forebay_cancelled_total{model=\"mini\"}") == Some(6.0);
    aggregator.page_where("what both have counted", both).await;
    let fleet = get(aggregator.address, "/v1/fleet").await.unwrap().body;
    let fleet: serde_json::Value = serde_json::from_str(&fleet).unwrap();
    assert_eq!(fleet["cancelled_jobs"], 6, "{fleet}");
    assert_eq!(fleet["work_saved_seconds"]["cancelled"], 1.5, "{fleet}");
    assert_eq!(fleet["work_saved_seconds"]["expired"], 0.5, "{fleet}");
}

#[tokio::test]
#[ignore = "takes two minutes: an aggregator listens for one before it folds, and looks once a minute"]
async fn an_hour_of_silence_folds_a_boot_into_the_total_and_removes_its_key() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let worker = Worker::start(&nats, "worker-1").await;
    worker.finish_jobs(7);
    aggregator.page_where("the jobs", jobs(7.0)).await;
    let key = format!("worker-1.{}", worker.boot);
    worker.kill();
    aggregator.stop().await;

    let js = async_nats::jetstream::new(nats.client().await);
    let bucket = js.get_key_value(Bucket::Stats.name()).await.unwrap();
    let mut record = Record::decode(&bucket.get(&key).await.unwrap().unwrap()).unwrap();
    record.heard_ms -= 2 * FOLD_AFTER_MS;
    bucket.put(&key, record.encode().into()).await.unwrap();

    let _somebody_is_heard = Worker::start(&nats, "worker-2").await;
    let aggregator = Aggregator::ready(&nats, "aggregator-2").await;
    for second in 0.. {
        assert!(second < 150, "the key is still there");
        assert_eq!(aggregator.page().await.unwrap().value(JOBS), Some(7.0));
        if bucket.entry(&key).await.unwrap().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(bucket.get("=total").await.unwrap().is_some());
    aggregator.kill().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-3").await;
    assert_eq!(aggregator.page().await.unwrap().value(JOBS), Some(7.0));
}

/// Where promtool is installed.
fn promtool_finds_nothing(page: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        eprintln!("promtool is not installed; not checked");
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
}

#[tokio::test]
async fn promtool_is_content_with_all_three_pages() {
    let nats = Nats::start().await;
    let api = forebay_shared::metrics::ApiMetrics::new();
    api.register_model(&"mini".into());
    let worker = Worker::start(&nats, "worker-1").await;
    worker.finish_jobs(1);
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let page = aggregator.page_where("a worker", |page| page.value(UP) == Some(1.0)).await;
    for page in [page.0, api.render(), worker.metrics.render()] {
        promtool_finds_nothing(&page);
    }
}
