//! The total of all boots that have been silent for an hour, so that neither memory nor bucket grow with every restart.
//!
//! One record holds the total and the boots in it, written by compare-and-swap: whatever happens between that write and
//! the removal of the boots' own keys, a key whose boot stands in the record is not counted. The list of boots is
//! bounded; what falls off it raises the **horizon**, and a boot that started before the horizon and is not known is
//! refused as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_shared::ids::BootId;
use forebay_shared::metrics::Kind;
use forebay_shared::stats::{FamilyInfo, Layout, LayoutHash, SeriesInfo};
use serde::{Deserialize, Serialize};

use super::cells::{read, to_fixed};
use super::layouts::Interned;
use super::{Fleet, Millis};

/// A boot is folded after this much silence.
pub const FOLD_AFTER_MS: Millis = 60 * 60 * 1000;
/// An aggregator folds nothing before it has heard somebody for this long without a pause: silence may be its own, or
/// the broker's, and then the fleet is about to report again.
const LISTEN_FIRST_MS: Millis = 60_000;
/// No report from anybody for this long is a pause.
const PAUSE_MS: Millis = 10_000;
/// Boots remembered by name; 24 bytes each.
const REMEMBERED: usize = 10_000;
/// Boots folded in one write.
const FOLD_AT_ONCE: usize = 512;

/// What the bucket holds under the total's key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FoldRecord {
    pub version: u16,
    /// Encoded layout of `total`; gauges do not occur in it.
    #[serde(with = "serde_bytes")]
    pub layout: Vec<u8>,
    /// Sums in units of 2^-30, `i128` little endian.
    #[serde(with = "serde_bytes")]
    pub total: Vec<u8>,
    /// Boot and start, in the order of folding: whoever was folded last is remembered longest, so that every aggregator
    /// sees the name of a boot it still holds.
    pub folded: Vec<(BootId, Millis)>,
    pub horizon_ms: Millis,
}

const FOLD_VERSION: u16 = 1;

impl FoldRecord {
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("numbers and bytes always encode")
    }

    /// `None` if these bytes are no such record, or contradict themselves.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok().filter(|record: &Self| record.version == FOLD_VERSION)
    }
}

/// Since when this aggregator hears the fleet.
#[derive(Debug, Default)]
pub struct Hearing {
    since: Millis,
    last: Millis,
}

impl Hearing {
    pub fn heard(&mut self, now: Millis) {
        if now.saturating_sub(self.last) > PAUSE_MS {
            self.since = now;
        }
        self.last = now;
    }

    fn is_steady(&self, now: Millis) -> bool {
        now.saturating_sub(self.last) <= PAUSE_MS && now.saturating_sub(self.since) >= LISTEN_FIRST_MS
    }
}

/// The total as this aggregator holds it.
#[derive(Debug, Default)]
pub struct Fold {
    pub(super) layout: Option<Arc<Interned>>,
    pub(super) total: Vec<i128>,
    boots: BTreeSet<BootId>,
    record: FoldRecord,
    pub revision: u64,
}

impl Fold {
    /// Whether a boot that is not known otherwise must not be counted.
    pub fn refuses(&self, boot: BootId, started: Millis) -> bool {
        self.boots.contains(&boot) || started <= self.record.horizon_ms
    }

    pub fn contains(&self, boot: BootId) -> bool {
        self.boots.contains(&boot)
    }
}

