//! Everything one process counts: renders its page and hands its series to the stats reporter.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{LabelPair, MetricType};
use prometheus::{Encoder, Opts, TextEncoder};

use super::instrument::Instrument;
use super::label::Models;
use super::schema::{Descriptor, Kind};
use crate::ids::{ModelName, Role, TenantName};

type ReadCells = dyn Fn(&mut Vec<f64>) + Send + Sync;

/// One series as the reporter sees it. `values` are the label values in the order of the descriptor's labels.
#[derive(Clone)]
pub struct SeriesCells {
    pub descriptor: &'static Descriptor,
    pub values: Vec<String>,
    read: Arc<ReadCells>,
}

impl SeriesCells {
    /// Appends the series' present values.
    pub fn read(&self, out: &mut Vec<f64>) {
        (self.read)(out);
    }
}

/// The series of one process.
pub struct Registry {
    role: Role,
    prometheus: prometheus::Registry,
    models: Models,
    /// Only ever grows; its length tells the reporter whether the layout is still the same.
    series: Mutex<Vec<SeriesCells>>,
}

impl Registry {
    pub(super) fn new(role: Role) -> Arc<Self> {
        let prometheus = prometheus::Registry::new();
        #[cfg(target_os = "linux")]
        prometheus
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the standard process metrics are registered once, on a new registry");
        Arc::new(Self { role, prometheus, models: Models::default(), series: Mutex::default() })
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub(super) fn models(&self) -> &Models {
        &self.models
    }

    pub(super) fn admit_model(&self, model: &ModelName) {
        self.models.insert(model);
    }

    pub(super) fn admit_tenant(&self, tenant: &TenantName) {
        self.models.insert_tenant(tenant);
    }

    /// Whether any tenant is configured.
    pub fn has_tenants(&self) -> bool {
        self.models.any_tenant()
    }

    pub(super) fn register<M: Instrument>(&self, descriptor: &'static Descriptor) -> M::Vec {
        let opts = Opts::new(descriptor.process_name(self.role), descriptor.help());
        let labels: Vec<&str> = descriptor.labels.iter().map(|label| label.name).collect();
        let family =
            M::family(opts, descriptor.buckets, &labels).expect("the table holds only names Prometheus allows");
        self.prometheus.register(Box::new(family.clone())).expect("a stem is declared once per table");
        family
    }

    pub(super) fn add_series<M: Instrument>(&self, descriptor: &'static Descriptor, values: Vec<String>, child: &M) {
        if self.role == Role::Aggregator {
            return; // An aggregator reports to nobody, and its series come and go with the fleet.
        }
        let child = child.clone();
        let read: Arc<ReadCells> = Arc::new(move |out| child.cells(out));
        self.lock().push(SeriesCells { descriptor, values, read });
    }

    /// Number of series so far.
    pub fn series_count(&self) -> usize {
        self.lock().len()
    }

    /// All series, in an order that depends only on what they are, so that processes of one kind share a layout.
    pub fn series(&self) -> Vec<SeriesCells> {
        let mut series = self.lock().clone();
        series.sort_by(|a, b| (a.descriptor.stem, &a.values).cmp(&(b.descriptor.stem, &b.values)));
        series
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SeriesCells>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series of every counter and gauge. Histograms are left out.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for family in self.prometheus.gather() {
            for metric in family.get_metric() {
                let value = match family.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    MetricType::GAUGE => metric.get_gauge().get_value(),
                    _ => continue,
                };
                let label = |pair: &LabelPair| (pair.name().to_owned(), pair.value().to_owned());
                let labels = metric.get_label().iter().map(label).collect();
                samples.push(Sample { name: family.name().to_owned(), labels, value });
            }
        }
        samples
    }

    /// The process' page in the text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut page = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.prometheus.gather(), &mut page) {
            tracing::error!(%error, "some metrics cannot be written as text");
        }
        String::from_utf8(page).unwrap_or_default()
    }
}

/// One series of a counter or a gauge, as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// As on the page of this process.
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

/// Content type of [`Registry::render`].
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
