//! The names of a snapshot's numbers. Describes itself completely, so that an aggregator can merge what a newer process
//! reports and a replayed record means the same after an upgrade.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::hex;
use crate::metrics::buckets::schema_id;
use crate::metrics::{Descriptor, Kind, Merge, SeriesCells};

/// First 16 bytes of the SHA-256 of the encoded layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayoutHash(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl fmt::Display for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One stem as its process declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyInfo {
    pub stem: String,
    pub help: String,
    pub kind: Kind,
    pub merge: Merge,
    pub labels: Vec<String>,
    pub bounds: Vec<f64>,
}

impl FamilyInfo {
    /// Numbers that one series of this family takes: 1, or cumulative buckets, sum and count.
    pub fn width(&self) -> usize {
        match self.kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram => self.bounds.len() + 2,
        }
    }

    /// Identifies the buckets; 0 if this is no histogram.
    pub fn schema_id(&self) -> u32 {
        schema_id(&self.bounds)
    }
}

impl From<&Descriptor> for FamilyInfo {
    fn from(metric: &Descriptor) -> Self {
        Self {
            stem: metric.stem.to_owned(),
            help: metric.help().to_owned(),
            kind: metric.kind,
            merge: metric.merge,
            labels: metric.labels.iter().map(|label| label.name.to_owned()).collect(),
            bounds: metric.buckets.to_vec(),
        }
    }
}

/// One series: a family and the values of its labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesInfo {
    /// Index into [`Layout::families`].
    pub family: u32,
    pub values: Vec<String>,
}

/// What one number of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Never falls within a boot: a counter, a bucket, a sum or a count.
    Cumulative,
    Gauge,
}

/// The names of a snapshot's numbers, in their order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Layout {
    pub families: Vec<FamilyInfo>,
    pub series: Vec<SeriesInfo>,
}

impl Layout {
    /// The layout of these series, in their order.
    pub fn of(series: &[SeriesCells]) -> Self {
        let mut layout = Self::default();
        let mut last: Option<&'static str> = None;
        for one in series {
            if last != Some(one.descriptor.stem) {
                last = Some(one.descriptor.stem);
                layout.families.push(one.descriptor.into());
            }
            let family = layout.families.len() as u32 - 1;
            layout.series.push(SeriesInfo { family, values: one.values.clone() });
        }
        layout
    }

    /// As it travels, with its hash.
    pub fn encode(&self) -> (LayoutHash, Vec<u8>) {
        let bytes = rmp_serde::to_vec(self).expect("strings and numbers always encode");
        (Self::hash(&bytes), bytes)
    }

    pub fn hash(bytes: &[u8]) -> LayoutHash {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        LayoutHash(hash)
    }

    /// Reads and checks a layout: `None` if it is not one, or contradicts itself.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let layout: Self = crate::codec::read(bytes).ok()?;
        let consistent = layout.series.iter().all(|series| {
            layout.families.get(series.family as usize).is_some_and(|info| info.labels.len() == series.values.len())
        });
        consistent.then_some(layout)
    }

    /// Number of cells in a snapshot of this layout.
    pub fn width(&self) -> usize {
        self.series.iter().map(|series| self.family(series).width()).sum()
    }

    pub fn family(&self, series: &SeriesInfo) -> &FamilyInfo {
        &self.families[series.family as usize]
    }

    /// What each cell is.
    pub fn cell_kinds(&self) -> Vec<CellKind> {
        let mut kinds = Vec::with_capacity(self.width());
        for series in &self.series {
            let info = self.family(series);
            let kind = if info.kind == Kind::Gauge { CellKind::Gauge } else { CellKind::Cumulative };
            kinds.extend(std::iter::repeat_n(kind, info.width()));
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::WorkerMetrics;

    #[test]
    fn two_processes_that_count_the_same_share_a_layout() {
        let layout = || {
            let metrics = WorkerMetrics::new();
            metrics.register_model(&"mini".into());
            Layout::of(&metrics.registry().series()).encode()
        };
        let (hash, bytes) = layout();
        assert_eq!(layout(), (hash, bytes.clone()));
        let read = Layout::decode(&bytes).unwrap();
        assert_eq!(read.encode().0, hash);
        assert_eq!(read.width(), read.cell_kinds().len());
    }

    #[test]
    fn a_layout_that_contradicts_itself_is_refused() {
        let series = vec![SeriesInfo { family: 7, values: vec![] }];
        let (_, bytes) = Layout { families: vec![], series }.encode();
        assert_eq!(Layout::decode(&bytes), None);
        assert_eq!(Layout::decode(b"nonsense"), None);
    }
}
