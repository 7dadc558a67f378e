//! Queries as text, checked against the tables of metrics.
//!
//! A query is written as PromQL. [`check`] finds every `forebay_…` name in it and asks the tables: is there such a metric,
//! in that form (`_bucket`, `_sum`, `_count` only of histograms), with these labels, and may the labels have these values?
//! Names recorded by rules (`forebay:…`) must be in the list that is passed. Prometheus itself checks the grammar.

mod tables;

use std::collections::BTreeSet;

use anyhow::bail;

use self::tables::Series;

/// Labels that scraping, service discovery and our rules add.
const TARGET_LABELS: [&str; 9] =
    ["instance", "job", "role", "process", "le", "schema", "stack", "severity", "alertname"];

/// The rate of a fleet's counter. Several aggregators tell the same, so one of them is enough.
pub fn rate(series: &str, window: &str) -> String {
    format!("max without (instance, job) (rate({series}[{window}]))")
}

/// How much a fleet's counter grew.
pub fn increase(series: &str, window: &str) -> String {
    format!("max without (instance, job) (increase({series}[{window}]))")
}

/// A fleet's gauge.
pub fn gauge(series: &str) -> String {
    format!("max without (instance, job) ({series})")
}

/// A quantile of a fleet's histogram, over the series with equal `labels`. `stem_and_matchers` is the name without
/// `_bucket`, for example `forebay_batch_size` and `{model="m"}`.
pub fn quantile(q: f64, name: &str, matchers: &str, window: &str, labels: &[&str]) -> String {
    let by = std::iter::once("le").chain(labels.iter().copied()).collect::<Vec<_>>().join(", ");
    format!("histogram_quantile({q}, sum by ({by}) ({}))", rate(&format!("{name}_bucket{matchers}"), window))
}

/// The mean of a fleet's histogram, over the series with equal `labels`.
pub fn mean(name: &str, matchers: &str, window: &str, labels: &[&str]) -> String {
    let by = labels.join(", ");
    let part = |suffix: &str| format!("sum by ({by}) ({})", rate(&format!("{name}_{suffix}{matchers}"), window));
    format!("{} / {}", part("sum"), part("count"))
}

/// Fails where a query names what the tables, or `recorded`, do not have.
///
/// # Errors
/// The text says what is unknown and where.
pub fn check(query: &str, recorded: &BTreeSet<String>) -> anyhow::Result<()> {
    let mut known: BTreeSet<&str> = TARGET_LABELS.into();
    let mut is_ours = true;
    for selector in selectors(query) {
        if selector.name.starts_with("forebay:") {
            if !recorded.contains(selector.name) {
                bail!("no rule records `{}`, in: {query}", selector.name);
            }
            is_ours = false;
            continue;
        }
        if !selector.name.starts_with("forebay_") {
            is_ours = false;
            continue;
        }
        let Some(series) = Series::find(selector.name) else {
            bail!("no table has `{}` (histograms end in _bucket, _sum or _count), in: {query}", selector.name);
        };
        known.extend(series.labels());
        for (label, values) in selector.matchers {
            if TARGET_LABELS.contains(&label) {
                continue;
            }
            if !series.has_label(label) {
                bail!("`{}` has no label `{label}`, in: {query}", selector.name);
            }
            for value in values {
                if !series.may_be(label, value) {
                    bail!("`{label}` of `{}` is never `{value}`, in: {query}", selector.name);
                }
            }
        }
    }
    // Where another's series or a recorded one takes part, its labels are not known here.
    for label in grouping_labels(query) {
        if is_ours && !known.contains(label) {
            bail!("nothing in this query has the label `{label}`: {query}");
        }
    }
    Ok(())
}

/// A metric's name in a query and the literal values that its labels are compared with.
#[derive(Debug, PartialEq)]
struct Selector<'a> {
    name: &'a str,
    matchers: Vec<(&'a str, Vec<&'a str>)>,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Every word outside of quotes and braces that is no keyword, with the braces behind it.
fn selectors(query: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| is_name(c) || c == '"' || c == '{' || c == '[') {
        rest = &rest[start..];
        if rest.starts_with(['"', '{', '[']) {
            rest = after_group(rest);
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        rest = tail;
        if name.starts_with(|c: char| c.is_ascii_digit()) || is_grouping(name) {
            continue;
        }
        let mut matchers = Vec::new();
        if tail.starts_with('{') {
            rest = after_group(tail);
            matchers = parse_matchers(&tail[1..tail.len() - rest.len() - 1]);
        } else if is_call(tail) {
            continue;
        }
        if !["and", "or", "unless", "on", "offset", "bool"].contains(&name) {
            found.push(Selector { name, matchers });
        }
    }
    // The words in the parentheses of by, without, on, … are labels.
    let labels: BTreeSet<&str> = grouping_labels(query).into_iter().collect();
    found.retain(|selector| !labels.contains(selector.name));
    found
}

/// What follows a quoted text, a pair of braces or a range.
fn after_group(text: &str) -> &str {
    let mut quoted = text.starts_with('"');
    let close = match text.chars().next() {
        Some('{') => '}',
        Some('[') => ']',
        _ => '"',
    };
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == close && (close == '"' || !quoted) {
            return &text[at + 1..];
        } else if c == '"' {
            quoted = !quoted;
        }
    }
    ""
}

/// `a="x",b=~"y|z"` → a: x; b: y, z. Values that are patterns or variables are left out.
fn parse_matchers(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        let label = rest[..quote].trim_start_matches([',', ' ', '\n']).trim_end_matches(['=', '~', '!', ' ']);
        let tail = after_group(&rest[quote..]);
        let value = &rest[quote + 1..rest.len() - tail.len() - 1];
        let literal =
            |value: &&str| value.chars().all(|c| c.is_ascii_alphanumeric() || "_-/".contains(c)) && !value.is_empty();
        found.push((label, value.split('|').filter(literal).collect()));
        rest = tail;
    }
    found
}

/// Whether a word before this is a function or an aggregation: `(` follows, or `by (…)`.
fn is_call(tail: &str) -> bool {
    let tail = tail.trim_start();
    let word = &tail[..tail.find(|c| !is_name(c)).unwrap_or(tail.len())];
    tail.starts_with('(') || ["by", "without"].contains(&word)
}

fn is_grouping(word: &str) -> bool {
    ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&word)
}

/// The labels in the parentheses of by, without, on, ignoring, group_left and group_right.
fn grouping_labels(query: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut word_start = None;
    for (at, c) in query.char_indices() {
        match (word_start, is_name(c)) {
            (None, true) => word_start = Some(at),
            (Some(start), false) => {
                word_start = None;
                let tail = query[at..].trim_start();
                if is_grouping(&query[start..at])
                    && let Some(inner) = tail.strip_prefix('(')
                    && let Some(end) = inner.find(')')
                {
                    found.extend(inner[..end].split(',').map(str::trim).filter(|label| !label.is_empty()));
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
