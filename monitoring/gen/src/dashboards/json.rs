//! A dashboard as Grafana reads it: one JSON for provisioning, for import and for a ConfigMap. The data source is a
//! variable, so that it names no data source of one installation.

use anyhow::Context;
use serde_json::{Value, json};

use super::grid::{self, Item, Placed};
use super::model::{Dashboard, Panel};
use super::{annotations, panel, variables};

/// The version of Grafana's format that this is; newer ones read it and convert it.
const SCHEMA_VERSION: u32 = 41;
/// The tag by which the dashboards find each other.
pub const TAG: &str = "forebay";

/// A data source of Prometheus, as chosen on the page.
pub fn prometheus() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A data source of Loki, as chosen on the page.
pub fn loki() -> Value {
    json!({"type": "loki", "uid": "${loki}"})
}

/// # Errors
/// The panels do not fill their lines.
pub fn text(dashboard: &Dashboard) -> anyhow::Result<String> {
    let panels: Vec<Value> = grid::place(dashboard)?.iter().zip(1..).map(|(placed, id)| item(placed, id)).collect();
    let tags: Vec<_> = std::iter::once(&TAG).chain(dashboard.tags).collect();
    let value = json!({
        "annotations": {"list": annotations::list(dashboard)},
        "description": dashboard.description,
        "editable": false,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [{
            "asDropdown": true,
            "icon": "external link",
            "includeVars": true,
            "keepTime": true,
            "tags": [TAG],
            "targetBlank": false,
            "title": "Dashboards",
            "tooltip": "The other dashboards of forebay, with the same choice and time",
            "type": "dashboards",
        }],
        "panels": panels,
        "refresh": "15s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": tags,
        "templating": {"list": variables::list(dashboard)},
        "time": {"from": dashboard.from, "to": "now"},
        "timepicker": {"refresh_intervals": ["15s", "30s", "1m", "5m", "15m", "1h"]},
        "timezone": "browser",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "weekStart": "",
    });
    let text = serde_json::to_string_pretty(&sorted(value)).context("a dashboard is not JSON")?;
    Ok(format!("{text}\n"))
}

fn item(placed: &Placed<'_>, id: u32) -> Value {
    let mut value = match placed.item {
        Item::Heading(row) => json!({"collapsed": false, "panels": [], "title": row.title, "type": "row"}),
        Item::Panel(one) => panel::value(one),
    };
    value["id"] = json!(id);
    value["gridPos"] = json!({"x": placed.x, "y": placed.y, "w": placed.width, "h": placed.height});
    value
}

/// Keys in alphabetical order, however the crate of JSON was built: the file must not depend on that.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// Every query that a dashboard sends, with what sends it.
pub fn queries(dashboard: &Dashboard) -> impl Iterator<Item = (&Panel, &str)> {
    let panels = dashboard.rows.iter().flat_map(|row| &row.panels);
    panels.flat_map(|panel| panel.targets.iter().map(move |target| (panel, target.expr.as_str())))
}
