//! Limits that are drawn into panels: the thresholds of the alerts, from the same file.

use serde_json::{Value, json};

use crate::values::Values;

/// The limits that panels draw.
#[derive(Debug)]
pub struct Limits {
    /// P95 of an inference request.
    pub latency: Limit,
    /// P99 of an HTTP request.
    pub http_latency: Limit,
    pub http_errors: Limit,
    pub model_errors: Limit,
    /// How much faster than allowed the budget of errors is used up.
    pub burn: Limit,
    /// Jobs that somebody waits for.
    pub backlog: Limit,
    pub queue_utilization: Limit,
    pub oldest_age: Limit,
    pub dead_letters: Limit,
    pub cache_hits: Limit,
    pub load_errors: Limit,
    pub clock_offset: Limit,
    pub store: Limit,
    pub memory: Limit,
    pub cpu: Limit,
    pub device_memory: Limit,
    pub temperature: Limit,
    pub disk_free: Limit,
    /// The lanes that somebody waits for, as a matcher.
    pub prompt_lanes: String,
    /// All other lanes.
    pub other_lanes: String,
}

impl Limits {
    pub fn new(values: &Values) -> Self {
        let (requests, queue, resources) = (&values.requests, &values.queue, &values.resources);
        let lanes = queue.lanes.join("|");
        let mebibytes = |count: f64| count * 1024.0 * 1024.0;
        Self {
            latency: Limit::warn_above(requests.p95.above),
            http_latency: Limit::warn_above(requests.p99.above),
            http_errors: Limit::warn_above(requests.http_errors.above),
            model_errors: Limit::warn_above(requests.model_errors.above),
            burn: Limit::above(values.slo.burn_3d, values.slo.burn_1h),
            backlog: Limit::above(queue.backlog.above, queue.critical.above),
            queue_utilization: Limit::warn_above(queue.utilization.above),
            oldest_age: Limit::warn_above(queue.oldest.above),
            dead_letters: Limit::warn_above(more_than(queue.dead_letters.above)),
            cache_hits: Limit::warn_below(requests.cache_hits.below),
            load_errors: Limit::warn_above(more_than(values.workers.load_errors.above)),
            clock_offset: Limit::warn_above(values.workers.clock_offset.above),
            store: Limit::above(values.broker.store_filling.above, values.broker.store_full.above),
            memory: Limit::above(
                mebibytes(resources.memory_mebibytes.above),
                mebibytes(resources.memory_critical_mebibytes.above),
            ),
            cpu: Limit::warn_above(resources.cpu_millicores.above / 1000.0),
            device_memory: Limit::warn_above(resources.device_memory.above),
            temperature: Limit::warn_above(resources.device_temperature.above),
            disk_free: Limit::below(resources.disk_free.below, resources.disk_free_critical.below),
            prompt_lanes: format!(r#"lane=~"{lanes}""#),
            other_lanes: format!(r#"lane!~"{lanes}""#),
        }
    }
}

/// The smallest count that is above a limit: Grafana colours from a value upwards.
fn more_than(count: f64) -> f64 {
    count.floor() + 1.0
}

/// Where a value begins to be bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// More is worse. Not every value has both limits.
    Above { warning: Option<f64>, critical: Option<f64> },
    /// Less is worse.
    Below { warning: Option<f64>, critical: Option<f64> },
}

const FINE: &str = "green";
const WARNING: &str = "orange";
const CRITICAL: &str = "red";

impl Limit {
    pub fn warn_above(value: f64) -> Self {
        Self::Above { warning: Some(value), critical: None }
    }

    pub fn crit_above(value: f64) -> Self {
        Self::Above { warning: None, critical: Some(value) }
    }

    pub fn above(warning: f64, critical: f64) -> Self {
        Self::Above { warning: Some(warning), critical: Some(critical) }
    }

    pub fn warn_below(value: f64) -> Self {
        Self::Below { warning: Some(value), critical: None }
    }

    pub fn crit_below(value: f64) -> Self {
        Self::Below { warning: None, critical: Some(value) }
    }

    pub fn below(warning: f64, critical: f64) -> Self {
        Self::Below { warning: Some(warning), critical: Some(critical) }
    }

    /// Grafana's steps: each colour from a value upwards, the first from minus infinity.
    pub fn steps(limit: Option<Self>) -> Value {
        let step = |color: &str, value: Option<f64>| json!({"color": color, "value": value});
        let colors: Vec<(&str, Option<f64>)> = match limit {
            None => vec![(FINE, None)],
            Some(Self::Above { warning, critical }) => {
                let bad = [(WARNING, warning), (CRITICAL, critical)];
                std::iter::once((FINE, None)).chain(bad.into_iter().filter(|(_, value)| value.is_some())).collect()
            }
            Some(Self::Below { warning, critical }) => {
                let lowest = if critical.is_some() { CRITICAL } else { WARNING };
                let after_critical = if warning.is_some() { WARNING } else { FINE };
                let up = [(after_critical, critical), (FINE, warning)];
                std::iter::once((lowest, None)).chain(up.into_iter().filter(|(_, value)| value.is_some())).collect()
            }
        };
        colors.into_iter().map(|(color, value)| step(color, value)).collect()
    }
}
