//! What a dashboard is made of, as values. `json` turns them into what Grafana reads, `grid` says where panels stand.

use super::limits::Limit;

/// The kinds of values that panels show. Grafana writes the unit at the number and at the axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things per second.
    PerSecond,
    RequestsPerSecond,
    /// 0 to 1, shown as a percentage.
    Ratio,
    Seconds,
    Bytes,
    BytesPerSecond,
    Celsius,
    Watts,
    /// Money, in the currency of the price that was configured; the symbol is not known here.
    Money,
    /// A plain number, for example of a loss.
    Number,
    /// Lines of a log.
    Text,
}

/// How a panel draws.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Timeseries {
        stacked: bool,
    },
    Stat,
    Gauge,
    BarGauge,
    Heatmap,
    /// The columns in their order, with their titles. Others are not shown.
    Table {
        columns: Vec<(&'static str, &'static str)>,
    },
    Logs,
}

/// One query of a panel.
#[derive(Debug, Clone)]
pub struct Target {
    pub expr: String,
    pub legend: String,
}

/// Text in the place of a number, with a colour.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub value: &'static str,
    pub text: &'static str,
    pub color: &'static str,
}

/// One panel. `width` is in 24ths of the page, `height` in Grafana's units of about 30 pixels.
#[derive(Debug, Clone)]
pub struct Panel {
    pub kind: Kind,
    pub title: &'static str,
    pub description: String,
    pub unit: Unit,
    pub width: u32,
    pub height: u32,
    pub targets: Vec<Target>,
    pub limit: Option<Limit>,
    pub max: Option<f64>,
    pub decimals: Option<u32>,
    pub mappings: Vec<Mapping>,
    /// Column or legend → unit, where it is not the panel's.
    pub units: Vec<(&'static str, Unit)>,
    /// The `uid` of a dashboard that shows more.
    pub more: Option<&'static str>,
    /// Whether the values of queries may be negative; all others' axes start at 0.
    pub signed: bool,
    /// Whether Loki answers the queries, not Prometheus.
    pub from_logs: bool,
}

impl Panel {
    fn new(kind: Kind, title: &'static str, description: &str, unit: Unit) -> Self {
        let (width, height) = match kind {
            Kind::Stat | Kind::Gauge => (4, 4),
            _ => (8, 8),
        };
        Self {
            title,
            description: description.to_owned(),
            unit,
            width,
            height,
            targets: Vec::new(),
            limit: None,
            max: None,
            decimals: None,
            mappings: Vec::new(),
            units: Vec::new(),
            more: None,
            signed: false,
            from_logs: matches!(kind, Kind::Logs),
            kind,
        }
    }

    pub fn timeseries(title: &'static str, description: &str, unit: Unit) -> Self {
        Self::new(Kind::Timeseries { stacked: false }, title, description, unit)
    }

    /// A time series whose values add up to something.
    pub fn stacked(title: &'static str, description: &str, unit: Unit) -> Self {
        Self::new(Kind::Timeseries { stacked: true }, title, description, unit)
    }

    pub fn stat(title: &'static str, description: &str, unit: Unit) -> Self {
        Self::new(Kind::Stat, title, description, unit)
    }

    /// A share, from 0 to 1.
    pub fn gauge(title: &'static str, description: &str) -> Self {
        Self { max: Some(1.0), ..Self::new(Kind::Gauge, title, description, Unit::Ratio) }
    }

    pub fn bar_gauge(title: &'static str, description: &str, unit: Unit) -> Self {
        Self::new(Kind::BarGauge, title, description, unit)
    }

    /// The buckets of a histogram over time; `unit` is that of the buckets' limits.
    pub fn heatmap(title: &'static str, description: &str, unit: Unit) -> Self {
        Self::new(Kind::Heatmap, title, description, unit)
    }

    pub fn table(title: &'static str, description: &str, unit: Unit, columns: &[(&'static str, &'static str)]) -> Self {
        Self::new(Kind::Table { columns: columns.to_vec() }, title, description, unit)
    }

    pub fn logs(title: &'static str, description: &str) -> Self {
        Self::new(Kind::Logs, title, description, Unit::Text)
    }

    /// Adds a query. `legend` may name labels: `{{model}}`.
    pub fn query(mut self, legend: &str, expr: impl Into<String>) -> Self {
        self.targets.push(Target { expr: expr.into(), legend: legend.to_owned() });
        self
    }

    pub fn size(self, width: u32, height: u32) -> Self {
        Self { width, height, ..self }
    }

    pub fn width(self, width: u32) -> Self {
        Self { width, ..self }
    }

    pub fn limit(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub fn max(self, max: f64) -> Self {
        Self { max: Some(max), ..self }
    }

    pub fn decimals(self, decimals: u32) -> Self {
        Self { decimals: Some(decimals), ..self }
    }

    /// Shows `text` in `color` for a value.
    pub fn map(mut self, value: &'static str, text: &'static str, color: &'static str) -> Self {
        self.mappings.push(Mapping { value, text, color });
        self
    }

    /// The unit of one column of a table, or of one legend.
    pub fn unit_of(mut self, name: &'static str, unit: Unit) -> Self {
        self.units.push((name, unit));
        self
    }

    pub fn more(self, uid: &'static str) -> Self {
        Self { more: Some(uid), ..self }
    }

    pub fn signed(self) -> Self {
        Self { signed: true, ..self }
    }
}

/// Panels under a heading, from left to right; what does not fit begins a new line.
#[derive(Debug, Clone)]
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

impl Row {
    pub fn new(title: &'static str, panels: Vec<Panel>) -> Self {
        Self { title, panels }
    }
}

/// What can be chosen at the top of a dashboard, beside the data source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variable {
    /// `$model`
    Model,
    /// `$instance`: an api or a worker, by its address.
    Instance,
    /// `$tenant`
    Tenant,
    /// `$loki`, the data source of logs, and `$service`, `$level`, `$trace_id`, `$text`.
    Logs,
}

/// One dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Stands in the address; never changes. Also the file's name.
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub tags: &'static [&'static str],
    pub variables: &'static [Variable],
    pub rows: Vec<Row>,
    /// How far back the dashboard looks when it is opened.
    pub from: &'static str,
}
