//! `forebay self-test` and `forebay device-bench`: what a device computes, and how fast. Nothing here needs a broker.

use std::process::ExitCode;

use clap::Args;
use forebay_worker::device_bench::{self, DeviceBenchArgs};
use forebay_worker::selftest::{self, SelfTestArgs};

/// A report as text, or for a program to read.
#[derive(Args, Debug)]
pub struct Reported<A: Args> {
    #[command(flatten)]
    pub args: A,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn test(command: &Reported<SelfTestArgs>) -> anyhow::Result<ExitCode> {
    let report = selftest::run(&command.args)?;
    if command.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(if report.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub fn bench(command: &Reported<DeviceBenchArgs>) -> anyhow::Result<ExitCode> {
    let report = device_bench::run(&command.args)?;
    if command.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}
