//! The fleet at one moment: sums over all entries and the fold, ready to be written as text or asked for single values.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_shared::ids::ProcessName;
use forebay_shared::metrics::{Kind, Merge};
use forebay_shared::planted::Bug;
use forebay_shared::stats::LayoutHash;

use super::cells::{GaugeSum, cell, from_fixed, read, to_fixed};
use super::layouts::Interned;
use super::plan::{Plan, PlannedFamily};
use super::{Fleet, Millis};

/// The fleet at one moment.
#[derive(Debug)]
pub struct Totals {
    plan: Arc<Plan>,
    fixed: Vec<i128>,
    gauges: Vec<GaugeSum>,
    /// Fleet cell of the series, process, value.
    per_process: Vec<(usize, ProcessName, f64)>,
}

/// Sums over the entries of one layout.
struct LayoutSums {
    interned: Arc<Interned>,
    fixed: Vec<i128>,
    gauges: Vec<GaugeSum>,
    per_process: Vec<(usize, ProcessName, f64)>,
}

impl LayoutSums {
    fn new(interned: &Arc<Interned>) -> Self {
        let width = interned.width;
        let gauges = vec![GaugeSum::default(); interned.gauges.len()];
        Self { interned: Arc::clone(interned), fixed: vec![0; width], gauges, per_process: Vec::new() }
    }
}

impl Fleet {
    /// Adds everything up. Gauges count where the process is alive at `now`.
    pub fn totals(&mut self, now: Millis) -> Totals {
        let mut sums: BTreeMap<LayoutHash, LayoutSums> = BTreeMap::new();
        if let Some(layout) = &self.fold.layout {
            let folded = sums.entry(layout.hash).or_insert_with(|| LayoutSums::new(layout));
            for (sum, cell) in folded.fixed.iter_mut().zip(&self.fold.total) {
                *sum += cell;
            }
        }
        for entry in self.entries.values() {
            let Some(counted) = &entry.counted else { continue };
            if Bug::CounterReset.is_planted() && !entry.head.is_live(now) {
                continue;
            }
            let layout = &counted.layout;
            let sum = sums.entry(layout.hash).or_insert_with(|| LayoutSums::new(layout));
            for range in &layout.cumulative {
                let bytes = &counted.cells[range.start * 8..range.end * 8];
                for (sum, cell) in sum.fixed[range.clone()].iter_mut().zip(read(bytes)) {
                    *sum += to_fixed(cell);
                }
            }
            if !entry.head.is_live(now) {
                continue;
            }
            for (sum, index) in sum.gauges.iter_mut().zip(&layout.gauges) {
                sum.add(cell(&counted.cells, *index));
            }
            for number in &layout.per_process {
                let value = cell(&counted.cells, layout.offsets[*number]);
                sum.per_process.push((*number, entry.head.process.clone(), value));
            }
        }
        let layouts: Vec<_> = sums.values().map(|sum| Arc::clone(&sum.interned)).collect();
        if !self.plan.key.iter().eq(sums.keys()) {
            self.plan = Arc::new(Plan::new(&layouts));
        }
        Totals::collect(Arc::clone(&self.plan), sums.into_values())
    }
}

impl Totals {
    fn collect(plan: Arc<Plan>, sums: impl Iterator<Item = LayoutSums>) -> Self {
        let mut fixed = vec![0; plan.width];
        let mut gauges = vec![GaugeSum::default(); plan.width];
        let mut per_process = Vec::new();
        for (sum, targets) in sums.zip(&plan.targets) {
            let layout = &sum.interned;
            for ((series, offset), target) in layout.layout.series.iter().zip(&layout.offsets).zip(targets) {
                let Some(target) = *target else { continue };
                let info = layout.layout.family(series);
                if info.kind == Kind::Gauge {
                    if let Ok(index) = layout.gauges.binary_search(offset) {
                        gauges[target].merge(sum.gauges[index]);
                    }
                } else {
                    let width = info.width();
                    for (cell, add) in fixed[target..target + width].iter_mut().zip(&sum.fixed[*offset..]) {
                        *cell += add;
                    }
                }
            }
            let placed = |(number, process, value): (usize, _, _)| Some((targets[number]?, process, value));
            per_process.extend(sum.per_process.into_iter().filter_map(placed));
        }
        per_process.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Self { plan, fixed, gauges, per_process }
    }

    pub fn families(&self) -> &[PlannedFamily] {
        &self.plan.families
    }

    /// Series left out because versions disagree about them.
    pub fn conflicts(&self) -> usize {
        self.plan.conflicts
    }

    /// A cumulative cell: a counter, a bucket, a sum, a count.
    pub fn cumulative(&self, offset: usize) -> f64 {
        from_fixed(self.fixed[offset])
    }

    /// `None` where nobody who is alive has a value, unless the sum over nobody is what was asked.
    pub fn gauge(&self, offset: usize, merge: Merge) -> Option<f64> {
        let sum = self.gauges[offset];
        match merge {
            Merge::Sum => Some(sum.sum),
            Merge::PerProcess | Merge::Own => None,
            _ if sum.count == 0 => None,
            Merge::Max => Some(sum.max),
            Merge::Min => Some(sum.min),
            Merge::Mean => Some(sum.sum / f64::from(sum.count)),
        }
    }

    /// Values of a series that stands there once per process, by process.
    pub fn per_process(&self, offset: usize) -> impl Iterator<Item = (&ProcessName, f64)> {
        let from = self.per_process.partition_point(|(at, _, _)| *at < offset);
        self.per_process[from..]
            .iter()
            .take_while(move |(at, _, _)| *at == offset)
            .map(|(_, name, value)| (name, *value))
    }

    /// Adds up the counters (or sum-merged gauges) of `stem` by the value of one label, of series that `keep`.
    pub fn sum_by(&self, stem: &str, label: &str, keep: impl Fn(&[(String, String)]) -> bool) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::new();
        let Some(family) = self.plan.families.iter().find(|family| family.stem == stem) else { return out };
        for series in family.series.iter().filter(|series| keep(&series.labels)) {
            let by = series.labels.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value.as_str());
            let value = match family.kind {
                Kind::Gauge => self.gauge(series.offset, family.merge).unwrap_or(0.0),
                _ => self.cumulative(series.offset),
            };
            *out.entry(by.to_owned()).or_insert(0.0) += value;
        }
        out
    }

    /// Sum and count of the histograms of `stem`, by the value of one label.
    pub fn observed_by(&self, stem: &str, label: &str) -> BTreeMap<String, (f64, f64)> {
        let mut out = BTreeMap::new();
        let family = self.plan.families.iter().find(|family| family.stem == stem && family.kind == Kind::Histogram);
        for series in family.into_iter().flat_map(|family| &family.series) {
            let by = series.labels.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value.as_str());
            let after = series.offset + series.bounds.len();
            let (sum, count) = out.entry(by.to_owned()).or_insert((0.0, 0.0));
            *sum += self.cumulative(after);
            *count += self.cumulative(after + 1);
        }
        out
    }
}
