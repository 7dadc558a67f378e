//! An api's life: connect, follow the fleet, serve, drain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_shared::broker::{self, Link};
use forebay_shared::clock::BrokerClock;
use forebay_shared::dead::DeadLetters;
use forebay_shared::ids::{BootId, Role};
use forebay_shared::metrics::ApiMetrics;
use forebay_shared::settings::{BrokerArgs, ProcessArgs};
use forebay_shared::shutdown::Shutdown;
use forebay_shared::stats::{Identity, ProcessState, Reporter};
use forebay_shared::streams::{self, Bucket, Stores};

use crate::batches::Batches;
use crate::cache::Cache;
use crate::dispatch::{Admission, Dispatch};
use crate::http;
use crate::jobs::{Jobs, Parts};
use crate::registry::Registry;
use crate::routes::dead::DeadDesk;
use crate::settings::{AccessArgs, ApiArgs};
use crate::tenants::Tenants;
use crate::tenants::config::Config;
use crate::tenants::share::Sharing;
use crate::tenants::source::Source;

/// Runs an api until `shutdown`; requests in flight are finished first.
///
/// # Errors
/// Whatever keeps it from starting, in one line.
pub async fn run(args: ApiArgs, broker: BrokerArgs, process: ProcessArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let limits = args.limits()?;
    let keys = read_keys(&args.access)?;
    let boot = BootId::random();
    let name = process.name(Role::Api);
    let metrics = Arc::new(ApiMetrics::new());
    let listener = http::bind("--api-addr", &args.api_addr).await?;
    let own_page = match &args.metrics_addr {
        Some(addr) => Some(http::bind("--metrics-addr", addr).await?),
        None => None,
    };
    if keys.is_none() && !args.access.allow_open && !listener.local_addr()?.ip().is_loopback() {
        tracing::warn!(
            address = %listener.local_addr()?,
            "everybody who reaches this address may use it: there are no API keys; set --api-keys, or --allow-open if that is meant"
        );
    }
    let page = own_page.as_ref().unwrap_or(&listener).local_addr()?;

    let control = broker::connect(&broker, boot, name.as_str(), "control").await?;
    let publish = broker::connect(&broker, boot, name.as_str(), "publish").await?;
    let replies = broker::connect(&broker, boot, name.as_str(), "replies").await?;
    let stores = Stores::new(control.jetstream(), &broker.stores);
    let models = stores.bucket(Bucket::Models).await?;
    let clock = BrokerClock::from_wall_clock();
    clock.sync(&control.client, streams::MODELS_STREAM).await.context("cannot read the broker's clock")?;
    tokio::spawn(clock.clone().keep_synced(control.client.clone(), streams::MODELS_STREAM.to_owned()));

    let registry = Arc::new(Registry::new(args.no_worker_after, (*metrics).clone()));
    let links = [control.clone(), publish.clone(), replies.clone()];
    let dispatch = Arc::new(Dispatch::new(
        boot,
        publish,
        replies,
        clock.clone(),
        Arc::clone(&metrics),
        Arc::clone(&registry),
        Admission { max_in_flight: args.max_in_flight_jobs, by_deadline: !args.no_deadline_admission },
    ));
    let mut listening = dispatch.listen().await.context("cannot listen for answers")?;
    registry.follow(&control, models).await?;

    let letters = DeadLetters::open(&stores, control.jetstream()).await?;
    let dead = DeadDesk { letters, stores: stores.clone(), clock: clock.clone() };
    let (jobs, running_jobs) = Box::pin(Jobs::start(Parts {
        link: broker::connect(&broker, boot, name.as_str(), "jobs").await?,
        stores: stores.clone(),
        clock: clock.clone(),
        dispatch: Arc::clone(&dispatch),
        registry: Arc::clone(&registry),
        metrics: Arc::clone(&metrics),
        args: args.jobs.clone(),
        shutdown: shutdown.clone(),
    }))
    .await?;

    let bulk = broker::connect(&broker, boot, name.as_str(), "files").await?;
    let parts = broker::connect(&broker, boot, name.as_str(), "batches").await?;
    let batches = Arc::new(
        Batches::open(
            &parts,
            &bulk,
            &stores,
            Arc::clone(&dispatch),
            Arc::clone(&registry),
            clock.clone(),
            Arc::clone(&metrics),
            limits,
            args.max_file_bytes as u64,
        )
        .await?,
    );
    let mut working = tokio::spawn(Arc::clone(&batches).work(shutdown.clone()));

    let address = process.advertise_addr.clone().unwrap_or_else(|| page.to_string());
    let identity = Identity { role: Role::Api, process: name.clone(), boot, address: Some(address) };
    let cache = Cache::new(args.cache.cache_bytes, args.cache.cache_scope, Arc::clone(&metrics));
    let reporter = start_reporter(&control, identity, links, &metrics, &clock, cache.clone());
    reporter.set_state(ProcessState::Ready);
    tracing::info!(address = %listener.local_addr()?, "ready");

    let (served, until_served) = tokio::sync::oneshot::channel();
    let mut sharing = None;
    let tenants = match keys {
        Some(keys) => {
            let tenants = keys.follow(&metrics, &clock);
            let quotas = stores.bucket(Bucket::Quotas).await?;
            let mut shared = Sharing::new(Arc::clone(&tenants), Arc::clone(registry.peers()), quotas);
            // Before the first request: what was used today is known from the beginning.
            shared.once().await;
            sharing = Some(tokio::spawn(shared.run(until_served)));
            Some(tenants)
        }
        None => None,
    };
    let mut state = http::AppState::new(dispatch, registry, metrics, limits).with_tenants(tenants).with_cache(cache);
    state.jobs = Some(jobs);
    state.dead = Some(dead);
    state.backend.batches = Some(batches);
    let connections = args.connections;
    let result = tokio::select! {
        served = http::serve(listener, own_page, state, connections, shutdown.clone(), GRACE) => served,
        // Without it every request would run into its deadline: better to be started again.
        ended = listening.join_next() => Err(anyhow::anyhow!("the task that takes answers ended: {ended:?}")),
        ended = batch_work_ended(&mut working, shutdown.clone()) => Err(ended),
    };
    running_jobs.stop().await;
    // Parts that are held go back to the queue; they come back by themselves if that takes too long.
    let _given_back = tokio::time::timeout(Duration::from_secs(2), &mut working).await;
    parts.flush().await;
    if let Some(sharing) = sharing {
        drop(served);
        let _in_vain_without_a_broker = tokio::time::timeout(broker::REQUEST_TIMEOUT, sharing).await;
    }
    reporter.goodbye().await;
    result
}

