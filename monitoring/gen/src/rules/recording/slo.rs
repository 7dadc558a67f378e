//! Burn rates: how many times faster than promised the budget of errors is used up, over several windows.

use anyhow::bail;
use forebay_shared::metrics::ApiMetrics;

use crate::promql;
use crate::rules::ask::{indented, ratio, sum_rate};
use crate::rules::model::{Group, Rule, group, record};
use crate::values::Values;

/// The last two are long, and are computed once a minute.
const WINDOWS: [&str; 5] = ["5m", "30m", "1h", "6h", "3d"];

const VALID: &str = r#"outcome=~"ok|failed|overloaded|deadline_exceeded""#;
const BAD: &str = r#"outcome=~"failed|overloaded|deadline_exceeded""#;

pub fn short(values: &Values) -> anyhow::Result<Group> {
    Ok(group("forebay-slo", rules(values, &WINDOWS[..3])?))
}

pub fn long(values: &Values) -> anyhow::Result<Group> {
    Ok(Group { interval: Some("1m"), ..group("forebay-slo-long", rules(values, &WINDOWS[3..])?) })
}

fn rules(values: &Values, windows: &[&str]) -> anyhow::Result<Vec<Rule>> {
    let slo = &values.slo;
    let bound = bound(slo.latency_seconds)?;
    let mut rules = Vec::new();
    for window in windows {
        let requests = |matchers: &str| sum_rate("model", &format!("forebay_requests_total{{{matchers}}}"), window);
        rules.push(record(format!("forebay:model:slo_availability_bad:rate{window}"), requests(BAD)));
        rules.push(burn("availability", slo.availability, &requests(VALID), window)?);
        let all = sum_rate("model", "forebay_request_duration_seconds_count", window);
        let fast = promql::rate(&format!(r#"forebay_request_duration_seconds_bucket{{le=~"{bound}"}}"#), window);
        // Aggregators read reports at different moments, so the difference may be a little below zero.
        let slow = format!("clamp_min(\n  {}\n  - sum by (model) (\n    {fast}\n  ), 0\n)", all.replace('\n', "\n  "));
        rules.push(record(format!("forebay:model:slo_latency_bad:rate{window}"), slow));
        rules.push(burn("latency", slo.latency, &all, window)?);
    }
    Ok(rules)
}

fn burn(of: &str, objective: f64, valid: &str, window: &str) -> anyhow::Result<Rule> {
    if !(0.0..1.0).contains(&objective) {
        bail!("slo.{of} is a share below 1, not {objective}");
    }
    // As it is read: 0.001 and not 0.0010000000000000009.
    let budget = ((1.0 - objective) * 1e9).round() / 1e9;
    let share = ratio(&format!("forebay:model:slo_{of}_bad:rate{window}"), valid);
    Ok(record(format!("forebay:model:slo_{of}:burn_rate{window}"), format!("(\n{}\n) / {budget}", indented(&share))))
}

/// A bucket's bound as Prometheus 2 (`1`) and 3 (`1.0`) keep it.
fn bound(seconds: f64) -> anyhow::Result<String> {
    let Some(duration) = ApiMetrics::TABLE.iter().find(|metric| metric.stem == "request_duration_seconds") else {
        bail!("no table has request_duration_seconds");
    };
    if !duration.buckets.contains(&seconds) {
        bail!("slo.latency_seconds is {seconds}, which is no bound of a bucket: {:?}", duration.buckets);
    }
    Ok(if seconds.fract() == 0.0 { format!("{seconds}(\\\\.0)?") } else { format!("{seconds}") })
}