impl Fleet {
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// The record that would fold what is ripe, and the revision it replaces. `None` if nothing is ripe.
    pub fn plan_fold(&self, now: Millis) -> Option<(FoldRecord, u64)> {
        if !self.replayed || !self.hearing.is_steady(now) {
            return None;
        }
        let ripe: Vec<_> = self
            .entries
            .iter()
            .filter(|(boot, entry)| {
                entry.head.age(now) > FOLD_AFTER_MS && !entry.is_undescribed() && self.is_retained(**boot)
            })
            .take(FOLD_AT_ONCE)
            .collect();
        if ripe.is_empty() {
            return None;
        }
        let mut sums = Sums::default();
        if let Some(layout) = &self.fold.layout {
            sums.add(layout, self.fold.total.iter().copied());
        }
        for (_, entry) in &ripe {
            if let Some(counted) = &entry.counted {
                sums.add(&counted.layout, read(&counted.cells).map(to_fixed));
            }
        }
        let (layout, total) = sums.finish();
        let mut folded = self.fold.record.folded.clone();
        folded.extend(ripe.iter().map(|(boot, entry)| (**boot, entry.head.started_ms)));
        let forgotten = folded.len().saturating_sub(REMEMBERED);
        let horizon_ms =
            folded.drain(..forgotten).map(|(_, started)| started).max().unwrap_or(0).max(self.fold.record.horizon_ms);
        let record = FoldRecord { version: FOLD_VERSION, layout, total, folded, horizon_ms };
        Some((record, self.fold.revision))
    }

    /// Takes the record that stands in the bucket: entries of folded boots go, their numbers are in the total. False if
    /// the record contradicts itself; then nothing changes.
    pub fn take_fold(&mut self, record: FoldRecord, revision: u64) -> bool {
        if revision <= self.fold.revision {
            return true;
        }
        let Some(layout) = Layout::decode(&record.layout) else { return false };
        let interned = Interned::new(Layout::hash(&record.layout), record.layout.clone(), layout);
        let (cells, rest) = record.total.as_chunks::<16>();
        if !rest.is_empty() || cells.len() != interned.width {
            return false;
        }
        let total = cells.iter().map(|cell| i128::from_le_bytes(*cell)).collect();
        let boots: BTreeSet<_> = record.folded.iter().map(|(boot, _)| *boot).collect();
        self.entries.retain(|boot, _| !boots.contains(boot));
        self.fold = Fold { layout: Some(Arc::new(interned)), total, boots, record, revision };
        true
    }

    /// Layouts that some boot's record refers to. The total carries its own.
    pub fn used_layouts(&self) -> BTreeSet<LayoutHash> {
        self.entries.values().filter_map(|entry| entry.counted.as_ref()).map(|counted| counted.layout.hash).collect()
    }
}

/// Sums over series of several layouts. Histograms with different buckets are different series.
#[derive(Default)]
struct Sums(BTreeMap<SeriesKey, (FamilyInfo, Vec<i128>)>);

/// Stem, histogram schema, label names, label values.
type SeriesKey = (String, u32, Vec<String>, Vec<String>);

impl Sums {
    fn add(&mut self, interned: &Interned, cells: impl Iterator<Item = i128>) {
        let cells: Vec<i128> = cells.collect();
        for (series, offset) in interned.layout.series.iter().zip(&interned.offsets) {
            let info = interned.layout.family(series);
            if info.kind == Kind::Gauge {
                continue;
            }
            let key = (info.stem.clone(), info.schema_id(), info.labels.clone(), series.values.clone());
            let (_, sum) = self.0.entry(key).or_insert_with(|| (info.clone(), vec![0; info.width()]));
            for (sum, cell) in sum.iter_mut().zip(&cells[*offset..]) {
                *sum += cell;
            }
        }
    }

    fn finish(self) -> (Vec<u8>, Vec<u8>) {
        let (mut layout, mut total) = (Layout::default(), Vec::new());
        let mut last = None;
        for ((stem, schema, labels, values), (info, sum)) in self.0 {
            let family = (stem, schema, labels);
            if last.as_ref() != Some(&family) {
                last = Some(family);
                layout.families.push(info);
            }
            layout.series.push(SeriesInfo { family: layout.families.len() as u32 - 1, values });
            total.extend(sum.iter().flat_map(|cell| cell.to_le_bytes()));
        }
        (layout.encode().1, total)
    }
}
