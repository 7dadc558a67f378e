//! The fleet under the names of another stack: `/metrics?names=1` … `5`.
//!
//! The same table ([`forebay_shared::metrics::compat`]) gives the recording rules, so a page and the rules agree. Bounds are
//! printed as Python's client does (`le="1.0"`). Where two versions run with different buckets, the additional label
//! `schema` stays, as on the fleet's own page: buckets with different bounds cannot be added up.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use forebay_shared::metrics::compat::{self, Alias, Fold, Mapped, Part, STACKS};
use forebay_shared::metrics::schema::fleet_name;
use forebay_shared::metrics::{Kind, Merge, Sample};

use crate::merge::{PlannedFamily, PlannedSeries, Totals, escape};

type Labels = Vec<(String, String)>;

/// Values of one series: one, or the cumulative buckets, the sum and the count of a histogram with these bounds.
struct Cells<'a> {
    bounds: &'a [f64],
    values: Vec<f64>,
}

/// The page of stack `number`; `None` if there is no such stack. `own` is what the aggregator computes itself.
pub fn render(number: u8, totals: &Totals, own: &[Sample]) -> Option<String> {
    static ALL: LazyLock<Vec<Vec<Alias>>> = LazyLock::new(|| (1..=STACKS).map(compat::stack).collect());
    let stack = ALL.get(usize::from(number).checked_sub(1)?)?;
    let mut page = String::with_capacity(16 * 1024);
    for alias in stack {
        let _infallible = write_alias(alias, &series_of(alias, totals, own), &mut page);
    }
    Some(page)
}

/// Theirs, made of ours.
fn series_of<'a>(alias: &Alias, totals: &'a Totals, own: &[Sample]) -> BTreeMap<Labels, Cells<'a>> {
    let mut found: BTreeMap<Labels, Cells<'a>> = BTreeMap::new();
    let mut add = |part: &Part, labels: &[(String, String)], bounds: &'a [f64], values: &[f64]| {
        let Some(labels) = mapped(part, labels) else { return };
        let cells = found.entry(labels).or_insert_with(|| Cells { bounds, values: Vec::new() });
        if cells.values.is_empty() {
            cells.values.extend(values.iter().map(|value| value * alias.scale));
            return;
        }
        for (sum, value) in cells.values.iter_mut().zip(values) {
            match alias.fold {
                Fold::Sum => *sum += value * alias.scale,
                Fold::Max => *sum = sum.max(value * alias.scale),
            }
        }
    };
    for part in &alias.parts {
        for family in totals.families().iter().filter(|family| family.stem == part.stem) {
            for series in &family.series {
                for values in values_of(totals, family, series) {
                    add(part, &series.labels, &series.bounds, &values);
                }
            }
        }
        let name = fleet_name(part.stem);
        for sample in own.iter().filter(|sample| sample.name == name) {
            add(part, &sample.labels, &[], &[sample.value]);
        }
    }
    if found.is_empty() && alias.zero_if_absent {
        found.insert(Labels::new(), Cells { bounds: &[], values: vec![0.0] });
    }
    found
}

/// The labels of their series, in the order of the table; `None` if ours does not belong to the part.
fn mapped(part: &Part, ours: &[(String, String)]) -> Option<Labels> {
    let value = |label: &str| ours.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value.as_str());
    if !part.matchers.iter().all(|matcher| matcher.accepts(value(matcher.label))) {
        return None;
    }
    let one = |mapped: &Mapped| match mapped {
        Mapped::From { theirs, ours } => ((*theirs).to_owned(), value(ours).to_owned()),
        Mapped::Fixed { theirs, value } => ((*theirs).to_owned(), (*value).to_owned()),
    };
    let schema = ours.iter().find(|(name, _)| name == "schema").cloned();
    Some(part.labels.iter().map(one).chain(schema).collect())
}

/// What the fleet has for a series: nothing, one set of values, or one of every process.
fn values_of(totals: &Totals, family: &PlannedFamily, series: &PlannedSeries) -> Vec<Vec<f64>> {
    match (family.kind, family.merge) {
        (Kind::Counter, _) => vec![vec![totals.cumulative(series.offset)]],
        (Kind::Histogram, _) => {
            let cells = series.offset..series.offset + series.bounds.len() + 2;
            vec![cells.map(|offset| totals.cumulative(offset)).collect()]
        }
        (Kind::Gauge, Merge::PerProcess) => totals.per_process(series.offset).map(|(_, value)| vec![value]).collect(),
        (Kind::Gauge, merge) => totals.gauge(series.offset, merge).map(|value| vec![value]).into_iter().collect(),
    }
}

fn write_alias(alias: &Alias, series: &BTreeMap<Labels, Cells<'_>>, out: &mut String) -> fmt::Result {
    if series.is_empty() {
        return Ok(()); // No series, no head.
    }
    let name = alias.name;
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", alias.help, alias.kind.as_str())?;
    for (labels, cells) in series {
        match cells.values.as_slice() {
            [buckets @ .., sum, count] if alias.kind == Kind::Histogram => {
                let bounds = cells.bounds.iter().copied().chain([f64::INFINITY]);
                for (bound, value) in bounds.zip(buckets.iter().chain([count])) {
                    let le = ("le".to_owned(), compat::le(bound));
                    writeln!(out, "{name}_bucket{} {value}", braces(labels.iter().chain([&le])))?;
                }
                let labels = braces(labels.iter());
                writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}")?;
            }
            values => {
                for value in values {
                    writeln!(out, "{name}{} {value}", braces(labels.iter()))?;
                }
            }
        }
    }
    Ok(())
}

fn braces<'a>(labels: impl Iterator<Item = &'a (String, String)>) -> String {
    let pairs: Vec<_> = labels.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}
