//! `forebay migrate`: brings the broker's streams and stores to what this version and these settings want.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use forebay_shared::broker;
use forebay_shared::ids::BootId;
use forebay_shared::settings::BrokerArgs;
use forebay_shared::streams::{Finding, Migration, Stores, Verdict};

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
    let migration = runtime.block_on(Box::pin(migrate(&args)))?;
    for finding in &migration.findings {
        println!("{finding}");
    }
    let (said, succeeded) = verdict(&migration, args.apply);
    println!("{said}");
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was done, and whether it is what was wanted.
fn verdict(migration: &Migration, apply: bool) -> (String, bool) {
    let Migration { findings, planned, begun, error } = migration;
    let count = |is: fn(&Verdict) -> bool| findings.iter().filter(|finding: &&Finding| is(&finding.verdict)).count();
    let refused = count(Verdict::is_refused);
    if *begun && (refused > 0 || error.is_some()) {
        let changed = count(|verdict| matches!(verdict, Verdict::Changed { .. }));
        let why = error.as_ref().map_or_else(|| "something was refused".to_owned(), ToString::to_string);
        let said = format!(
            "stopped after {changed} of {planned} changes: {why}\nWhat is listed as changed stays changed. Run it again, or \
             run it with the settings of before to go back."
        );
        return (said, false);
    }
    if refused > 0 {
        return (format!("{refused} refused: nothing was changed"), false);
    }
    let said = match (planned, apply) {
        (0, _) => "nothing to change".to_owned(),
        (_, true) => format!("{planned} changed"),
        (_, false) => format!("{planned} to change; this was a dry run, --apply makes the changes"),
    };
    (said, true)
}

async fn migrate(args: &MigrateArgs) -> anyhow::Result<Migration> {
    let link = broker::connect(&args.broker, BootId::random(), "migrate", "control").await?;
    let stores = Stores::new(link.jetstream(), &args.broker.stores);
    stores.migrate(args.apply).await.context("the broker cannot be read; nothing was changed")
}

#[cfg(test)]
mod tests {
    use forebay_shared::streams::EnsureError;

    use super::*;

    fn finding(verdict: Verdict) -> Finding {
        Finding { kind: "stream", name: "S".to_owned(), verdict }
    }

    fn changed() -> Finding {
        finding(Verdict::Changed { anew: false, changes: Vec::new() })
    }

    fn refused() -> Finding {
        finding(Verdict::Refused { changes: Vec::new(), why: "it grew".to_owned() })
    }

    #[test]
    fn nothing_was_changed_is_said_only_where_that_is_so() {
        let mut migration = Migration { findings: vec![changed(), refused()], planned: 1, begun: false, error: None };
        assert_eq!(verdict(&migration, true), ("1 refused: nothing was changed".to_owned(), false));
        (migration.begun, migration.planned) = (true, 3);
        let (said, succeeded) = verdict(&migration, true);
        assert!(said.contains("stopped after 1 of 3 changes") && said.contains("stays changed"), "{said}");
        assert!(!succeeded);
    }

    #[test]
    fn an_error_in_between_does_not_hide_what_was_changed() {
        let error = Some(EnsureError::Unavailable("it is gone".to_owned()));
        let migration = Migration { findings: vec![changed()], planned: 2, begun: true, error };
        let (said, succeeded) = verdict(&migration, true);
        assert!(said.contains("stopped after 1 of 2 changes") && said.contains("it is gone"), "{said}");
        assert!(!succeeded);
    }

    #[test]
    fn a_migration_without_an_obstacle_succeeds() {
        let mut migration = Migration { findings: vec![changed()], planned: 1, begun: false, error: None };
        assert!(verdict(&migration, false).0.contains("dry run"));
        migration.begun = true;
        assert_eq!(verdict(&migration, true), ("1 changed".to_owned(), true));
        let current = Migration { findings: vec![finding(Verdict::Current)], planned: 0, begun: true, error: None };
        assert_eq!(verdict(&current, true), ("nothing to change".to_owned(), true));
    }
}
