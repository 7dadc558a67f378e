//! `forebay erase`: removes what is kept of a job or of a tenant.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use forebay_api::erase::{EraseError, Eraser, Report, Store, Target};
use forebay_shared::broker;
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{BootId, JobId, TenantName};
use forebay_shared::settings::BrokerArgs;
use forebay_shared::streams::{MODELS_STREAM, Stores};
use serde_json::{Value, json};

#[derive(Args, Debug)]
pub struct EraseArgs {
    /// Id of a job, as `POST /v1/jobs` answered it, or of a dead letter.
    #[arg(long, value_name = "ID", required_unless_present = "tenant")]
    job: Option<JobId>,
    /// Name of a tenant: everything of it, or with --job that job only if it is this tenant's. Without API keys all is
    /// kept for the tenant `default`.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Erase; without it only what would be erased is shown, and the exit status is 1.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl EraseArgs {
    fn target(&self) -> anyhow::Result<Target> {
        let tenant = match self.tenant.as_deref() {
            Some("") => bail!("--tenant: needs a name"),
            tenant => tenant.map(TenantName::from),
        };
        match (self.job, tenant) {
            (Some(id), tenant) => Ok(Target::job(id, tenant)),
            (None, Some(tenant)) => Ok(Target::Tenant(tenant)),
            (None, None) => bail!("name a job with --job, or a tenant with --tenant"),
        }
    }
}

/// Exit status 1 if nothing was erased although there was something, or something could not be.
pub fn run(args: EraseArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(erase(&args)))
}

async fn erase(args: &EraseArgs) -> anyhow::Result<ExitCode> {
    let target = args.target()?;
    let link = broker::connect(&args.broker, BootId::random(), "operator", "erase").await?;
    let clock = BrokerClock::from_wall_clock();
    clock.sync(&link.client, MODELS_STREAM).await.context("cannot read the broker's clock")?;
    let stores = Stores::new(link.jetstream(), &args.broker.stores);
    let eraser = Eraser::new(link.jetstream(), stores, clock);
    let (report, busy) = match args.yes {
        false => (eraser.look(&target).await?, None),
        true => match eraser.erase(&target).await {
            Ok(report) => (report, None),
            Err(EraseError::StillBusy(report)) => (report.clone(), Some(EraseError::StillBusy(report))),
            Err(error) => return Err(error.into()),
        },
    };
    if args.json {
        println!("{}", as_json(&report, args.yes));
    } else {
        print!("{}", page(&report, args.yes));
    }
    if let Some(busy) = busy {
        return Err(busy.into());
    }
    let is_open = report.unreadable > 0 || (!args.yes && report.total() > 0);
    Ok(if is_open { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(report: &Report, erased: bool) -> Value {
    json!({ "erased": erased, "total": report.total(), "found": report })
}

/// For people: a table of stores, what was running, and what to do next.
fn page(report: &Report, erased: bool) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    if report.total() == 0 && report.unreadable == 0 && report.shared == 0 {
        return "nothing is kept of it\n".to_owned();
    }
    let _never_fails =
        writeln!(text, "{:<20}  {:<36}  {:>9}", "store", "what", if erased { "erased" } else { "found" });
    for store in Store::ALL {
        if let Some(count) = report.messages.get(store.name()) {
            let _never_fails = writeln!(text, "{:<20}  {:<36}  {count:>9}", store.name(), store.holds());
        }
    }
    let verb = if erased { "cancelled" } else { "running, would be cancelled" };
    for job in &report.running_jobs {
        let _never_fails = writeln!(text, "{verb}: job {job}");
    }
    for batch in &report.running_batches {
        let _never_fails = writeln!(text, "{verb}: batch {batch}");
    }
    if report.unreadable > 0 {
        let _never_fails = writeln!(
            text,
            "{} messages cannot be read by this version and stay; run `forebay erase` of the newest version",
            report.unreadable
        );
    }
    if report.shared > 0 {
        let _never_fails = writeln!(
            text,
            "{} messages of running work hold rows of others as well and stay until their deadline",
            report.shared
        );
    }
    if !erased {
        text.push_str("nothing was erased; --yes erases this, and it cannot be undone\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_table_says_what_is_where_and_that_nothing_happened_yet() {
        let report = Report {
            messages: BTreeMap::from([(Store::Dead.name(), 2)]),
            running_jobs: vec![JobId::from_bytes([1; 16])],
            ..Report::default()
        };
        let text = page(&report, false);
        assert!(text.contains("FOREBAY_DEAD") && text.contains("would be cancelled: job 01"), "{text}");
        assert!(text.ends_with("it cannot be undone\n"), "{text}");
        assert!(!page(&report, true).contains("--yes"));
        assert_eq!(page(&Report::default(), true), "nothing is kept of it\n");
        for left in [Report { shared: 1, ..Report::default() }, Report { unreadable: 1, ..Report::default() }] {
            let text = page(&left, true);
            assert!(!text.contains("nothing is kept") && text.contains("1 messages"), "{text}");
        }
    }
}
