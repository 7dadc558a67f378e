//! `forebay migrate`: brings the broker's streams and stores to what this version and these settings want.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use forebay_shared::broker;
use forebay_shared::ids::BootId;
use forebay_shared::settings::BrokerArgs;
use forebay_shared::streams::{Finding, Stores, Verdict};

#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// Make the changes; without it they are only shown.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// Exit status 1 if anything was refused.
pub fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(Box::pin(migrate(&args)))?;
    for finding in &findings {
        println!("{finding}");
    }
    let count = |is: fn(&Verdict) -> bool| findings.iter().filter(|finding: &&Finding| is(&finding.verdict)).count();
    let changed = count(|verdict| matches!(verdict, Verdict::Changed { .. }));
    let refused = count(|verdict| matches!(verdict, Verdict::Refused { .. }));
    if refused > 0 {
        println!("{refused} refused: nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    match (changed, args.apply) {
        (0, _) => println!("nothing to change"),
        (_, true) => println!("{changed} changed"),
        (_, false) => println!("{changed} to change; this was a dry run, --apply makes the changes"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn migrate(args: &MigrateArgs) -> anyhow::Result<Vec<Finding>> {
    let link = broker::connect(&args.broker, BootId::random(), "migrate", "control").await?;
    let stores = Stores::new(link.jetstream(), &args.broker.stores);
    stores.migrate(args.apply).await.context("the migration stopped; run it again")
}
