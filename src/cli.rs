//! What can be typed: the subcommands and the settings that every role shares. Each role's own flags live with the role.

use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand};
use forebay_aggregator::AggregatorArgs;
use forebay_api::ApiArgs;
use forebay_shared::settings::{BrokerArgs, ProcessArgs};
use forebay_worker::WorkerArgs;
use forebay_worker::device_bench::DeviceBenchArgs;
use forebay_worker::selftest::SelfTestArgs;

use crate::api_key::ApiKeyArgs;
use crate::dead::DeadArgs;
use crate::doctor::DoctorArgs;
use crate::erase::EraseArgs;
use crate::keys::KeysArgs;
use crate::migrate::MigrateArgs;
use crate::reference::ReferenceArgs;
use crate::self_test::Reported;
use crate::up::UpArgs;

/// Serves models behind a durable queue.
///
/// Requests come in over HTTP, wait in NATS JetStream, and are answered in batches by workers, one per device. A worker can
/// be killed under load without a failed request; apis and the broker come back by themselves under `forebay up`.
#[derive(Parser, Debug)]
#[command(
    name = "forebay",
    version,
    disable_help_subcommand = true,
    after_help = "Start here:\n  forebay up                      the whole system on this machine\n  \
                  forebay up --model ./my-model   with your model\n  forebay doctor                  what is missing, and what to do"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the whole system on this machine: broker, api, aggregator and workers.
    Up(UpArgs),
    /// Serve HTTP: turn requests into jobs, and answers into responses.
    ///
    /// Holds no state: run as many as you like behind a load balancer. Models are run by `forebay worker`.
    Api(RoleArgs<ApiArgs>),
    /// Run a model: take jobs from the queue, batch them, compute, answer.
    ///
    /// One process drives one device. Start one more for each further device, on any machine that reaches the broker.
    Worker(RoleArgs<WorkerArgs>),
    /// Merge what all processes report into one page of metrics for the fleet.
    // Its list of targets is of the other processes: where Prometheus finds it is part of Prometheus' own configuration.
    // It is on no request's path, so it has nothing to trace.
    #[command(mut_arg("advertise_addr", |arg| arg.hide(true)), mut_args(|arg| match arg.get_help_heading() {
        Some("Traces") => arg.hide(true),
        _ => arg,
    }))]
    Aggregator(RoleArgs<AggregatorArgs>),
    /// Look at jobs that ended their workers and were put aside; begin them anew, or erase them.
    Dead(DeadArgs),
    /// Erase what is kept of a job, or of a tenant, from every store; cancels what is running of it.
    ///
    /// Shows what it would erase unless --yes is given.
    Erase(EraseArgs),
    /// Make API keys: the key itself is shown once, its hash goes into the file of keys.
    ApiKey(ApiKeyArgs),
    /// Check this machine and the broker: one line per finding, with the remedy.
    Doctor(DoctorArgs),
    /// Prove that a device computes what it should: kernels, models in every kind of batch, memory.
    ///
    /// Needs no broker, no network and no model: a small one is inside. Fails if anything is not as it should be.
    SelfTest(Reported<SelfTestArgs>),
    /// Measure how fast a device runs a model, without queue and HTTP; tests it first, and says nothing if it fails.
    DeviceBench(Reported<DeviceBenchArgs>),
    /// Make the keys with which the roles show themselves to the broker, and its list of who may do what.
    Keys(KeysArgs),
    /// Bring streams and stores to what this version and these settings want: shows what would change, or changes it.
    ///
    /// Forward only, and never at the price of a message: what would lose one is refused.
    Migrate(MigrateArgs),
    /// Write the reference pages of settings and metrics, or check that they are current.
    Reference(ReferenceArgs),
}

/// A role's own settings and those that all roles share.
#[derive(Args, Debug)]
pub struct RoleArgs<R: Args> {
    #[command(flatten)]
    pub role: R,
    #[command(flatten)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// How a role's network tasks are scheduled.
#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Process")]
pub struct RuntimeArgs {
    /// Threads for network tasks. One thread groups jobs into messages best; start more processes before more threads.
    #[arg(long, env = "FOREBAY_RUNTIME_THREADS", default_value = "1", value_name = "N")]
    pub runtime_threads: NonZeroUsize,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_flag_is_declared_consistently() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_help_text() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands() {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has none", command.get_name(), argument.get_id());
            }
        }
    }
}
