//! What can be chosen at the top of a dashboard.

use serde_json::{Value, json};

use super::json::{loki, prometheus};
use super::model::{Dashboard, Variable};
use crate::promql;

const MODELS: &str = "label_values(forebay_queue_capacity, model)";
const INSTANCES: &str = r#"label_values(up{job="forebay"}, instance)"#;
const TENANTS: &str = "label_values(forebay_tenant_requests_total, tenant)";

/// The queries behind the choices, for the check of names.
const QUERIES: [&str; 3] = [MODELS, INSTANCES, TENANTS];

pub fn list(dashboard: &Dashboard) -> Vec<Value> {
    let is_logs = dashboard.variables.contains(&Variable::Logs);
    let mut list = if is_logs { Vec::new() } else { vec![data_source("datasource", "Metrics", "prometheus")] };
    for variable in dashboard.variables {
        match variable {
            Variable::Model => list.push(values("model", "Model", "Models that are served.", MODELS)),
            Variable::Instance => {
                list.push(values("instance", "Instance", "Apis and workers, by their address.", INSTANCES));
            }
            Variable::Tenant => list.push(values("tenant", "Tenant", "Tenants that have API keys.", TENANTS)),
            Variable::Logs => list.extend(logs()),
        }
    }
    list
}

fn data_source(name: &str, label: &str, kind: &str) -> Value {
    json!({
        "hide": 0,
        "includeAll": false,
        "label": label,
        "multi": false,
        "name": name,
        "options": [],
        "query": kind,
        "refresh": 1,
        "regex": "",
        "skipUrlSync": false,
        "type": "datasource",
    })
}

fn values(name: &str, label: &str, description: &str, query: &str) -> Value {
    choice(name, label, description, &prometheus(), &json!({"query": query, "refId": "Variable"}))
}

/// Any number of values, all of them to begin with.
fn choice(name: &str, label: &str, description: &str, source: &Value, query: &Value) -> Value {
    json!({
        "allValue": ".*",
        "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
        "datasource": source,
        "description": description,
        "hide": 0,
        "includeAll": true,
        "label": label,
        "multi": true,
        "name": name,
        "options": [],
        "query": query,
        "refresh": 2,
        "regex": "",
        "skipUrlSync": false,
        "sort": 1,
        "type": "query",
    })
}

fn logs() -> Vec<Value> {
    let services = json!({"label": "service", "refId": "Variable", "stream": "", "type": 1});
    let mut service = choice("service", "Service", "api, worker, aggregator, nats, …", &loki(), &services);
    // Loki wants to be told of at least one label that is not empty.
    service["allValue"] = json!(".+");
    vec![
        data_source("loki", "Logs", "loki"),
        service,
        levels(),
        text_box("trace_id", "Trace id", "One trace: 32 hexadecimal digits. Empty: all lines."),
        text_box("text", "Text", "Only lines in which this stands, as a regular expression."),
    ]
}

fn levels() -> Value {
    let names = ["error", "warn", "info", "debug", "trace"];
    let options: Vec<Value> = std::iter::once(json!({"selected": true, "text": "All", "value": "$__all"}))
        .chain(names.map(|name| json!({"selected": false, "text": name, "value": name})))
        .collect();
    json!({
        "allValue": ".*",
        "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
        "description": "How important a line is.",
        "hide": 0,
        "includeAll": true,
        "label": "Level",
        "multi": true,
        "name": "level",
        "options": options,
        "query": names.join(","),
        "skipUrlSync": false,
        "type": "custom",
    })
}

fn text_box(name: &str, label: &str, description: &str) -> Value {
    json!({
        "current": {"selected": true, "text": "", "value": ""},
        "description": description,
        "hide": 0,
        "label": label,
        "name": name,
        "options": [{"selected": true, "text": "", "value": ""}],
        "query": "",
        "skipUrlSync": false,
        "type": "textbox",
    })
}

/// # Errors
/// A choice asks for a metric or a label that the tables do not have.
pub fn check() -> anyhow::Result<()> {
    QUERIES.iter().try_for_each(|query| promql::check(query, &std::collections::BTreeSet::new()))
}
