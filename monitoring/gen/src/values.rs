//! `values.yml`: every threshold and duration of the rules, in one place. The file says what each one is of.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    pub runbooks: String,
    pub requests: Requests,
    pub slo: Slo,
    pub queue: Queue,
    pub workers: Workers,
    pub broker: Broker,
    pub resources: Resources,
    pub monitoring: Monitoring,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    pub p95: AboveWithTraffic,
    pub p99: AboveWithTraffic,
    pub http_errors: AboveWithTraffic,
    pub model_errors: AboveWithTraffic,
    pub deadline_refusals: AboveWithTraffic,
    pub rate_limited: Above,
    pub quota_exceeded: Above,
    pub cache_hits: BelowWithTraffic,
    pub creep: Creep,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Creep {
    pub factor: f64,
    pub p95_above: f64,
    pub min_per_second: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    pub availability: f64,
    pub latency: f64,
    pub latency_seconds: f64,
    pub burn_1h: f64,
    pub burn_6h: f64,
    pub burn_3d: f64,
    pub min_bad_per_hour: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub lanes: Vec<String>,
    pub backlog: Above,
    pub critical: Above,
    pub growing: Above,
    pub utilization: Above,
    pub oldest: Above,
    pub oldest_low: Above,
    pub dead_letters: Above,
    pub redeliveries: Redeliveries,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redeliveries {
    pub factor: f64,
    pub above: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    pub down: For,
    pub silent: For,
    pub none: For,
    pub restarts: Above,
    pub load_errors: Above,
    pub inference_errors: AboveWithTraffic,
    pub output_anomalies: AboveWithTraffic,
    pub clock_offset: Above,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    pub down: For,
    pub store_filling: Above,
    pub store_full: Above,
    pub write_errors: Above,
    pub slow_consumers: Above,
    pub webhooks: AboveWithTraffic,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub pods: String,
    pub memory_metric: String,
    pub memory_mebibytes: Above,
    pub memory_critical_mebibytes: Above,
    pub cpu_millicores: Above,
    pub device_memory: Above,
    pub device_oom: Above,
    pub device_temperature: Above,
    pub disk_free: Below,
    pub disk_free_critical: Below,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitoring {
    pub aggregator_down: For,
    pub aggregator_stale: For,
    pub refused: Above,
    pub missing: For,
    pub exporter_down: For,
    pub unhealthy: For,
    pub notifications: Above,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct For {
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Above {
    pub above: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AboveWithTraffic {
    pub above: f64,
    pub min_per_second: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Below {
    pub below: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BelowWithTraffic {
    pub below: f64,
    pub min_per_second: f64,
    #[serde(rename = "for")]
    pub wait: Wait,
}

/// How long a condition must hold, as Prometheus writes it: `90s`, `5m`, `1h`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Wait(String);

impl Wait {
    pub fn none() -> Self {
        Self("0s".to_owned())
    }

    pub fn is_none(&self) -> bool {
        self.0.trim_end_matches(char::is_alphabetic) == "0"
    }
}

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() == text.len() || !["s", "m", "h", "d", "w"].contains(&unit) {
            return Err(format!("`{text}` is no duration: a number and s, m, h, d or w"));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Values {
    /// # Errors
    /// The file cannot be read, or something in it is missing, unknown or of the wrong type.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_whole_and_a_field_that_nobody_knows_is_an_error() {
        let path = Path::new("../values.yml");
        assert_eq!(Values::read(path).unwrap().queue.critical.above, 500.0);
        let text = std::fs::read_to_string(path).unwrap();
        let with_a_typo = text.replace("burn_1h:", "burn_1hour:");
        assert!(serde_saphyr::from_str::<Values>(&with_a_typo).is_err());
    }

    #[test]
    fn a_wait_needs_a_unit() {
        let wait = |text: &str| Wait::try_from(text.to_owned());
        assert!(wait("0s").unwrap().is_none() && !wait("10s").unwrap().is_none());
        assert!(["5", "m", "", "5 m", "1h30m"].map(wait).iter().all(Result::is_err));
    }
}
