//! The reference page `docs/reference/metrics.md`, written from the tables.

use std::fmt::Write;

use super::schema::{Descriptor, Kind};
use super::{AggregatorMetrics, ApiMetrics, WorkerMetrics};
use crate::ids::Role;

const HEAD: &str = "\
# Metrics

<!-- Generated from shared/src/metrics/tables. FOREBAY_BLESS=1 cargo test -p forebay-shared reference rewrites it. -->

Every process serves `/metrics` with its own numbers; the aggregator serves the fleet's. A name exists in one place
only, so nothing is counted twice. The standard `process_*` metrics stand on every page.

The fleet's counters and histograms are sums over every process that ever ran and never go down. What a process
counted between its last report (one a second) and a SIGKILL is lost. Where two versions run with different buckets, the
histogram of the other version carries the additional label `schema`.

";

/// The whole page.
pub fn reference_markdown() -> String {
    let mut page = HEAD.to_owned();
    section(&mut page, "Reported by the api", Role::Api, ApiMetrics::TABLE);
    section(&mut page, "Reported by the worker", Role::Worker, WorkerMetrics::TABLE);
    section(&mut page, "Computed by the aggregator", Role::Aggregator, AggregatorMetrics::TABLE);
    page
}

fn section(page: &mut String, title: &str, role: Role, table: &[Descriptor]) {
    let _infallible = writeln!(page, "## {title}\n");
    for metric in table {
        let _infallible = entry(page, role, metric);
    }
}

fn entry(page: &mut String, role: Role, metric: &Descriptor) -> std::fmt::Result {
    writeln!(page, "### `{}`\n\n{}\n", metric.fleet_name(), metric.help())?;
    if role != Role::Aggregator {
        writeln!(page, "- one process: `{}`", metric.process_name(role))?;
    }
    writeln!(page, "- kind: {}, over the fleet: {}", metric.kind.as_str(), metric.merge.as_str())?;
    for label in metric.labels {
        writeln!(page, "- label `{}`: {}", label.name, (label.domain)())?;
    }
    if metric.kind == Kind::Histogram {
        let bounds: Vec<String> = metric.buckets.iter().map(f64::to_string).collect();
        writeln!(page, "- buckets: {}", bounds.join(", "))?;
    }
    writeln!(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_what_the_tables_say() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
        let page = reference_markdown();
        if std::env::var_os("FOREBAY_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page, "{} is stale: run with FOREBAY_BLESS=1", path.display());
    }
}
