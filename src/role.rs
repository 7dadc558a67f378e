//! One role in this process: logging, traces, runtime, signals. The roles themselves know nothing of these.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use forebay_shared::ids::Role;
use forebay_shared::settings::{BrokerArgs, ProcessArgs};
use forebay_shared::shutdown::{self, Shutdown, Trigger};
use forebay_shared::telemetry::{self, otlp};
use tokio::runtime::{Builder, Runtime};

use crate::cli::{RoleArgs, RuntimeArgs};
use crate::host;
use crate::signals::Signals;

/// How long tasks that a role left behind may take to end.
const LEFTOVERS: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Runs `role` until it ends by itself or has stopped after a signal. The second signal ends the process at once.
pub fn run<R: Args>(
    kind: Role,
    args: RoleArgs<R>,
    role: impl AsyncFnOnce(R, BrokerArgs, ProcessArgs, Shutdown) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.process.log)?;
    if kind != Role::Aggregator {
        otlp::start(&args.process.traces, kind, &args.process.name(kind));
    }
    host::raise_open_file_limit();
    let runtime = runtime(args.runtime).context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let signals = Signals::listen().context("cannot listen for signals")?;
        let (trigger, shutdown) = shutdown::channel();
        tokio::spawn(stop_on_signal(signals, trigger));
        Box::pin(role(args.role, args.broker, args.process, shutdown)).await
    });
    runtime.shutdown_timeout(LEFTOVERS);
    otlp::finish(LAST_SPANS);
    outcome.map(|()| ExitCode::SUCCESS)
}

fn runtime(args: RuntimeArgs) -> std::io::Result<Runtime> {
    match args.runtime_threads.get() {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn stop_on_signal(mut signals: Signals, trigger: Trigger) {
    signals.next().await;
    tracing::info!("stopping; a second signal stops at once");
    trigger.fire();
    signals.next().await;
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever sends a second signal does not want the phases of shutdown"
    )]
    std::process::exit(130);
}
