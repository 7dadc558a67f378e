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
    pub error_ratio: Limit,
    pub queue_depth: Limit,
    pub queue_utilization: Limit,
    pub oldest_age: Limit,
    pub dead_letters: Limit,
    pub cache_hit_ratio: Limit,
    pub memory: Limit,
    pub cpu: Limit,
    pub disk_free: Limit,
    pub worker_silence: Limit,
    pub reports_age: Limit,
    pub broker_up: Limit,
}

impl Limits {
    pub fn new(_values: &Values) -> Self {
        Self {
            latency: Limit::warn_above(1.0),
            http_latency: Limit::warn_above(0.2),
            error_ratio: Limit::warn_above(0.05),
            queue_depth: Limit::above(100.0, 500.0),
            queue_utilization: Limit::warn_above(0.8),
            oldest_age: Limit::warn_above(30.0),
            dead_letters: Limit::warn_above(1.0),
            cache_hit_ratio: Limit::warn_below(0.2),
            memory: Limit::above(3500.0 * 1048576.0, 3900.0 * 1048576.0),
            cpu: Limit::warn_above(1.8),
            disk_free: Limit::below(0.15, 0.05),
            worker_silence: Limit::warn_above(3.0),
            reports_age: Limit::warn_above(10.0),
            broker_up: Limit::crit_below(1.0),
        }
    }
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
