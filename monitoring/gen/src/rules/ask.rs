//! Parts of queries, broken into lines as they are read.

use crate::promql;

/// `sum by (…)` of rates of a fleet's counter. `series` may have matchers.
pub fn sum_rate(by: &str, series: &str, window: &str) -> String {
    sum(by, &promql::rate(series, window))
}

pub fn sum_increase(by: &str, series: &str, window: &str) -> String {
    sum(by, &promql::increase(series, window))
}

pub fn sum_gauge(by: &str, series: &str) -> String {
    sum(by, &promql::gauge(series))
}

fn sum(by: &str, of: &str) -> String {
    if by.is_empty() { format!("sum(\n  {of}\n)") } else { format!("sum by ({by}) (\n  {of}\n)") }
}

/// A quantile over the series with equal `by`; see [`promql::quantile`].
pub fn quantile(q: f64, by: &str, name: &str, matchers: &str, window: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("le, {by}") };
    let buckets = promql::rate(&format!("{name}_bucket{matchers}"), window);
    format!("histogram_quantile({q},\n  sum by ({by}) (\n    {buckets}\n  )\n)")
}

/// A share that is there only where there is something to share.
pub fn ratio(part: &str, whole: &str) -> String {
    format!("{part}\n/\n({whole} > 0)")
}

/// The same text, moved to the right.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
