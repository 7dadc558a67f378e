//! The aggregator: one page of metrics for the whole fleet.
//!
//! ```text
//! stats reports ──ingest──▶ merge (pure) ──serve──▶ /metrics  /v1/fleet  /sd
//!                             ▲  │ └─scaling──▶ forebay_desired_workers
//!          FOREBAY_STATS ──retained── every 5 s, so that counters outlive processes and aggregators
//!             JetStream ──queue──▶ depth in jobs
//!
//! what workers hold, who disconnects ──reaper──▶ a dead worker's work back to the queue, at once
//! ```
//!
//! Any number of aggregators may run: each hears every report and reads the same bucket, so all serve the same page.
//! Each is a scrape target of its own. Nothing here is on the path of a request.

mod compat;
pub mod exposition;
mod gauges;
mod hub;
mod ingest;
pub mod merge;
pub mod queue;
mod rates;
mod reaper;
pub mod retained;
mod scaling;
mod serve;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::Client;
use async_nats::jetstream::context::ContextBuilder;
use forebay_shared::broker::{self, REQUEST_TIMEOUT};
use forebay_shared::ids::{BootId, ProcessName, Role};
use forebay_shared::settings::{BrokerArgs, ProcessArgs, SettingsError, StoreArgs};
use forebay_shared::shutdown::Shutdown;
use forebay_shared::streams::Stores;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use hub::Hub;
use reaper::Reaper;
pub use reaper::ReaperArgs;
use retained::Retainer;
use scaling::Scaling;
pub use scaling::{PerModel, ScalingArgs};

/// Settings of the aggregator.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Aggregator")]
pub struct AggregatorArgs {
    /// Address on which the fleet's /metrics, /v1/fleet and /sd are served.
    #[arg(long, env = "FOREBAY_AGGREGATOR_ADDR", default_value = "127.0.0.1:9600", value_parser = address, value_name = "ADDR")]
    pub aggregator_addr: SocketAddr,
    /// Most series per metric that carry a process name; what is cut is counted in `forebay_series_dropped_total`.
    #[arg(long, env = "FOREBAY_AGGREGATOR_PROCESS_SERIES", default_value_t = 2_000, value_name = "N")]
    pub aggregator_process_series: usize,
    #[command(flatten)]
    pub scaling: ScalingArgs,
    #[command(flatten)]
    pub reaper: ReaperArgs,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:9600 or [::]:9600".to_owned())
}

impl AggregatorArgs {
    /// Opens the port.
    ///
    /// # Errors
    /// [`SettingsError`] names the flag to change.
    async fn bind(&self) -> Result<TcpListener, SettingsError> {
        TcpListener::bind(self.aggregator_addr).await.map_err(|error| SettingsError {
            flag: "--aggregator-addr",
            problem: format!("cannot listen on {} ({error}); choose another", self.aggregator_addr),
        })
    }
}

/// How long the last writes may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(3);

/// Connects to the broker and runs until `shutdown` fires.
///
/// # Errors
/// The broker cannot be reached in time, or the address cannot be bound.
pub async fn run(
    args: AggregatorArgs,
    broker: BrokerArgs,
    process: ProcessArgs,
    mut shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (boot, name) = (BootId::random(), process.name(Role::Aggregator));
    args.scaling.targets()?;
    let listener = args.bind().await?;
    let link = broker::connect(&broker, boot, name.as_str(), "stats").await?;
    let reaper = Reaper::connect(&args.reaper, &broker, boot, &name).await?;
    let stores = broker.stores;
    run_on(listener, args, stores, link.client.clone(), reaper, boot, name, async move { shutdown.fired().await }).await
}

/// Runs on a connection that exists, until `shutdown` resolves.
///
/// # Errors
/// The address cannot be bound.
pub async fn run_with(
    args: AggregatorArgs,
    client: Client,
    boot: BootId,
    process: ProcessName,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    run_on(args.bind().await?, args, StoreArgs::default(), client, None, boot, process, shutdown).await
}

#[expect(clippy::too_many_arguments, reason = "the two ways to start, made one")]
async fn run_on(
    listener: TcpListener,
    args: AggregatorArgs,
    stores: StoreArgs,
    client: Client,
    reaper: Option<Reaper>,
    boot: BootId,
    process: ProcessName,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let scaling = Scaling::new(args.scaling.clone(), args.scaling.targets()?);
    tracing::info!(%process, address = %listener.local_addr()?, "aggregator listens");
    let hub = Hub::new(boot, args.aggregator_process_series, scaling);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve::run(listener, Arc::clone(&hub)));

    let js = ContextBuilder::new().timeout(REQUEST_TIMEOUT).ack_timeout(REQUEST_TIMEOUT).build(client.clone());
    let stores = Stores::new(js.clone(), &stores);
    tokio::pin!(shutdown);
    let bucket = tokio::select! {
        bucket = retained::open(&stores) => bucket,
        () = &mut shutdown => return Ok(()),
    };
    hub.sync_clock(&client, &mut tasks).await;
    let retainer = Arc::new(Retainer::new(Arc::clone(&hub), bucket));
    tasks.spawn(ingest::run(Arc::clone(&hub), client.clone()));
    tasks.spawn(Arc::clone(&retainer).watch());
    tasks.spawn(Arc::clone(&retainer).write());
    tasks.spawn(Arc::clone(&retainer).compact());
    tasks.spawn(queue::run(Arc::clone(&hub), js));
    tasks.spawn(gauges::run(Arc::clone(&hub)));
    if let Some(reaper) = reaper {
        tasks.spawn(reaper.run(hub.metrics.clone(), stores.args().clone()));
    }

    let ended = tokio::select! {
        () = &mut shutdown => None,
        ended = tasks.join_next() => ended,
    };
    // What the fleet counted since the last writes must be in the bucket before nobody remembers it.
    if tokio::time::timeout(FAREWELL, retainer.write_all()).await.is_err() {
        tracing::warn!("could not write all counters before stopping; another aggregator holds them, or they are lost");
    }
    match ended {
        Some(Err(error)) => Err(error).context("a task of the aggregator failed"),
        Some(Ok(())) => anyhow::bail!("a task of the aggregator ended early"),
        None => Ok(()),
    }
}
