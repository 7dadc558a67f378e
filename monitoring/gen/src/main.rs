//! Writes what monitoring needs from the tables of metrics and `monitoring/values.yml`: rules, their tests, dashboards.
//!
//! A query that names a metric, a label or a value of a label which the tables do not have ends the run: a renamed metric
//! breaks the build, not a dashboard at night. `--check` writes nothing and names the files that are stale.

mod compat;
mod dashboards;
mod output;
mod promql;
mod rules;
mod values;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::output::Page;
use crate::values::Values;

#[derive(Parser, Debug)]
#[command(about = "Writes rules and dashboards from the tables of metrics")]
struct Args {
    /// Write nothing; list the files that are stale and fail if there are any.
    #[arg(long)]
    check: bool,
    /// The folder that holds `values.yml`, `prometheus/` and `grafana/`.
    #[arg(default_value = "monitoring", value_name = "DIR")]
    dir: PathBuf,
}

/// Everything that is generated; paths are relative to the folder of monitoring.
fn pages(dir: &Path, values: &Values) -> anyhow::Result<Vec<Page>> {
    let mut pages = rules::pages(values)?;
    pages.extend(compat::pages(dir)?);
    pages.extend(dashboards::pages(values)?);
    Ok(pages)
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let values = Values::read(&args.dir.join("values.yml"))?;
    let pages = pages(&args.dir, &values)?;
    if !args.check {
        output::write(&args.dir, &pages)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stale = output::stale(&args.dir, &pages);
    for path in &stale {
        println!("{} is stale; run `make monitoring`", path.display());
    }
    Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
