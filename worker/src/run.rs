//! A worker's life: load, connect, work, drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use forebay_shared::broker::{self, Link};
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec;
use forebay_shared::dead::DeadLetters;
use forebay_shared::ids::{BootId, ModelName, ModelToken, ProcessName, Role};
use forebay_shared::job::Live;
use forebay_shared::metrics::{Fact, HostSampler, WorkerMetrics};
use forebay_shared::settings::{BrokerArgs, Durability, ProcessArgs};
use forebay_shared::shutdown::{self, Shutdown};
use forebay_shared::stats::{Identity, ProcessState, Reporter, Served};
use forebay_shared::streams::{self, Bucket, Queue, Stores};
use forebay_shared::subjects;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::announce::{self, Announcer};
use crate::cancelled::Cancellations;
use crate::delivery::Deliveries;
use crate::device::readings::DeviceSampler;
use crate::device::{Device, DeviceChoice};
use crate::driver::{self, Driver};
use crate::fence::Fence;
use crate::gauge::{Pulse, Waiting};
use crate::herald::Herald;
use crate::intake::{Intake, Prefetch};
use crate::models::{self, Encoder, LoadProgress, LoadedModel, ModelInfo, TokenBatch};
use crate::output_check::OutputCheck;
use crate::pages::{self, Health, Phase};
use crate::prepare::{Bench, Preparer};
use crate::progress::Progress;
use crate::quarantine::{Quarantine, Tools};
use crate::reply::{self, Replier};
use crate::settings::WorkerArgs;
use crate::telemetry::ModelCounters;
use crate::tokenize::buffers::TokenBuffers;

/// How often a draining worker looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// How long the record of the last job in quarantine may take when the worker ends.
const LAST_RECORD: Duration = Duration::from_secs(1);

/// Runs a worker until `shutdown`, then drains it.
///
/// # Errors
/// Whatever keeps it from starting, in one line; later, the loss of what it cannot work without.
pub async fn run(
    mut args: WorkerArgs,
    broker: BrokerArgs,
    process: ProcessArgs,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    args.validate()?;
    let boot = BootId::random();
    let name = process.name(Role::Worker);
    let metrics = WorkerMetrics::new();
    let label = args.device.label();
    if let Some(price) = args.device_price {
        metrics.device_price_per_hour.with(&(Fact::new(&label),)).set(price);
    }
    let health = Health::new();
    let (listener, addr) = pages::bind(args.metrics_addr).await?;
    tokio::spawn(pages::serve(listener, metrics.clone(), health.clone()));

    let control = broker::connect(&broker, boot, name.as_str(), "control").await?;
    let stores = Stores::new(control.jetstream(), &broker.stores);
    let models_table = stores.bucket(Bucket::Models).await?;
    let clock = BrokerClock::from_wall_clock();
    let read = || clock.sync(&control.client, streams::MODELS_STREAM);
    streams::through_an_election("read the broker's clock", read).await.context("cannot read the broker's clock")?;
    tokio::spawn(clock.clone().keep_synced(control.client.clone(), streams::MODELS_STREAM.to_owned()));

    let pull = broker::connect(&broker, boot, name.as_str(), broker::PULL).await?;
    let replies = broker::connect(&broker, boot, name.as_str(), "replies").await?;
    let reporter =
        start_reporter(&control, [&pull, &replies], boot, &name, &process, addr, &metrics, &clock, &args.device);

    let loaded = match load(&args, &metrics, &health).await {
        Ok((loaded, fitting)) => {
            args.batch_max_tokens = Some(fitting);
            loaded
        }
        Err(error) => {
            // With the last report goes the count of the failure.
            reporter.goodbye().await;
            return Err(error);
        }
    };
    health.set(Phase::Announcing);
    let record = announce::record(&loaded.info);
    reporter.set_served(vec![Served { model: record.name.clone(), token: record.token.clone(), device: label }]);
    stores.jobs(&record.token).await?;
    if broker.stores.durability == Durability::Memory {
        tokio::spawn(keep_queue(control.clone(), stores.clone(), record.token.clone()));
    }
    // Before the first delivery: what the broker gives up must not pass unseen.
    stores.queue(Queue::Advisories).await?;
    let aside = Aside {
        attempts: stores.bucket(Bucket::Attempts).await?,
        dead: DeadLetters::open(&stores, control.jetstream()).await?,
        process: name.clone(),
    };
    streams::through_an_election("register the model", || announce::register(&models_table, &record)).await?;

    let live = Live {
        boot,
        process: name.clone(),
        model: record.name.clone(),
        token: record.token.clone(),
        ready: true,
        wire: codec::NEWEST,
        // Batches under way at the same time are run at once.
        max_rows: (args.limits(loaded.info.max_tokens)?.max_rows * loaded.encoder.depth()) as u32,
    };
    let announcer = Announcer::new(control.client.clone(), live);
    let ack_wait = streams::ack_wait(broker.stores.durability);
    let engine =
        Engine::start(&args, boot, name, loaded, pull, replies.clone(), clock, &metrics, ack_wait, aside).await?;
    let mut announcing = tokio::spawn(Arc::clone(&announcer).run());
    health.set(Phase::Ready);
    reporter.set_state(ProcessState::Ready);
    tracing::info!(model = %record.name, token = %record.token, pages = %addr, "ready");

    let result = engine.work(shutdown, &mut announcing, || async {
        health.set(Phase::Draining);
        reporter.set_state(ProcessState::Draining);
        announcer.draining().await;
    });
    let result = result.await;
    reporter.goodbye().await;
    result
}