/// API keys as they were read at the start.
struct Keys {
    source: Source,
    config: Config,
    text: String,
}

fn read_keys(access: &AccessArgs) -> anyhow::Result<Option<Keys>> {
    let Some(source) = Source::choose(access.api_keys.as_deref(), access.api_keys_json.as_ref())? else {
        return Ok(None);
    };
    let (config, text) = source.read()?;
    Ok(Some(Keys { source, config, text }))
}

impl Keys {
    /// Puts them in force, and their changes from now on.
    fn follow(self, metrics: &Arc<ApiMetrics>, clock: &BrokerClock) -> Arc<Tenants> {
        let tenants = Arc::new(Tenants::new(self.config, Arc::clone(metrics), clock.clone()));
        tokio::spawn(self.source.follow(self.text, Arc::clone(&tenants)));
        tenants
    }
}

/// Longest time that requests in flight get when the process is asked to stop.
const GRACE: Duration = Duration::from_secs(30);

/// Resolves if batches are not worked on any more although nobody asked for that.
async fn batch_work_ended(
    working: &mut tokio::task::JoinHandle<anyhow::Result<()>>,
    mut shutdown: Shutdown,
) -> anyhow::Error {
    tokio::select! {
        biased;
        () = shutdown.fired() => std::future::pending().await,
        ended = working => match ended {
            Ok(Err(error)) => error,
            ended => anyhow::anyhow!("the task that works on batches ended: {ended:?}"),
        },
    }
}

fn start_reporter(
    control: &Link,
    identity: Identity,
    links: [Link; 3],
    metrics: &Arc<ApiMetrics>,
    clock: &BrokerClock,
    cache: Option<Arc<Cache>>,
) -> Reporter {
    let (sampled, offset) = (Arc::clone(metrics), clock.clone());
    let mut overflows = 0;
    Reporter::start(control.client.clone(), identity, Arc::clone(metrics.registry()), clock.clone(), move || {
        if let Some(cache) = &cache {
            cache.sample();
        }
        sampled.clock_offset_seconds.set(offset.offset_seconds().abs());
        let total: u64 = links.iter().map(Link::slow_consumers).sum();
        sampled.slow_consumer_total.inc_by(total - overflows);
        overflows = total;
    })
}
