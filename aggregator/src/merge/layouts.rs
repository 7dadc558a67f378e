//! Layouts, each kept once, however many processes share it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use forebay_shared::metrics::{Kind, Merge};
use forebay_shared::stats::{Layout, LayoutHash};

use super::Millis;

/// A question about a layout is repeated this often, to another of its users perhaps.
const ASK_EVERY_MS: Millis = 500;
/// A layout in the bucket is written again this often while it is in use, so that it never looks abandoned.
pub const REWRITE_EVERY_MS: Millis = 30 * 60 * 1000;

/// A layout prepared for adding up.
#[derive(Debug)]
pub struct Interned {
    pub hash: LayoutHash,
    pub bytes: Vec<u8>,
    pub layout: Layout,
    /// Cells in a snapshot.
    pub width: usize,
    /// First cell of each series.
    pub offsets: Vec<usize>,
    /// Runs of cells that never fall.
    pub cumulative: Vec<Range<usize>>,
    /// Cells that are gauges.
    pub gauges: Vec<usize>,
    /// Series that stand on the page once per process, by number.
    pub per_process: Vec<usize>,
}

impl Interned {
    pub fn new(hash: LayoutHash, bytes: Vec<u8>, layout: Layout) -> Self {
        let (mut width, mut offsets, mut gauges, mut per_process) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut cumulative: Vec<Range<usize>> = Vec::new();
        for (number, series) in layout.series.iter().enumerate() {
            let info = layout.family(series);
            let cells = width..width + info.width();
            offsets.push(width);
            width = cells.end;
            match (info.kind, info.merge) {
                (Kind::Gauge, Merge::PerProcess) => per_process.push(number),
                (Kind::Gauge, _) => gauges.push(cells.start),
                (Kind::Counter | Kind::Histogram, _) => match cumulative.last_mut() {
                    Some(last) if last.end == cells.start => last.end = cells.end,
                    _ => cumulative.push(cells),
                },
            }
        }
        Self { hash, bytes, layout, width, offsets, cumulative, gauges, per_process }
    }
}

/// All layouts known to this aggregator.
#[derive(Debug, Default)]
pub struct Layouts {
    known: BTreeMap<LayoutHash, Arc<Interned>>,
    asked: BTreeMap<LayoutHash, Millis>,
    /// When each was last written to the bucket, by whom ever.
    written: BTreeMap<LayoutHash, Millis>,
}

impl Layouts {
    pub fn get(&self, hash: LayoutHash) -> Option<Arc<Interned>> {
        self.known.get(&hash).cloned()
    }

    /// `None` if the bytes are not the layout of that hash.
    pub fn learn(&mut self, hash: LayoutHash, bytes: &[u8]) -> Option<Arc<Interned>> {
        if Layout::hash(bytes) != hash {
            return None;
        }
        let interned = Arc::new(Interned::new(hash, bytes.to_vec(), Layout::decode(bytes)?));
        self.known.insert(hash, Arc::clone(&interned));
        self.asked.remove(&hash);
        Some(interned)
    }

    pub fn should_ask(&mut self, hash: LayoutHash, now: Millis) -> bool {
        let asked = self.asked.entry(hash).or_default();
        let due = now.saturating_sub(*asked) >= ASK_EVERY_MS;
        if due {
            *asked = now;
        }
        due
    }

    /// The bucket holds it since `at`.
    pub fn mark_written(&mut self, hash: LayoutHash, at: Millis) {
        self.written.insert(hash, at);
    }

    /// The layout's bytes, if they must be written before a record may refer to them.
    pub fn due(&self, hash: LayoutHash, now: Millis) -> Option<Vec<u8>> {
        let fresh = self.written.get(&hash).is_some_and(|at| now.saturating_sub(*at) < REWRITE_EVERY_MS);
        if fresh { None } else { self.known.get(&hash).map(|interned| interned.bytes.clone()) }
    }

    /// Layouts that nobody of `used` refers to and nobody has written for two rewrites: their keys may go. Forgets them.
    pub fn take_abandoned(&mut self, used: impl Fn(LayoutHash) -> bool, now: Millis) -> Vec<LayoutHash> {
        let old = |at: &Millis| now.saturating_sub(*at) > 2 * REWRITE_EVERY_MS;
        let gone: Vec<_> =
            self.written.iter().filter(|(hash, at)| old(at) && !used(**hash)).map(|(hash, _)| *hash).collect();
        for hash in &gone {
            self.written.remove(hash);
            self.known.remove(hash);
        }
        gone
    }
}
