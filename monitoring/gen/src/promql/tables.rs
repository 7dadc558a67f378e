//! Looks a series' name up in the tables of metrics.

use forebay_shared::ids::Role;
use forebay_shared::metrics::{AggregatorMetrics, ApiMetrics, Descriptor, Kind, WorkerMetrics};

/// The declarations that a series' name may belong to: the fleet's value can come from two roles.
pub struct Series {
    declared: Vec<&'static Descriptor>,
}

impl Series {
    /// `None` where no page has a series of that name.
    pub fn find(name: &str) -> Option<Self> {
        let tables = [
            (Role::Api, ApiMetrics::TABLE),
            (Role::Worker, WorkerMetrics::TABLE),
            (Role::Aggregator, AggregatorMetrics::TABLE),
        ];
        let declared: Vec<_> = tables
            .into_iter()
            .flat_map(|(role, table)| table.iter().map(move |metric| (role, metric)))
            .filter(|(role, metric)| {
                is_series(name, &metric.fleet_name(), metric.kind)
                    || is_series(name, &metric.process_name(*role), metric.kind)
            })
            .map(|(_, metric)| metric)
            .collect();
        if declared.is_empty() { None } else { Some(Self { declared }) }
    }

    pub fn labels(&self) -> impl Iterator<Item = &'static str> {
        self.declared.iter().flat_map(|metric| metric.labels.iter().map(|label| label.name))
    }

    pub fn has_label(&self, label: &str) -> bool {
        self.labels().any(|name| name == label)
    }

    /// Whether a label may have a value, as far as the table lists its values.
    pub fn may_be(&self, label: &str, value: &str) -> bool {
        let mut infos = self.declared.iter().flat_map(|metric| metric.labels).filter(|info| info.name == label);
        infos.any(|info| {
            let domain = (info.domain)();
            let is_a_list = domain.split(", ").all(|one| one.starts_with('`') && one.ends_with('`'));
            !is_a_list || domain.split(", ").any(|one| one.trim_matches('`') == value)
        })
    }
}

/// Whether `name` is a series of the metric: the name itself, or the parts of a histogram.
fn is_series(name: &str, metric: &str, kind: Kind) -> bool {
    match name.strip_prefix(metric) {
        Some("") => kind != Kind::Histogram,
        Some("_bucket" | "_sum" | "_count") => kind == Kind::Histogram,
        _ => false,
    }
}
