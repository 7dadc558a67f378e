//! The fleet's part of `/metrics`, in the Prometheus text format 0.0.4.

use std::fmt::{self, Write};

use forebay_shared::metrics::Kind;
use forebay_shared::metrics::Merge;
use forebay_shared::metrics::schema::fleet_name;

use crate::merge::{PlannedFamily, PlannedSeries, Totals, escape};

/// Appends the fleet's page to `out`; returns how many per-process series were cut at `process_cap` per family.
pub fn render(totals: &Totals, process_cap: usize, out: &mut String) -> usize {
    let mut cut = 0;
    for family in totals.families() {
        cut += family_text(totals, family, process_cap, out).unwrap_or(0);
    }
    cut
}

fn family_text(totals: &Totals, family: &PlannedFamily, cap: usize, out: &mut String) -> Result<usize, fmt::Error> {
    let name = fleet_name(&family.stem);
    let head = out.len();
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", family.kind.as_str())?;
    let body = out.len();
    let mut cut = 0;
    let mut written = 0;
    for series in &family.series {
        match (family.kind, family.merge) {
            (Kind::Histogram, _) => histogram(totals, &name, series, out)?,
            (Kind::Counter, _) => sample(out, &name, &series.label_text, totals.cumulative(series.offset))?,
            (Kind::Gauge, Merge::PerProcess) => {
                for (process, value) in totals.per_process(series.offset) {
                    if written == cap {
                        cut += 1;
                        continue;
                    }
                    written += 1;
                    let comma = if series.label_text.is_empty() { "" } else { "," };
                    let labels = format!("{}{comma}process=\"{}\"", series.label_text, escape(process.as_str()));
                    sample(out, &name, &labels, value)?;
                }
            }
            (Kind::Gauge, merge) => {
                if let Some(value) = totals.gauge(series.offset, merge) {
                    sample(out, &name, &series.label_text, value)?;
                }
            }
        }
    }
    if out.len() == body {
        out.truncate(head); // No series, no head.
    }
    Ok(cut)
}

fn sample(out: &mut String, name: &str, labels: &str, value: f64) -> fmt::Result {
    if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") }
}

fn histogram(totals: &Totals, name: &str, series: &PlannedSeries, out: &mut String) -> fmt::Result {
    let labels = &series.label_text;
    let comma = if labels.is_empty() { "" } else { "," };
    let buckets = series.bounds.len();
    for (bound, offset) in series.bounds.iter().zip(series.offset..) {
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {}", totals.cumulative(offset))?;
    }
    let (sum, count) = (totals.cumulative(series.offset + buckets), totals.cumulative(series.offset + buckets + 1));
    writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {count}")
}
