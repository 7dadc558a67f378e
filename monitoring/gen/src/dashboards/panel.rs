//! One panel as JSON: its queries, its field options, its drawing options.

use serde_json::{Value, json};

use super::json::{loki, prometheus};
use super::limits::Limit;
use super::model::{Kind, Panel, Unit};

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::PerSecond => "cps",
            Self::RequestsPerSecond => "reqps",
            Self::Ratio => "percentunit",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "Bps",
            Self::Celsius => "celsius",
            Self::Watts => "watt",
            Self::Money | Self::Number => "none",
            Self::Text => "string",
        }
    }
}

impl Kind {
    fn id(&self) -> &'static str {
        match self {
            Self::Timeseries { .. } => "timeseries",
            Self::Stat => "stat",
            Self::Gauge => "gauge",
            Self::BarGauge => "bargauge",
            Self::Heatmap => "heatmap",
            Self::Table { .. } => "table",
            Self::Logs => "logs",
        }
    }

    /// Whether the panel shows what is true now, and nothing where nobody knows: the last value of a range would be
    /// that of an aggregator which is gone.
    fn is_instant(&self) -> bool {
        matches!(self, Self::Table { .. } | Self::BarGauge | Self::Stat | Self::Gauge)
    }
}

/// Everything but the panel's number and place.
pub fn value(panel: &Panel) -> Value {
    let mut value = json!({
        "datasource": if panel.from_logs { loki() } else { prometheus() },
        "description": panel.description,
        "fieldConfig": {"defaults": defaults(panel), "overrides": overrides(panel)},
        "options": options(panel),
        "targets": targets(panel),
        "title": panel.title,
        "type": panel.kind.id(),
    });
    if let Kind::Table { columns } = &panel.kind {
        value["transformations"] = transformations(columns);
    }
    if let Some(uid) = panel.more {
        value["links"] = json!([{
            "asDropdown": false,
            "icon": "",
            "includeVars": true,
            "keepTime": true,
            "tags": [],
            "targetBlank": false,
            "title": "More about this",
            "tooltip": "",
            "type": "link",
            "url": format!("/d/{uid}"),
        }]);
    }
    value
}

fn targets(panel: &Panel) -> Value {
    let names = ('A'..='Z').map(String::from);
    let targets = panel.targets.iter().zip(names).map(|(target, name)| {
        if panel.from_logs {
            return json!({
                "datasource": loki(),
                "editorMode": "code",
                "expr": target.expr,
                "legendFormat": target.legend,
                "queryType": "range",
                "refId": name,
            });
        }
        let format = match panel.kind {
            Kind::Table { .. } => "table",
            Kind::Heatmap => "heatmap",
            _ => "time_series",
        };
        json!({
            "datasource": prometheus(),
            "editorMode": "code",
            "expr": target.expr,
            "format": format,
            "instant": panel.kind.is_instant(),
            "legendFormat": target.legend,
            "range": !panel.kind.is_instant(),
            "refId": name,
        })
    });
    targets.collect()
}

fn defaults(panel: &Panel) -> Value {
    let mut value = json!({
        "color": {"mode": if colors_by_series(panel) { "palette-classic" } else { "thresholds" }},
        "custom": custom(panel),
        "mappings": mappings(panel),
        "noValue": "–",
        "thresholds": {"mode": "absolute", "steps": Limit::steps(panel.limit)},
        "unit": panel.unit.id(),
    });
    if !panel.signed && !matches!(panel.kind, Kind::Heatmap | Kind::Logs | Kind::Table { .. }) {
        value["min"] = json!(0);
    }
    if let Some(max) = panel.max {
        value["max"] = json!(max);
    }
    if let Some(decimals) = panel.decimals {
        value["decimals"] = json!(decimals);
    }
    value
}

fn colors_by_series(panel: &Panel) -> bool {
    matches!(panel.kind, Kind::Timeseries { .. })
}

fn mappings(panel: &Panel) -> Value {
    let options: serde_json::Map<String, Value> = panel
        .mappings
        .iter()
        .zip(0..)
        .map(|(one, index)| (one.value.to_owned(), json!({"color": one.color, "index": index, "text": one.text})))
        .collect();
    if options.is_empty() { json!([]) } else { json!([{"options": options, "type": "value"}]) }
}

fn custom(panel: &Panel) -> Value {
    match &panel.kind {
        Kind::Timeseries { stacked } => json!({
            "drawStyle": "line",
            "fillOpacity": if *stacked { 30 } else { 8 },
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": false,
            "stacking": {"group": "A", "mode": if *stacked { "normal" } else { "none" }},
            "thresholdsStyle": {"mode": if panel.limit.is_some() { "dashed" } else { "off" }},
        }),
        Kind::Table { .. } => {
            let cell = if panel.mappings.is_empty() { "auto" } else { "color-text" };
            json!({"align": "auto", "cellOptions": {"type": cell}, "inspect": false})
        }
        _ => json!({}),
    }
}

fn overrides(panel: &Panel) -> Value {
    let units = panel.units.iter().map(|(name, unit)| {
        json!({
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit.id()}],
        })
    });
    units.collect()
}

fn options(panel: &Panel) -> Value {
    let last = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
    match &panel.kind {
        Kind::Timeseries { .. } => json!({
            "legend": {
                "calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": true,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        Kind::Stat => json!({
            "colorMode": if panel.limit.is_some() || !panel.mappings.is_empty() { "value" } else { "none" },
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": last,
            "textMode": if panel.targets.len() > 1 { "value_and_name" } else { "value" },
        }),
        Kind::Gauge => json!({
            "orientation": "auto",
            "reduceOptions": last,
            "showThresholdLabels": false,
            "showThresholdMarkers": true,
        }),
        Kind::BarGauge => json!({
            "displayMode": "basic",
            "orientation": "horizontal",
            "reduceOptions": last,
            "showUnfilled": true,
            "valueMode": "color",
        }),
        Kind::Heatmap => json!({
            "calculate": false,
            "cellGap": 1,
            "cellValues": {"unit": "short"},
            "color": {
                "exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "reverse": false,
                "scale": "exponential", "scheme": "Oranges", "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": true},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": false},
            "yAxis": {"axisPlacement": "left", "reverse": false, "unit": panel.unit.id()},
        }),
        Kind::Table { .. } => json!({"cellHeight": "sm", "showHeader": true}),
        Kind::Logs => json!({
            "dedupStrategy": "none",
            "enableLogDetails": true,
            "prettifyLogMessage": false,
            "showCommonLabels": false,
            "showLabels": false,
            "showTime": true,
            "sortOrder": "Descending",
            "wrapLogMessage": true,
        }),
    }
}

/// One table of all queries: only the named columns, in their order, under their titles.
fn transformations(columns: &[(&str, &str)]) -> Value {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let order: serde_json::Map<String, Value> =
        names.iter().zip(0..).map(|(name, index)| ((*name).to_owned(), json!(index))).collect();
    let titles: serde_json::Map<String, Value> =
        columns.iter().map(|(name, title)| ((*name).to_owned(), json!(title))).collect();
    json!([
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
        {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": titles}},
    ])
}
