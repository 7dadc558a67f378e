//! Recording rules from the table of aliases.
//!
//! Raw cumulative values are recorded, not rates: `rate()` over a recorded series works as over a scraped one, because
//! a fleet counter never falls. Several aggregators tell the same, so the larger value of each series is taken before
//! anything is added up.
//!
//! `le` is written as Python's client prints it. Prometheus 2 keeps a bound as our pages print it (`1`), Prometheus 3
//! stores it as `1.0`; the rule turns the first into the second and leaves the second alone.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::bail;
use forebay_shared::metrics::Kind;
use forebay_shared::metrics::compat::{self, Alias, Mapped, Part, STACKS};
use forebay_shared::metrics::schema::fleet_name;

use crate::output::Page;
use crate::promql;

/// The job of every series that is recorded under another stack's name.
const JOB: &str = "forebay-compat";

const HEAD: &str = "\
# Written by monitoring/gen from the table in shared/src/metrics/compat. Do not edit.
";

pub fn pages() -> anyhow::Result<Vec<Page>> {
    (1..=STACKS).map(page).collect()
}

fn page(number: u8) -> anyhow::Result<Page> {
    let mut text = HEAD.to_owned();
    let _infallible = writeln!(text, "groups:\n  - name: forebay-compat-{number}\n    rules:");
    for alias in compat::stack(number) {
        for rule in alias.parts.iter().map(|part| rules(&alias, part)).collect::<anyhow::Result<Vec<_>>>()?.concat() {
            let _infallible = rule.write(&mut text);
        }
    }
    Ok(Page::new(format!("prometheus/rules/compat-{number}.yml"), text))
}

#[derive(Debug, Clone)]
struct Rule {
    record: String,
    expr: String,
    fixed: Vec<(&'static str, &'static str)>,
}

impl Rule {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "      - record: {}\n        expr: '{}'", self.record, self.expr)?;
        let fixed: String = self.fixed.iter().map(|(label, value)| format!(", {label}: {value}")).collect();
        writeln!(out, "        labels: {{job: {JOB}{fixed}}}")
    }
}

/// One rule, or three for a histogram.
fn rules(alias: &Alias, part: &Part) -> anyhow::Result<Vec<Rule>> {
    let suffixes: &[&str] = if alias.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
    let fixed: Vec<_> = part
        .labels
        .iter()
        .filter_map(|mapped| match mapped {
            Mapped::Fixed { theirs, value } => Some((*theirs, *value)),
            Mapped::From { .. } => None,
        })
        .collect();
    let rule = |suffix: &&str| {
        let (record, expr) = (format!("{}{suffix}", alias.name), expr(alias, part, suffix)?);
        Ok(Rule { record, expr, fixed: fixed.clone() })
    };
    suffixes.iter().map(rule).collect()
}

fn expr(alias: &Alias, part: &Part, suffix: &str) -> anyhow::Result<String> {
    if part.source().is_none() {
        // Nothing counts it yet, so there is nothing of it.
        return if alias.zero_if_absent { Ok("vector(0)".to_owned()) } else { bail!("no table has {}", part.stem) };
    }
    let mut inner = promql::gauge(&format!("{}{suffix}{}", fleet_name(part.stem), matchers(part)));
    promql::check(&inner, &BTreeSet::new())?;
    let mut by = Vec::new();
    for mapped in &part.labels {
        let Mapped::From { theirs, ours } = mapped else { continue };
        by.push(*theirs);
        if theirs != ours {
            inner = format!(r#"label_replace({inner}, "{theirs}", "$1", "{ours}", "(.*)")"#);
        }
    }
    if suffix == "_bucket" {
        by.push("le");
        inner = format!(r#"label_replace({inner}, "le", "$1.0", "le", "([0-9]+)")"#);
    }
    if alias.kind == Kind::Histogram {
        // Only there while two versions run with different buckets.
        by.push("schema");
    }
    let by = if by.is_empty() { String::new() } else { format!(" by ({}) ", by.join(", ")) };
    let mut expr = format!("{}{by}({inner})", alias.fold.as_str());
    if alias.scale != 1.0 {
        expr = format!("{} * {expr}", alias.scale);
    }
    if alias.zero_if_absent {
        expr = format!("{expr} or vector(0)");
    }
    Ok(expr)
}

/// `{a="x",b!~"y|z"}`, or nothing.
fn matchers(part: &Part) -> String {
    let one = |matcher: &compat::Matcher| {
        let operator = match (matcher.one_of, matcher.values.len()) {
            (true, 1) => "=",
            (false, 1) => "!=",
            (true, _) => "=~",
            (false, _) => "!~",
        };
        format!(r#"{}{operator}"{}""#, matcher.label, matcher.values.join("|"))
    };
    let all: Vec<_> = part.matchers.iter().map(one).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: u8) -> String {
        page(number).unwrap().text
    }

    #[test]
    fn every_series_has_the_job_of_its_own() {
        for number in 1..=STACKS {
            let text = text(number);
            let records = text.matches("- record: ").count();
            assert_eq!(text.matches("labels: {job: forebay-compat").count(), records, "{text}");
        }
    }

    #[test]
    fn a_histogram_is_recorded_whole_with_bounds_as_python_prints_them() {
        let text = text(1);
        for suffix in ["bucket", "sum", "count"] {
            assert!(text.contains(&format!("- record: batcher_batch_size_{suffix}\n")), "{text}");
        }
        let bucket = r#"sum by (le, schema) (label_replace(max without (instance, job) (forebay_batch_size_bucket), "le", "$1.0", "le", "([0-9]+)"))"#;
        assert!(text.contains(bucket), "{text}");
    }

    #[test]
    fn labels_get_the_names_of_the_other_stack() {
        let text = text(5);
        let renamed = r#"label_replace(label_replace(max without (instance, job) (forebay_http_requests_total), "endpoint", "$1", "route", "(.*)"), "http_status", "$1", "status", "(.*)")"#;
        assert!(text.contains(&format!("sum by (method, endpoint, http_status) ({renamed})")), "{text}");
    }

    #[test]
    fn one_name_may_be_made_of_two_parts_with_a_fixed_label_each() {
        let text = text(1);
        assert_eq!(text.matches("- record: batcher_requests_total\n").count(), 2);
        assert!(
            text.contains(r#"forebay_requests_total{outcome!="ok"})"#) && text.contains("status: error}"),
            "{text}"
        );
    }

    #[test]
    fn units_are_converted_and_what_is_not_counted_yet_is_nothing() {
        let text = text(2);
        assert!(text.contains("'100 * max(max without (instance, job) (forebay_host_cpu_ratio))'"), "{text}");
        assert!(text.contains("- record: gpu_memory_used_bytes\n        expr: '"), "{text}");
    }
}
