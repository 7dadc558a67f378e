//! `forebay up`: the whole system on one machine, supervised.
//!
//! check --> broker --> api, aggregator, workers --> ready --> first answer --> serve --signal--> ordered stop
//!
//! * `plan`: which processes, on which ports, with which flags. `devices`: who computes on what.
//!   `preflight`: whether they can run. `store`: the folder.
//! * `fleet`: all processes; `keeper`: one process, kept running by the rule of `restart`; `child`: one start of it.
//! * `board`: what is seen meanwhile. `greeting`: the first request, and what to try next.
//! * `monitoring`: Prometheus and Alertmanager, when asked for. `programs`: where the binaries of others are.
//!
//! The queue is a real nats-server and the roles are this same program: nothing here is on the path of a request.

mod board;
mod child;
mod devices;
mod fleet;
mod greeting;
mod keeper;
mod monitoring;
mod nats;
mod plan;
mod preflight;
mod programs;
mod restart;
mod store;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use forebay_shared::settings::LogArgs;
use forebay_worker::device::DeviceChoice;
use serde_json::Value;

use crate::model::Model;
use crate::signals::Signals;
use board::Board;
use devices::Devices;
use fleet::Fleet;
use monitoring::MonitoringArgs;
pub use nats::{find_server, server_version};
use plan::{Addresses, Plan};
use store::Store;

#[derive(Args, Debug)]
pub struct UpArgs {
    /// Model to serve: a folder, a hub id (owner/name), `identity` or `simulated`; repeat it for more models
    /// [default: all-MiniLM-L6-v2].
    #[arg(long = "model", env = "FOREBAY_MODEL", value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// Name under which clients ask for the model, if there is one model [default: the folder's name or the hub id].
    #[arg(long, env = "FOREBAY_SERVED_NAME", value_name = "NAME")]
    served_name: Option<String>,
    /// Workers per model [default: one; on GPUs as many as make one per device].
    #[arg(long, env = "FOREBAY_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Devices to compute on: cpu, cuda:N, cuda:UUID (a GPU or a MIG slice of one, as `nvidia-smi -L` prints it), or auto: every GPU
    /// that this build and this machine have, else the CPU. Workers are dealt to them in turn.
    #[arg(
        long = "device",
        env = "FOREBAY_DEVICE",
        default_value = "auto",
        value_delimiter = ',',
        value_name = "DEVICE"
    )]
    devices: Vec<DeviceChoice>,
    /// CPU threads of each worker [default: the cores, divided by all workers].
    #[arg(long, env = "FOREBAY_THREADS", value_name = "N")]
    threads_per_worker: Option<NonZeroUsize>,
    /// Where clients send their requests.
    #[arg(long, env = "FOREBAY_API_ADDR", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    api_addr: SocketAddr,
    /// Where Prometheus finds the fleet's metrics.
    #[arg(long, env = "FOREBAY_AGGREGATOR_ADDR", default_value = "127.0.0.1:9600", value_name = "ADDR")]
    aggregator_addr: SocketAddr,
    /// Folder for the queue, the logs and the list of processes. Two systems need two of them.
    #[arg(long, env = "FOREBAY_STORE", default_value = ".forebay", value_name = "DIR")]
    store: PathBuf,
    /// How safely jobs are kept.
    #[arg(long, env = "FOREBAY_DURABILITY", value_enum, default_value_t = UpDurability::File)]
    durability: UpDurability,
    /// Encrypt the queue's files with the key in this file, as `forebay keys` makes one (store.key).
    #[arg(long, env = "FOREBAY_STORE_KEY_FILE", value_name = "FILE")]
    store_key_file: Option<PathBuf>,
    /// Where the broker listens [default: a free port on loopback].
    #[arg(long, env = "FOREBAY_NATS_ADDR", value_name = "ADDR")]
    nats_addr: Option<SocketAddr>,
    /// The nats-server to run [default: the one on PATH or in .cache/bin].
    #[arg(long, env = "FOREBAY_NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Answer one request, print the answer, stop everything.
    #[arg(long)]
    once: bool,
    /// How long --once may take until its answer.
    #[arg(long, env = "FOREBAY_ONCE_TIMEOUT", default_value = "120s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    once_timeout: Duration,
    /// How long each kind of process may take to finish its work when the system stops.
    #[arg(long, env = "FOREBAY_STOP_GRACE", default_value = "35s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    stop_grace: Duration,
    #[command(flatten)]
    monitoring: MonitoringArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What one broker can promise. Replicated queues need three of them, which `up` does not run.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum UpDurability {
    /// In the broker's memory: lost when the broker ends.
    Memory,
    /// On disk: survives the broker's process; a power loss can cost up to two minutes.
    File,
    /// On disk, and acknowledged only when it is there: survives a power loss; every message waits for the disk.
    Fsync,
}

