//! The queries of panels, from a few forms. All of them ask one aggregator's view where there are several.

use crate::promql;

/// The window of a rate, as Grafana chooses it: at least four scrapes, at least one pixel.
const WINDOW: &str = "$__rate_interval";

/// Outcomes that are our fault: the request was fine and got no answer.
pub const FAULTS: &str = r#"outcome=~"overloaded|deadline_exceeded|failed""#;

/// The series of a metric for the chosen models; `more` adds matchers.
pub fn of(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(r#"{name}{{model=~"$model"{comma}{more}}}"#)
}

/// The series of a metric of single processes, for the chosen ones.
pub fn at(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(r#"{name}{{instance=~"$instance"{comma}{more}}}"#)
}

fn sum(by: &[&str], query: &str) -> String {
    if by.is_empty() { format!("sum({query})") } else { format!("sum by ({}) ({query})", by.join(", ")) }
}

/// How fast a fleet's counter grows.
pub fn per_second(by: &[&str], series: &str) -> String {
    sum(by, &promql::rate(series, WINDOW))
}

/// How much a fleet's counter grew in a fixed time.
pub fn grown(by: &[&str], series: &str, window: &str) -> String {
    sum(by, &promql::increase(series, window))
}

/// A fleet's gauge.
pub fn now(by: &[&str], series: &str) -> String {
    sum(by, &promql::gauge(series))
}

/// How fast a counter of single processes grows.
pub fn each_per_second(by: &[&str], series: &str) -> String {
    sum(by, &format!("rate({series}[{WINDOW}])"))
}

/// How fast a counter grows that every aggregator has for itself: what it did, not what it was told.
pub fn aggregators_per_second(by: &[&str], series: &str) -> String {
    each_per_second(by, series)
}

/// A quantile of a fleet's histogram. Two versions with different buckets give a line each.
pub fn quantile(q: f64, name: &str, matchers: &str, by: &[&str]) -> String {
    let labels: Vec<_> = by.iter().copied().chain(["schema"]).collect();
    promql::quantile(q, name, matchers, WINDOW, &labels)
}

/// A quantile of a histogram of single processes.
pub fn each_quantile(q: f64, name: &str, matchers: &str, by: &[&str]) -> String {
    let by: Vec<_> = ["le"].iter().chain(by).copied().collect();
    format!("histogram_quantile({q}, {})", each_per_second(&by, &format!("{name}_bucket{matchers}")))
}

/// The mean of a fleet's histogram.
pub fn mean(name: &str, matchers: &str, by: &[&str]) -> String {
    promql::mean(name, matchers, WINDOW, by)
}

/// The buckets of a fleet's histogram, for a heatmap.
pub fn buckets(name: &str, matchers: &str) -> String {
    per_second(&["le"], &format!("{name}_bucket{matchers}"))
}

/// A share; nothing where the whole is nothing.
pub fn ratio(part: &str, whole: &str) -> String {
    format!("{part} / ({whole} > 0)")
}

/// A query whose series may not exist yet: 0 until they do.
pub fn or_zero(query: &str) -> String {
    format!("({query} or vector(0))")
}

/// The chosen models, as the matchers of a histogram.
pub const CHOSEN: &str = r#"{model=~"$model"}"#;
