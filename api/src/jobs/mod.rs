//! Asynchronous jobs: a layer above the synchronous path (states in [`forebay_shared::async_jobs`]).
//!
//! ```text
//! POST ─▶ accept: record, then envelope ─▶ FOREBAY_ASYNC ─▶ runner (any api) ─▶ Dispatch, as any client
//!                                                              │ result, then record (compare-and-swap), then ack
//! GET, events, wait ◀─ board ◀── one watch per api ── FOREBAY_RECORDS ─▶ webhooks (outbox)
//! ```
//! What a process holds here is lost with it without harm: an envelope that is not acknowledged is delivered to another
//! api, and whoever ends the record first has ended the job.

mod accept;
mod answer;
mod attempt;
mod board;
mod idempotency;
mod index;
mod room;
mod runner;
pub mod settings;
mod sweeper;
pub mod view;
pub mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, kv, object_store};
use forebay_shared::async_jobs::Records;
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::metrics::{ApiMetrics, Refusal, StoreWrite};
use forebay_shared::model::ModelRecord;
use forebay_shared::shutdown::Shutdown;
use forebay_shared::streams::{Bucket, Objects, Queue, Stores};

use crate::dispatch::{Dispatch, InFlight};
use crate::registry::Registry;
use crate::tenants::Tenants;

pub use accept::{Draft, Prepared};
pub use board::Changes;
pub(crate) use idempotency::owner_of_key;
pub use idempotency::{IDEMPOTENT_REPLAYED, Key};
pub use settings::JobArgs;

use board::Board;

/// A result up to this size stands in the record itself.
const INLINE_BYTES: usize = 64 * 1024;

/// What the layer works with. One per api process.
pub struct Jobs {
    link: Link,
    js: jetstream::Context,
    stores: Stores,
    pub(crate) records: Records,
    results: object_store::ObjectStore,
    keys: kv::Store,
    pub(crate) board: Arc<Board>,
    clock: BrokerClock,
    dispatch: Arc<Dispatch>,
    registry: Arc<Registry>,
    metrics: Arc<ApiMetrics>,
    /// Only where keys are configured.
    tenants: Option<Arc<Tenants>>,
    fleet_secret: Option<String>,
    args: JobArgs,
    room: room::Room,
    /// One at a time: an erasure reads the stores of everybody.
    pub(crate) shutdown: Shutdown,
}

/// What the layer needs of its process.
pub struct Parts {
    /// A connection of its own: results are bulk.
    pub link: Link,
    pub stores: Stores,
    pub clock: BrokerClock,
    pub dispatch: Arc<Dispatch>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<ApiMetrics>,
    pub tenants: Option<Arc<Tenants>>,
    pub args: JobArgs,
    pub shutdown: Shutdown,
}

/// The tasks of the layer.
pub struct Running {
    runner: Arc<runner::Runner>,
}

impl Jobs {
    /// Opens the stores and starts the tasks: watch, sweeper, runner, outbox and deliveries.
    ///
    /// # Errors
    /// A store that cannot be opened, or settings that cannot be used.
    pub async fn start(parts: Parts) -> anyhow::Result<(Arc<Self>, Running)> {
        let Parts { link, stores, clock, dispatch, registry, metrics, tenants, args, shutdown } = parts;
        args.check()?;
        let fleet_secret = args.webhook_secret()?;
        let js = link.jetstream();
        let stores = Stores::new(js.clone(), stores.args());
        let (queue, records, results, keys) = tokio::try_join!(
            stores.queue(Queue::Async),
            Records::open(&stores),
            stores.objects(Objects::Results),
            stores.bucket(Bucket::Idempotency),
        )?;
        let board = Arc::new(Board::new(clock.clone(), stores.args().results_keep));
        let records = records.counting(metrics.store_write_errors_total.with(&(StoreWrite::Kv,)));
        let jobs = Arc::new(Self {
            records,
            results,
            keys,
            link,
            js,
            stores,
            board,
            clock,
            dispatch,
            registry,
            metrics,
            tenants,
            fleet_secret,
            args,
            room: room::Room::default(),
            shutdown,
        });
        tokio::spawn(Arc::clone(&jobs.board).follow(jobs.records.clone()));
        tokio::spawn(sweeper::run(Arc::clone(&jobs)));
        webhooks::start(&jobs).await?;
        let runner = runner::start(Arc::clone(&jobs), queue);
        Ok((jobs, Running { runner }))
    }

    /// The broker can be reached.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Broker time in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_us() / 1_000
    }

    /// A job cannot wait longer than its record is kept.
    pub fn longest_timeout(&self) -> Duration {
        self.stores.args().results_keep
    }

    /// Notes a write to the broker that failed.
    fn write_failed(&self, kind: StoreWrite) {
        self.metrics.store_write_errors_total.with(&(kind,)).inc();
    }

    /// # Errors
    /// [`JobError::NoWorker`] if nobody serves the model: who waits should hear that at once.
    pub fn check_servable(&self, model: &ModelRecord) -> Result<(), JobError> {
        if self.registry.may_serve(&model.token) {
            return Ok(());
        }
        self.metrics.admission_refused_total.with(&(model.name.clone(), Refusal::NoWorker)).inc();
        Err(JobError::NoWorker { model: model.name.to_string() })
    }

    /// Admits a job that a client waits for, before anything of it is written down.
    ///
    /// # Errors
    /// As [`Dispatch::submit`] before anything is published.
    pub fn admit(&self, draft: &Draft, deadline: Instant) -> Result<InFlight<'_>, JobError> {
        let Draft { model, tenant, lane, task, rows, .. } = draft;
        self.dispatch.admit_elsewhere(model, tenant, *lane, task, rows, deadline)
    }

    pub fn has_fleet_secret(&self) -> bool {
        self.fleet_secret.is_some()
    }

    pub fn allows_private_webhooks(&self) -> bool {
        self.args.webhook_allow_private
    }
}

impl Running {
    /// Gives back what runs here, so that other apis go on with it at once. Called when no client is left.
    pub async fn stop(self) {
        self.runner.stop().await;
    }
}
