//! What is marked in every graph: processes that started, and versions of models that appeared.

use serde_json::{Value, json};

use super::json::prometheus;
use super::model::{Dashboard, Variable};

/// The moment at which a process started is the value itself, so that a range of days shows it exactly.
pub const STARTS: &str =
    r#"process_start_time_seconds{job=~"forebay|forebay-aggregator"} * 1000 > ${__from} < ${__to}"#;

/// There now and not a minute ago.
pub const MODELS: &str = "max without (instance, job) (forebay_model_info) \
     unless max without (instance, job) (forebay_model_info offset 1m)";

pub fn list(dashboard: &Dashboard) -> Vec<Value> {
    let mut list = vec![json!({
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": true,
        "hide": true,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    })];
    // What reads logs has no data source for these.
    if dashboard.variables.contains(&Variable::Logs) {
        return list;
    }
    list.push(json!({
        "datasource": prometheus(),
        "enable": true,
        "expr": STARTS,
        "hide": false,
        "iconColor": "orange",
        "name": "Restarts",
        "tagKeys": "role,instance",
        "textFormat": "",
        "titleFormat": "{{process}} started",
        "useValueForTime": "on",
    }));
    list.push(json!({
        "datasource": prometheus(),
        "enable": true,
        "expr": MODELS,
        "hide": false,
        "iconColor": "blue",
        "name": "Model loads",
        "tagKeys": "model,version",
        "textFormat": "{{architecture}}, {{dtype}}, on {{device}}",
        "titleFormat": "{{model}} {{version}} loaded",
    }));
    list
}