#[expect(clippy::too_many_arguments, reason = "called once, to keep `run` a table of contents")]
fn start_reporter(
    control: &Link,
    links: [&Link; 2],
    boot: BootId,
    name: &ProcessName,
    process: &ProcessArgs,
    addr: std::net::SocketAddr,
    metrics: &WorkerMetrics,
    clock: &BrokerClock,
    device: &DeviceChoice,
) -> Reporter {
    let address = process.advertised(addr);
    let identity = Identity { role: Role::Worker, process: name.clone(), boot, address: Some(address) };
    let (mut host, sampled, offset) = (HostSampler::default(), metrics.clone(), clock.clone());
    let (links, device) = (links.map(Link::clone), DeviceSampler::new(device, metrics));
    let mut overflows = 0;
    Reporter::start(control.client.clone(), identity, Arc::clone(metrics.registry()), clock.clone(), move || {
        host.sample(&sampled);
        device.sample(&sampled);
        sampled.clock_offset_seconds.set(offset.offset_seconds().abs());
        let total: u64 = links.iter().map(Link::slow_consumers).sum();
        sampled.slow_consumer_total.inc_by(total - overflows);
        overflows = total;
    })
}

/// Makes the queue anew whenever the broker has lost it with its process.
async fn keep_queue(control: Link, stores: Stores, token: ModelToken) {
    let mut epochs = control.epochs();
    while epochs.changed().await.is_ok() {
        while control.is_up() {
            match stores.jobs(&token).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the queue in the broker's memory cannot be made anew yet"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Loads and warms the model on a thread that may block.
///
/// Returns it, and how many tokens of one batch its device has memory for.
async fn load(args: &WorkerArgs, metrics: &WorkerMetrics, health: &Health) -> anyhow::Result<(LoadedModel, usize)> {
    let begun = Instant::now();
    let (source, threads, choice, dtype) = (args.source(), args.compute_threads(), args.device.clone(), args.dtype);
    let (shown, wanted) = (health.clone(), args.most_batch_tokens());
    shown.set(Phase::Opening);
    let loading = tokio::task::spawn_blocking(move || {
        let device = Device::open(&choice, Some(threads), dtype)?;
        let mut loaded = models::load(&source, &device, &|progress| show_progress(progress, &shown))?;
        warm(loaded.encoder.as_mut());
        let fitting = loaded.encoder.fit(wanted, loaded.info.max_tokens);
        let fitting = fitting.map_err(|error| models::ModelError::Device(error.to_string()))?;
        tracing::info!(device = %device.describe(), batch_tokens = fitting, "loaded");
        Ok::<_, models::ModelError>((loaded, fitting))
    });
    let (mut loaded, fitting) = loading.await.context("loading the model panicked")?.inspect_err(|_| {
        let model = ModelName::from(args.served_name.as_deref().unwrap_or(&args.model));
        metrics.register_model(&model);
        metrics.model_load_errors_total.with(&(model,)).inc();
    })?;
    let info = &mut loaded.info;
    if let Some(served) = &args.served_name {
        info.name = served.clone();
        let pooling = info.pooling.as_str();
        info.token =
            forebay_shared::model::token(&info.name, &info.weights_digest, &info.dtype, pooling, info.normalize);
    }
    describe(info, &args.device.label(), metrics, begun.elapsed());
    if fitting < wanted {
        tracing::warn!(wanted, fitting, "the device has memory for smaller batches only");
    }
    Ok((loaded, fitting))
}

fn show_progress(progress: LoadProgress, health: &Health) {
    match progress {
        LoadProgress::Downloading { done_bytes, total_bytes } => {
            health.set(Phase::Downloading { done_bytes, total_bytes });
            tracing::debug!(done_bytes, total_bytes, "downloading");
        }
        LoadProgress::Loading { size_bytes } => {
            health.set(Phase::Loading { size_bytes });
            tracing::info!(size_bytes, "loading weights");
        }
        LoadProgress::Ready => {}
    }
}

/// The first pass of a process pages in weights and code: nobody's request should pay for that.
fn warm(encoder: &mut dyn Encoder) {
    let row: Vec<u32> = vec![0; 8];
    if let Err(error) = encoder.encode(&TokenBatch::from_rows([&row, &row])) {
        tracing::warn!(%error, "the warm-up batch failed");
    }
}

fn describe(info: &ModelInfo, device: &str, metrics: &WorkerMetrics, took: Duration) {
    let model = ModelName::from(info.name.as_str());
    metrics.register_model(&model);
    let one = (model.clone(),);
    let version = &info.weights_digest[..info.weights_digest.len().min(12)];
    let facts = [version, &info.architecture, &info.dtype, device].map(Fact::new);
    let [version, architecture, dtype, device] = facts;
    metrics.model_info.with(&(model, version, architecture, dtype, device)).set(1.0);
    metrics.models_loaded.set(1.0);
    metrics.model_size_bytes.with(&one).set(info.size_bytes as f64);
    metrics.model_load_duration_seconds.with(&one).observe(took.as_secs_f64());
    if let Some(loss) = info.training_loss {
        metrics.model_training_loss.with(&one).set(loss);
    }
    if let Some(loss) = info.validation_loss {
        metrics.model_validation_loss.with(&one).set(loss);
    }
}

/// What the quarantine keeps in the broker, and under which name.
struct Aside {
    attempts: async_nats::jetstream::kv::Store,
    dead: DeadLetters,
    process: ProcessName,
}

/// Intake, tokenisers, driver and replies of one loaded model, wired up.
struct Engine {
    intake: Arc<Intake>,
    herald: Arc<Herald>,
    quarantine: Arc<Quarantine>,
    progress: Progress,
    replies: Link,
    replier: JoinHandle<()>,
    /// Resolves when the device is lost, with the reason, or when the engine's thread is gone.
    driver_gone: oneshot::Receiver<String>,
    drain_timeout: Duration,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "called once, to keep `run` a table of contents")]
    async fn start(
        args: &WorkerArgs,
        boot: BootId,
        process: ProcessName,
        loaded: LoadedModel,
        pull: Link,
        replies: Link,
        clock: BrokerClock,
        metrics: &WorkerMetrics,
        ack_wait: Duration,
        aside: Aside,
    ) -> anyhow::Result<Self> {
        let LoadedModel { info, tokenizer, encoder } = loaded;
        let limits = args.limits(info.max_tokens)?;
        let model = ModelName::from(info.name.as_str());
        let counters = Arc::new(ModelCounters::new(metrics, &model, &args.device.label()));
        let fence = Arc::new(Mutex::new(Fence::new(pull.epoch(), Instant::now())));
        let deliveries = Arc::new(Deliveries::new(ack_wait, Arc::clone(&fence)));
        let herald = Arc::new(Herald {
            boot,
            process,
            token: info.token.clone(),
            link: pull.clone(),
            deliveries: Arc::clone(&deliveries),
            fence: Arc::clone(&fence),
            next: tokio::sync::Mutex::new(Some(0)),
        });
        let cancellations = Arc::new(Cancellations::default());
        let heard = pull.client.subscribe(subjects::cancel(&info.token)).await?;
        let (listening, hearing) = (Arc::clone(&cancellations), clock.clone());
        tokio::spawn(async move { listening.listen(heard, hearing).await });
        let (waiting, pulse) = <(Arc<Waiting>, Arc<Pulse>)>::default();
        let (results, answers) = reply::channel();
        let (arrivals_in, arrivals) = crossbeam_channel::unbounded();
        let tokenizer_threads = if encoder.runs_inline() { 0 } else { args.tokenizer_threads };
        let bench = Bench {
            tokenizer,
            buffers: TokenBuffers::new(4 * limits.max_rows),
            clock: clock.clone(),
            waiting: Arc::clone(&waiting),
            counters: Arc::clone(&counters),
            cancellations: Arc::clone(&cancellations),
            driver: arrivals_in,
            replies: results.clone(),
        };
        let driver = Driver::new(driver::Parts {
            encoder,
            limits: limits.clone(),
            longest_tokens: info.max_tokens,
            arrivals,
            replies: results.clone(),
            deliveries: Arc::clone(&deliveries),
            cancellations: Arc::clone(&cancellations),
            waiting: Arc::clone(&waiting),
            pulse: Arc::clone(&pulse),
            clock: clock.clone(),
            counters: Arc::clone(&counters),
        })?;
        let replier = Replier {
            client: replies.client.clone(),
            normalize: info.normalize,
            deliveries: Arc::clone(&deliveries),
            counters: Arc::clone(&counters),
            check: OutputCheck::new(),
            inputs: TokenBatch::new(),
        };
        let preparer = Preparer::start(bench, tokenizer_threads)?;
        let quarantine = Quarantine::new(Tools {
            boot,
            process: aside.process,
            token: info.token.clone(),
            link: pull.clone(),
            attempts: aside.attempts,
            dead: aside.dead,
            clock: clock.clone(),
            deliveries: Arc::clone(&deliveries),
            waiting: Arc::clone(&waiting),
            cancellations,
            preparer: preparer.clone(),
            replies: results.clone(),
            counters: Arc::clone(&counters),
        });
        let intake = Arc::new(Intake {
            link: pull.clone(),
            replies: replies.clone(),
            clock: clock.clone(),
            boot,
            token: info.token.clone(),
            prefetch: Prefetch { max_rows: limits.max_rows, max_tokens: limits.max_tokens },
            deliveries: Arc::clone(&deliveries),
            waiting,
            preparer,
            results,
            counters,
            fence,
            herald: Arc::clone(&herald),
            quarantine: Arc::clone(&quarantine),
        });
        let (alive, driver_gone) = oneshot::channel();
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            if let Err(mut lost) = driver.run() {
                let _ended = alive.send(std::mem::take(&mut lost.reason));
                // What the driver holds must not end before the process does, and a lost device is better not touched.
                loop {
                    std::thread::park();
                }
            }
            drop(alive);
        })?;
        Ok(Self {
            intake,
            herald,
            quarantine,
            progress: Progress { link: pull, deliveries, pulse, stall_limit: args.stall_limit, ack_wait },
            replies,
            replier: tokio::spawn(replier.run(answers)),
            driver_gone,
            drain_timeout: args.drain_timeout,
        })
    }

    /// Works until `shutdown`, then finishes what was begun. `draining` is told when that starts.
    async fn work<F: Future<Output = ()>>(
        self,
        mut shutdown: Shutdown,
        announcing: &mut JoinHandle<anyhow::Result<()>>,
        draining: impl FnOnce() -> F,
    ) -> anyhow::Result<()> {
        let Self { intake, herald, quarantine, progress, replies, mut replier, mut driver_gone, drain_timeout } = self;
        let (link, deliveries) = (progress.link.clone(), Arc::clone(&progress.deliveries));
        let giving_back = Progress { link: link.clone(), deliveries: Arc::clone(&deliveries), ..progress };
        let (stall_limit, ack_wait) = (giving_back.stall_limit, giving_back.ack_wait);
        let watching = Progress { link, deliveries, pulse: Arc::clone(&giving_back.pulse), stall_limit, ack_wait };
        let (stop, stopped) = shutdown::channel();
        tokio::spawn(Arc::clone(&herald).run());
        let mut suspects = tokio::spawn(Arc::clone(&quarantine).run(stopped.clone()));
        let mut taking = tokio::spawn(intake.run(stopped));
        let mut watching = tokio::spawn(watching.run());
        let broken = tokio::select! {
            () = shutdown.fired() => None,
            ended = &mut taking => return ended?.context("the intake ended"),
            ended = &mut suspects => anyhow::bail!("the quarantine ended: {ended:?}"),
            ended = announcing => return ended?.context("the announcements ended"),
            // Work would be taken and never answered: better to be started again.
            ended = &mut replier => anyhow::bail!("the task that answers ended: {ended:?}"),
            lost = &mut driver_gone => match lost {
                Ok(reason) => Some(anyhow::anyhow!("the device is lost ({reason}): gave the work back")),
                Err(_) => anyhow::bail!("the engine's thread ended; its last log line says why"),
            },
            _ = &mut watching => Some(anyhow::anyhow!(
                "a batch took longer than --stall-limit {stall_limit:?}: gave the work back"
            )),
        };
        if let Some(error) = broken {
            // In this order, or the broker hands what we give back to ourselves.
            draining().await;
            stop.fire();
            let _ended = tokio::time::timeout(Duration::from_secs(1), &mut taking).await;
            giving_back.give_back(Instant::now()).await;
            quarantine.give_up();
            let _ended = tokio::time::timeout(LAST_RECORD, &mut suspects).await;
            replies.flush().await;
            if replies.is_up() {
                herald.goodbye().await;
            }
            watching.abort();
            return Err(error);
        }
        // 1. Nothing new: apis stop counting on us, the broker stops sending.
        draining().await;
        stop.fire();
        let until = Instant::now() + drain_timeout;
        let stopped_taking = tokio::time::timeout_at(until.into(), &mut taking).await;
        // 2. What was begun is answered, unless the device is lost meanwhile.
        let mut lost = None;
        while !giving_back.deliveries.is_empty() && Instant::now() < until && !watching.is_finished() && lost.is_none()
        {
            tokio::time::sleep(DRAIN_POLL).await;
            lost = driver_gone.try_recv().ok();
        }
        // 3. The rest is for others.
        giving_back.give_back(Instant::now()).await;
        quarantine.give_up();
        let _ended = tokio::time::timeout(LAST_RECORD, &mut suspects).await;
        // Answers that have not left are no answers: then others had better take us for dead.
        replies.flush().await;
        if replies.is_up() {
            herald.goodbye().await;
        }
        watching.abort();
        if stopped_taking.is_err() {
            tracing::warn!("stopped before everything in flight was given back; it comes round after ack_wait");
        }
        if let Some(reason) = lost {
            anyhow::bail!("the device was lost while draining ({reason}): gave the rest back");
        }
        tracing::info!("drained");
        Ok(())
    }
}
