//! `forebay_desired_workers` on a real nats-server, from what apis and workers report; and what else is added up for those
//! who run the fleet.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use forebay_aggregator::ScalingArgs;
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{BootId, ModelName, Role};
use forebay_shared::metrics::{ApiMetrics, JobSource, MemoryKind, Refusal, StoreWrite};
use forebay_shared::stats::{Identity, ProcessState, Reporter};
use support::{Aggregator, Nats, Page, Worker, get};

const DESIRED: &str = "forebay_desired_workers{model=\"mini\"}";

/// An api that knows one model, and only counts and reports.
struct Api {
    metrics: ApiMetrics,
    model: ModelName,
    _reporter: Reporter,
}

impl Api {
    async fn start(nats: &Nats) -> Self {
        let (metrics, model) = (ApiMetrics::new(), ModelName::from("mini"));
        metrics.register_model(&model);
        let identity = Identity { role: Role::Api, process: "api-1".into(), boot: BootId::random(), address: None };
        let (client, registry) = (nats.client().await, Arc::clone(metrics.registry()));
        let reporter = Reporter::start(client, identity, registry, BrokerClock::from_wall_clock(), || {});
        reporter.set_state(ProcessState::Ready);
        Self { metrics, model, _reporter: reporter }
    }

    fn admit(&self, jobs: u64) {
        self.metrics.jobs_admitted_total.with(&(self.model.clone(), JobSource::Request)).inc_by(jobs);
    }
}

fn desired(wanted: f64) -> impl Fn(&Page) -> bool {
    move |page| page.value(DESIRED) == Some(wanted)
}

#[tokio::test]
async fn a_model_without_workers_is_wanted_as_soon_as_somebody_is_refused() {
    let nats = Nats::start().await;
    let scaling = ScalingArgs { min_workers: "0".parse().unwrap(), ..ScalingArgs::default() };
    let aggregator = Aggregator::start_with(&nats, "aggregator-1", scaling).await;
    let api = Api::start(&nats).await;
    aggregator.page_where("a registered model that nobody wants", desired(0.0)).await;
    api.metrics.admission_refused_total.with(&(api.model.clone(), Refusal::NoWorker)).inc();
    aggregator.page_where("a model that somebody wants", desired(1.0)).await;
    let fleet: serde_json::Value =
        serde_json::from_str(&get(aggregator.address, "/v1/fleet").await.unwrap().body).unwrap();
    assert_eq!(fleet["models"][0]["workers_desired"], 1, "{fleet}");
    assert!(fleet["models"][0]["worker_capacity"].is_null(), "{fleet}");
}

#[tokio::test]
async fn asynchronous_jobs_that_wait_are_demand_too() {
    let nats = Nats::start().await;
    let scaling = ScalingArgs { min_workers: "0".parse().unwrap(), ..ScalingArgs::default() };
    let aggregator = Aggregator::start_with(&nats, "aggregator-1", scaling).await;
    let api = Api::start(&nats).await;
    aggregator.page_where("a registered model that nobody wants", desired(0.0)).await;
    api.metrics.async_waiting_rows.with(&(api.model.clone(),)).set(3.0);
    aggregator.page_where("a model that jobs wait for", desired(1.0)).await;
}

#[tokio::test]
async fn more_than_the_workers_can_do_wants_more_of_them_at_once() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let (api, worker) = (Api::start(&nats).await, Worker::start(&nats, "worker-1").await);
    aggregator.page_where("one worker, which is enough", desired(1.0)).await;
    // Full batches of 100 rows in a tenth of a second, while three times as much arrives.
    let one = (worker.model.clone(),);
    for _ in 0..60 {
        api.admit(300);
        worker.metrics.rows_total.with(&one).inc_by(100);
        worker.metrics.inference_seconds.with(&one).observe(0.1);
        worker.metrics.batch_fill_ratio.with(&one).observe(1.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // 3000 / (0.8 × 1000), as exactly as a loop with pauses is.
    let page = aggregator.page_where("enough workers", |page| page.value(DESIRED).is_some_and(|n| n >= 3.0)).await;
    let capacity = page.value("forebay_worker_capacity_jobs_per_second{model=\"mini\"}").unwrap();
    assert!((capacity - 1_000.0).abs() < 1.0 && page.value(DESIRED).unwrap() <= 4.0, "{capacity}\n{}", page.0);
}

#[tokio::test]
async fn whoever_cannot_write_is_counted_in_one_place() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let (api, worker) = (Api::start(&nats).await, Worker::start(&nats, "worker-1").await);
    api.metrics.store_write_errors_total.with(&(StoreWrite::Kv,)).inc_by(3);
    worker.metrics.store_write_errors_total.with(&(StoreWrite::DeadLetter,)).inc_by(2);
    let all = |page: &Page| page.value("forebay_broker_write_errors_total") == Some(5.0);
    let page = aggregator.page_where("five failures", all).await;
    assert_eq!(page.value("forebay_store_write_errors_total{kind=\"kv\"}"), Some(3.0));
    aggregator.kill().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-2").await;
    aggregator.page_where("five failures, remembered", all).await;
}

#[tokio::test]
async fn devices_stand_one_by_one_and_their_price_is_a_mean() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let workers = [Worker::start(&nats, "worker-1").await, Worker::start(&nats, "worker-2").await];
    for (worker, (bytes, price)) in workers.iter().zip([(100.0, 2.0), (300.0, 4.0)]) {
        worker.metrics.device_memory_bytes.with(&("cpu".into(), MemoryKind::Used)).set(bytes);
        worker.metrics.device_price_per_hour.with(&("cpu".into(),)).set(price);
    }
    let used = |name: &str| format!("forebay_device_memory_bytes{{device=\"cpu\",kind=\"used\",process=\"{name}\"}}");
    let second = |page: &Page| page.value(&used("worker-2")) == Some(300.0);
    let page = aggregator
        .page_where("both devices", |page| second(page) && page.value(&used("worker-1")) == Some(100.0))
        .await;
    assert_eq!(page.value("forebay_device_price_per_hour{device=\"cpu\"}"), Some(3.0), "{}", page.0);
}

#[tokio::test]
async fn how_full_each_store_is_stands_beside_the_account() {
    let nats = Nats::start().await;
    let aggregator = Aggregator::ready(&nats, "aggregator-1").await;
    let stats = |kind: &str| format!("forebay_broker_stream_bytes{{kind=\"{kind}\",stream=\"FOREBAY_STATS\"}}");
    let page = aggregator.page_where("its own bucket", |page| page.value(&stats("limit")).is_some()).await;
    assert_eq!(page.value(&stats("limit")), Some(256.0 * 1024.0 * 1024.0));
    let reserved = page.value("forebay_broker_store_bytes{kind=\"file_reserved\"}").unwrap();
    let used = page.value("forebay_broker_store_bytes{kind=\"file_used\"}").unwrap();
    assert!(reserved >= 256.0 * 1024.0 * 1024.0 && used <= reserved, "{used} of {reserved}");
}