impl UpDurability {
    /// The setting of the roles: how often the broker writes is the broker's.
    const fn of_streams(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File | Self::Fsync => "file",
        }
    }
}

pub fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    // One thread on purpose: children are tied to the life of the thread that starts them, see `child`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(up(args)))?;
    Ok(ExitCode::SUCCESS)
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let devices = Devices::find(&args.devices)?;
    let server = nats::find_server(args.nats_server.as_deref())?;
    let store = Store::open(&args.store)?;
    let plan = Plan::new(&args, devices, &server, &store)?;
    preflight::check(&plan, &store)?;
    store.unlock(plan.key_fingerprint.as_deref())?;
    nats::write_config(&plan, &store)?;
    if let Some(monitoring) = &plan.monitoring {
        monitoring.write_config(plan.addresses.aggregator, &store)?;
    }

    let mut fleet = Fleet::start(plan.processes, store, args.stop_grace)?;
    let board = Board::show(fleet.statuses());
    for warning in preflight::exposure(&plan.addresses) {
        board.note(&warning);
    }
    if let Some(note) = &plan.devices.note {
        board.note(note);
    }
    let serving = Serving {
        args: &args,
        models: &plan.models,
        devices: &plan.devices,
        addresses: plan.addresses,
        fleet: &fleet,
        board: &board,
    };
    let outcome = tokio::select! {
        outcome = serving.serve(start) => outcome,
        reason = fleet.failed() => Err(anyhow!(reason)),
        () = signals.next() => match args.once {
            true => Err(anyhow!("stopped by a signal before there was an answer")),
            false => Ok(()),
        },
    };

    board.note("stopping; Ctrl-C again stops at once");
    tokio::select! {
        () = fleet.stop() => {}
        () = signals.next() => {}
    }
    fleet.kill();
    board.end();
    outcome
}

/// The system while it runs.
struct Serving<'a> {
    args: &'a UpArgs,
    models: &'a [Model],
    devices: &'a Devices,
    addresses: Addresses,
    fleet: &'a Fleet,
    board: &'a Board,
}

impl Serving<'_> {
    /// Waits for the first answer and shows it; then for ever, unless one answer was all that was asked for.
    async fn serve(&self, start: Instant) -> anyhow::Result<()> {
        let limit = if self.args.once { self.args.once_timeout } else { Duration::MAX };
        let Ok(answer) = tokio::time::timeout(limit, self.first_answer()).await else {
            bail!(
                "no answer within {}; see the logs in {}",
                humantime::format_duration(limit),
                self.fleet.logs().display()
            );
        };
        let answer = answer?;
        let took = start.elapsed();
        self.fleet.settle();
        self.board.print(&greeting::shortened(&answer));
        self.board.note(&format!("first answer {:.2} s after the start", took.as_secs_f64()));
        if self.args.once {
            return Ok(());
        }
        self.board.print(&greeting::directions(
            self.addresses,
            &self.models[0].name,
            self.devices,
            &self.fleet.store_dir(),
        ));
        std::future::pending().await
    }

    async fn first_answer(&self) -> anyhow::Result<Value> {
        greeting::wait_until_ready(&self.addresses, self.models).await;
        greeting::first_answer(self.addresses.api, &self.models[0].name).await
    }
}
