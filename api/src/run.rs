//! An api's life: connect, follow the fleet, serve, drain.

mod keys;
mod links;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::dead::DeadLetters;
use forebay_shared::ids::{BootId, Role};
use forebay_shared::metrics::ApiMetrics;
use forebay_shared::settings::{BrokerArgs, Durability, ProcessArgs};
use forebay_shared::shutdown::Shutdown;
use forebay_shared::stats::{Identity, ProcessState, Reporter};
use forebay_shared::streams::{self, Bucket, Stores};

use self::keys::Keys;
use self::links::Links;
use crate::batches::Batches;
use crate::cache::Cache;
use crate::dispatch::{Admission, Dispatch};
use crate::http;
use crate::jobs::{Jobs, Parts};
use crate::registry::Registry;
use crate::routes::dead::DeadDesk;
use crate::settings::ApiArgs;

/// Runs an api until `shutdown`; requests in flight are finished first.
///
/// # Errors
/// Whatever keeps it from starting, in one line.
pub async fn run(args: ApiArgs, broker: BrokerArgs, process: ProcessArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let limits = args.limits()?;
    let keys = Keys::read(&args.access)?;
    let boot = BootId::random();
    let name = process.name(Role::Api);
    let metrics = Arc::new(ApiMetrics::new());
    let listener = http::bind("--api-addr", &args.api_addr).await?;
    let own_page = match &args.metrics_addr {
        Some(addr) => Some(http::bind("--metrics-addr", addr).await?),
        None => None,
    };
    Keys::warn_if_open(keys.as_ref(), &args.access, &listener)?;
    let page = own_page.as_ref().unwrap_or(&listener).local_addr()?;

    let links = Box::pin(Links::connect(&broker, boot, name.as_str())).await?;
    let stores = Stores::new(links.control.jetstream(), &broker.stores);
    let clock = BrokerClock::from_wall_clock();
    let registry = Arc::new(Registry::new(args.no_worker_after, (*metrics).clone()));
    let dispatch = Arc::new(Dispatch::new(
        boot,
        links.publish.clone(),
        links.replies.clone(),
        clock.clone(),
        Arc::clone(&metrics),
        Arc::clone(&registry),
        Admission {
            max_in_flight: args.max_in_flight_jobs,
            max_answer_bytes: args.max_answer_bytes,
            by_deadline: !args.no_deadline_admission,
        },
    ));
    if broker.stores.durability == Durability::Memory {
        dispatch.distrust_the_past();
    }
    // What neither takes work nor answers is opened side by side.
    let (models, letters, batches) = Box::pin(async {
        tokio::try_join!(
            models(&stores, &clock, &links.control),
            async { Ok(DeadLetters::open(&stores, links.control.jetstream()).await?) },
            Batches::open(
                &links.batches,
                &links.files,
                &stores,
                Arc::clone(&dispatch),
                Arc::clone(&registry),
                clock.clone(),
                Arc::clone(&metrics),
                limits,
                args.max_file_bytes as u64,
            ),
        )
    })
    .await?;
    tokio::spawn(clock.clone().keep_synced(links.control.client.clone(), streams::MODELS_STREAM.to_owned()));
    let mut listening = dispatch.listen().await.context("cannot listen for answers")?;
    registry.follow(&links.control, models).await?;

    let (tenants, sharing) = match keys {
        Some(keys) => keys.follow(&stores, &registry, &metrics, &clock).await.map(|(a, b)| (Some(a), Some(b)))?,
        None => (None, None),
    };

    // From here on this process takes work; only now, so that none goes uncharged.
    let (jobs, running_jobs) = Box::pin(Jobs::start(Parts {
        link: links.jobs.clone(),
        stores: stores.clone(),
        clock: clock.clone(),
        dispatch: Arc::clone(&dispatch),
        registry: Arc::clone(&registry),
        metrics: Arc::clone(&metrics),
        tenants: tenants.clone(),
        args: args.jobs.clone(),
        shutdown: shutdown.clone(),
    }))
    .await?;

    let address = process.advertised(page);
    let identity = Identity { role: Role::Api, process: name.clone(), boot, address: Some(address) };
    let cache = Cache::new(args.cache.cache_bytes, args.cache.cache_scope, Arc::clone(&metrics));
    let reporter = start_reporter(&links, identity, &metrics, &clock, cache.clone());
    reporter.set_state(ProcessState::Ready);
    tracing::info!(address = %listener.local_addr()?, "ready");

    let batches = Arc::new(batches.with_tenants(tenants.clone(), args.files_tenant_share));
    let mut working = tokio::spawn(Arc::clone(&batches).work(shutdown.clone()));
    let mut state = http::AppState::new(dispatch, registry, metrics, limits).with_tenants(tenants).with_cache(cache);
    state.jobs = Some(jobs);
    state.dead = Some(DeadDesk { letters, stores, clock });
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
    links.batches.flush().await;
    if let Some(sharing) = sharing {
        sharing.finish().await;
    }
    reporter.goodbye().await;
    result
}

/// Where models are registered. The broker's clock is read as soon as that is there, because it is read from it.
async fn models(
    stores: &Stores,
    clock: &BrokerClock,
    control: &Link,
) -> anyhow::Result<async_nats::jetstream::kv::Store> {
    let models = stores.bucket(Bucket::Models).await?;
    let read = || clock.sync(&control.client, streams::MODELS_STREAM);
    streams::through_an_election("read the broker's clock", read).await.context("cannot read the broker's clock")?;
    Ok(models)
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
    links: &Links,
    identity: Identity,
    metrics: &Arc<ApiMetrics>,
    clock: &BrokerClock,
    cache: Option<Arc<Cache>>,
) -> Reporter {
    let (sampled, offset, control, links) =
        (Arc::clone(metrics), clock.clone(), links.control.client.clone(), links.of_requests());
    let mut overflows = 0;
    Reporter::start(control, identity, Arc::clone(metrics.registry()), clock.clone(), move || {
        if let Some(cache) = &cache {
            cache.sample();
        }
        sampled.clock_offset_seconds.set(offset.offset_seconds().abs());
        let total: u64 = links.iter().map(Link::slow_consumers).sum();
        sampled.slow_consumer_total.inc_by(total - overflows);
        overflows = total;
    })
}
