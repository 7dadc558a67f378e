//! Where each series of each layout stands on the fleet's page. Made anew only when the set of layouts changes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use forebay_shared::metrics::{AggregatorMetrics, ApiMetrics, Kind, Merge, WorkerMetrics};
use forebay_shared::stats::{FamilyInfo, LayoutHash};

use super::layouts::Interned;

/// One series of the fleet.
#[derive(Debug)]
pub struct PlannedSeries {
    /// Sorted by name, as they are written.
    pub labels: Vec<(String, String)>,
    /// `a="x",b="y"`, escaped; empty without labels.
    pub label_text: String,
    pub bounds: Arc<[f64]>,
    /// First cell in the fleet's sums.
    pub offset: usize,
}

#[derive(Debug)]
pub struct PlannedFamily {
    pub stem: String,
    pub help: String,
    pub kind: Kind,
    pub merge: Merge,
    /// In the order of their label text.
    pub series: Vec<PlannedSeries>,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub key: Vec<LayoutHash>,
    pub families: Vec<PlannedFamily>,
    pub width: usize,
    /// For each layout of `key`: first fleet cell of each of its series; `None` where the series is left out.
    pub targets: Vec<Vec<Option<usize>>>,
    /// Series left out because versions disagree about their stem.
    pub conflicts: usize,
}

/// What this binary declares itself: where versions disagree, its own table decides, so that two aggregators of one
/// version agree.
static OWN: LazyLock<BTreeMap<&'static str, FamilyInfo>> = LazyLock::new(|| {
    ApiMetrics::TABLE.iter().chain(WorkerMetrics::TABLE).map(|metric| (metric.stem, metric.into())).collect()
});

type Draft = BTreeMap<String, (FamilyInfo, BTreeMap<String, PlannedSeries>)>;

impl Plan {
    pub fn new(layouts: &[Arc<Interned>]) -> Self {
        let mut draft: Draft = BTreeMap::new();
        let mut conflicts = 0;
        let drafted: Vec<Vec<Option<(String, String)>>> =
            layouts.iter().map(|interned| draft_layout(interned, &mut draft, &mut conflicts)).collect();

        let mut offset = 0;
        let mut place: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut families = Vec::with_capacity(draft.len());
        for (stem, (info, series)) in draft {
            let places = place.entry(stem.clone()).or_default();
            let series = series
                .into_values()
                .map(|mut planned| {
                    planned.offset = offset;
                    places.insert(planned.label_text.clone(), offset);
                    offset += if info.kind == Kind::Histogram { planned.bounds.len() + 2 } else { 1 };
                    planned
                })
                .collect();
            families.push(PlannedFamily { stem, help: info.help, kind: info.kind, merge: info.merge, series });
        }
        let find = |(stem, text): (String, String)| place.get(&stem)?.get(&text).copied();
        let targets = drafted.into_iter().map(|names| names.into_iter().map(|name| find(name?)).collect()).collect();
        let key = layouts.iter().map(|interned| interned.hash).collect();
        Self { key, families, width: offset, targets, conflicts }
    }
}

/// Adds a layout's series to the draft; says under which stem and label text each of them stands.
fn draft_layout(interned: &Interned, draft: &mut Draft, conflicts: &mut usize) -> Vec<Option<(String, String)>> {
    let layout = &interned.layout;
    let bounds: Vec<Arc<[f64]>> = layout.families.iter().map(|info| info.bounds.as_slice().into()).collect();
    let schemas: Vec<u32> = layout.families.iter().map(FamilyInfo::schema_id).collect();
    let mut names = Vec::with_capacity(layout.series.len());
    for series in &layout.series {
        let info = layout.family(series);
        let own = OWN.get(info.stem.as_str());
        let taken = AggregatorMetrics::TABLE.iter().any(|metric| metric.stem == info.stem);
        let (canonical, planned) =
            draft.entry(info.stem.clone()).or_insert_with(|| (own.unwrap_or(info).clone(), BTreeMap::new()));
        if taken || (canonical.kind, canonical.merge) != (info.kind, info.merge) {
            *conflicts += 1;
            names.push(None);
            continue;
        }
        let mut labels: Vec<_> = info.labels.iter().cloned().zip(series.values.iter().cloned()).collect();
        let schema = schemas[series.family as usize];
        // Where nobody here knows the stem, no schema is the ordinary one: all carry the label, whoever comes and goes.
        if schema != own.map_or(0, FamilyInfo::schema_id) {
            labels.push(("schema".to_owned(), format!("{schema:08x}")));
        }
        labels.sort();
        let label_text = text(&labels);
        names.push(Some((info.stem.clone(), label_text.clone())));
        planned.entry(label_text.clone()).or_insert_with(|| PlannedSeries {
            labels,
            label_text,
            bounds: Arc::clone(&bounds[series.family as usize]),
            offset: 0,
        });
    }
    names
}

fn text(labels: &[(String, String)]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        let separator = if out.is_empty() { "" } else { "," };
        let _infallible = write!(out, "{separator}{name}=\"{}\"", escape(value));
    }
    out
}

/// As the text format wants label values.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
