//! Alert rules. None of them fires on a system that is new, idle and well, but the watchdog, which always does.

mod broker;
mod monitoring;
mod queue;
mod requests;
mod resources;
mod slo;
mod workers;

use super::model::{Alert, File, Rule, Severity, group};
use crate::values::{Values, Wait};

pub fn files(values: &Values) -> Vec<File> {
    let file = |name, about, group_name, alerts: Vec<Alert>| {
        let rules = alerts.into_iter().map(Rule::Alert).collect();
        File { name, about, groups: vec![group(group_name, rules)] }
    };
    vec![
        file("alerts-requests", "What clients feel.", "forebay-alerts-requests", requests::alerts(values)),
        file(
            "alerts-slo",
            "What is promised, and how fast its budget is used up.",
            "forebay-alerts-slo",
            slo::alerts(values),
        ),
        file("alerts-queue", "What waits, and for how long.", "forebay-alerts-queue", queue::alerts(values)),
        file(
            "alerts-workers",
            "Processes, models and what they answer.",
            "forebay-alerts-workers",
            workers::alerts(values),
        ),
        file("alerts-broker", "The broker, its store, and webhooks.", "forebay-alerts-broker", broker::alerts(values)),
        file(
            "alerts-resources",
            "Memory, processors and disks.",
            "forebay-alerts-resources",
            resources::alerts(values),
        ),
        file(
            "alerts-monitoring",
            "Whoever should tell of all this.",
            "forebay-alerts-monitoring",
            monitoring::alerts(values),
        ),
    ]
}

fn alert(name: &'static str, severity: Severity, expr: impl Into<String>, wait: &Wait, texts: [&str; 2]) -> Alert {
    let [summary, description] = texts.map(str::to_owned);
    Alert { name, severity, expr: expr.into(), wait: wait.clone(), by_email: false, summary, description }
}

fn critical(name: &'static str, expr: impl Into<String>, wait: &Wait, texts: [&str; 2]) -> Alert {
    alert(name, Severity::Critical, expr, wait, texts)
}

fn warning(name: &'static str, expr: impl Into<String>, wait: &Wait, texts: [&str; 2]) -> Alert {
    alert(name, Severity::Warning, expr, wait, texts)
}

fn info(name: &'static str, expr: impl Into<String>, wait: &Wait, texts: [&str; 2]) -> Alert {
    alert(name, Severity::Info, expr, wait, texts)
}
