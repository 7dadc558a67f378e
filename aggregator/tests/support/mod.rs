//! A real nats-server for one test, and aggregators and reporting processes on it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a harness fails loudly")]

pub mod nats;
pub mod page;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_aggregator::{AggregatorArgs, ReaperArgs, ScalingArgs};
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{BootId, ModelName, Role};
use forebay_shared::metrics::{Outcome, WorkerMetrics};
use forebay_shared::stats::{Identity, ProcessState, Reporter, Served};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use nats::{Nats, free_port};
pub use page::{Page, get};

/// An aggregator in this process.
pub struct Aggregator {
    pub address: SocketAddr,
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Aggregator {
    pub async fn start(nats: &Nats, name: &str) -> Self {
        Self::start_with(nats, name, ScalingArgs::default()).await
    }

    pub async fn start_with(nats: &Nats, name: &str, scaling: ScalingArgs) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let reaper = ReaperArgs::default();
        let args = AggregatorArgs { aggregator_addr: address, aggregator_process_series: 100, scaling, reaper };
        let (client, name) = (nats.client().await, name.into());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            forebay_aggregator::run_with(args, client, BootId::random(), name, stopped).await.unwrap();
        });
        Self { address, task, stop: Some(stop) }
    }

    /// Started, and serving.
    pub async fn ready(nats: &Nats, name: &str) -> Self {
        let this = Self::start(nats, name).await;
        this.page_where("readiness", |_| true).await;
        this
    }

    /// As by SIGKILL: nothing is written any more.
    pub async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }

    pub async fn page(&self) -> Option<Page> {
        let answer = get(self.address, "/metrics").await?;
        (answer.status == 200).then_some(Page(answer.body))
    }

    /// The first page that satisfies `wanted`.
    pub async fn page_where(&self, what: &str, wanted: impl Fn(&Page) -> bool) -> Page {
        let mut last = None;
        for _ in 0..200 {
            last = self.page().await;
            if let Some(page) = last.take_if(|page| wanted(page)) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no page within 20 s with {what}; the last was:\n{}", last.map_or("none".into(), |page| page.0));
    }
}

/// A worker that only counts and reports.
pub struct Worker {
    pub metrics: WorkerMetrics,
    pub model: ModelName,
    pub boot: BootId,
    pub reporter: Reporter,
}

impl Worker {
    pub async fn start(nats: &Nats, name: &str) -> Self {
        let (metrics, model, boot) = (WorkerMetrics::new(), ModelName::from("mini"), BootId::random());
        metrics.register_model(&model);
        metrics.models_loaded.set(1.0);
        let address = Some(format!("{name}.example:9402"));
        let identity = Identity { role: Role::Worker, process: name.into(), boot, address };
        let registry = Arc::clone(metrics.registry());
        let clock = BrokerClock::from_wall_clock();
        let reporter = Reporter::start(nats.client().await, identity, registry, clock, || {});
        reporter.set_served(vec![Served {
            model: model.clone(),
            token: "mini-0123456789".into(),
            device: "cpu".into(),
        }]);
        reporter.set_state(ProcessState::Ready);
        Self { metrics, model, boot, reporter }
    }

    pub fn finish_jobs(&self, count: u64) {
        self.metrics.jobs_total.with(&(self.model.clone(), Outcome::Ok)).inc_by(count);
        for _ in 0..count {
            self.metrics.inference_seconds.with(&(self.model.clone(),)).observe(0.1);
        }
    }

    /// As by SIGKILL: no goodbye. What is not reported yet is lost, so tests wait for the page first.
    pub fn kill(self) {
        drop(self.reporter);
    }
}

pub const JOBS: &str = "forebay_jobs_total{model=\"mini\",outcome=\"ok\"}";
