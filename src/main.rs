//! The `forebay` binary: every role of the system is one subcommand, and this file is the table of contents.

mod api_key;
mod cli;
mod dead;
mod doctor;
mod erase;
mod gpu;
mod host;
mod http;
mod keys;
mod migrate;
mod model;
mod reference;
mod role;
mod self_test;
mod signals;
mod up;

use std::process::ExitCode;

use clap::Parser;
use forebay_shared::ids::Role;

use cli::{Cli, Command};

/// Keeps the pages of freed tensors for a while, where the system's allocator would unmap and fault them in again per batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Api(args) => role::run(Role::Api, args, forebay_api::run),
        Command::Worker(mut args) => {
            gpu::settle(&mut args.role.device)?;
            role::run(Role::Worker, args, forebay_worker::run)
        }
        Command::Aggregator(args) => role::run(Role::Aggregator, args, forebay_aggregator::run),
        Command::Dead(args) => dead::run(args),
        Command::Erase(args) => erase::run(args),
        Command::ApiKey(args) => api_key::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::SelfTest(mut args) => {
            gpu::settle(&mut args.args.device)?;
            self_test::test(&args)
        }
        Command::DeviceBench(mut args) => {
            gpu::settle(&mut args.args.device)?;
            self_test::bench(&args)
        }
        Command::Keys(args) => keys::run(&args),
        Command::Migrate(args) => migrate::run(args),
        Command::Reference(args) => reference::run(&args),
    }
}

/// The whole chain of causes on one line, so that a log or a terminal shows all of it.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
