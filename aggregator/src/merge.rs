//! What the fleet has counted (step 9 of the data path): pure, told the time, no I/O.
//!
//! ```text
//! report ──▶ entry of its boot ──silent for an hour──▶ folded into one total
//!               │  newest sequence wins                      │ later reports of the boot are refused
//!               └──────────── summed at every scrape ────────┘
//! ```
//!
//! Invariants:
//! - A boot is counted exactly once: by its entry, or, once its number stands in the fold, by the total.
//! - A fleet counter never goes down. Entries only grow (a smaller number than before is not believed), dying changes
//!   nothing, and folding moves a number without changing the sum: sums are integers in units of 2^-30, so the order of
//!   addition does not matter either, and two aggregators with the same entries give the same page byte for byte.
//! - Gauges come from live processes only. Histograms with different buckets are never added up.
//! - Nothing here waits for a process: a scrape adds up what has arrived.

mod cells;
mod entry;
mod fold;
mod layouts;
mod members;
mod plan;
mod retention;
#[cfg(test)]
mod tests;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_shared::ids::BootId;
use forebay_shared::metrics::ReportResult;
use forebay_shared::stats::{LayoutHash, Snapshot};

pub use cells::{from_fixed, to_fixed};
pub use entry::{Head, Record};
pub use fold::{FOLD_AFTER_MS, Fold, FoldRecord};
pub use layouts::Layouts;
pub use members::{LISTED_MS, Member, Presence};
pub use plan::{PlannedFamily, PlannedSeries, escape};
pub use retention::{DueRecord, REFRESH_MS, RETAIN_EVERY_MS};
pub use totals::Totals;

use entry::Entry;
use fold::Hearing;
use plan::Plan;

/// Broker time in milliseconds since the Unix epoch, as the caller says it is.
pub type Millis = u64;

/// Everything one aggregator knows about the fleet.
pub struct Fleet {
    layouts: Layouts,
    entries: BTreeMap<BootId, Entry>,
    fold: Fold,
    plan: Arc<Plan>,
    started: Millis,
    replayed: bool,
    hearing: Hearing,
    /// Spreads the writes of several aggregators over time, so that one of them usually finds the work done.
    salt: u64,
}

/// What a report led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub result: ReportResult,
    /// The sender should be asked to describe this layout.
    pub ask: bool,
}

impl Fleet {
    pub fn new(now: Millis, salt: u64) -> Self {
        Self {
            layouts: Layouts::default(),
            entries: BTreeMap::new(),
            fold: Fold::default(),
            plan: Arc::default(),
            started: now,
            replayed: false,
            hearing: Hearing::default(),
            salt,
        }
    }

    /// Takes a report that arrived at `now`.
    pub fn accept(&mut self, mut report: Snapshot, now: Millis) -> Accepted {
        self.hearing.heard(now);
        let described = match report.description.take() {
            Some(bytes) => self.learn_layout(report.layout, &bytes),
            None => true,
        };
        if !described {
            return Accepted { result: ReportResult::Malformed, ask: false };
        }
        let result = self.absorb(Head::of(&report, now), report.layout, report.cells);
        let ask = result == ReportResult::Undescribed && self.layouts.should_ask(report.layout, now);
        Accepted { result, ask }
    }

    /// Takes what the bucket holds for one boot, at `revision`; `heard` is when some aggregator heard the process.
    pub fn replay(&mut self, record: Record, revision: u64) {
        let Record { snapshot, heard_ms } = record;
        let boot = snapshot.boot;
        let (seq, state) = (snapshot.seq, snapshot.state);
        let mark = retention::mark(&snapshot.cells, state);
        let already_ours = self.entries.get(&boot).is_some_and(|entry| entry.retained.revision >= revision);
        if already_ours {
            return;
        }
        let head = Head { replayed: true, ..Head::of(&snapshot, heard_ms) };
        self.absorb(head, snapshot.layout, snapshot.cells);
        if let Some(entry) = self.entries.get_mut(&boot) {
            entry.heard(heard_ms);
            entry.retained = retention::Retained { revision, seq, mark, at: heard_ms };
        }
    }

    fn absorb(&mut self, head: Head, layout: LayoutHash, cells: Vec<u8>) -> ReportResult {
        if !self.entries.contains_key(&head.boot) && self.fold.refuses(head.boot, head.started_ms) {
            return ReportResult::Folded;
        }
        let known = self.layouts.get(layout);
        if !cells.len().is_multiple_of(8) || known.as_ref().is_some_and(|known| known.width * 8 != cells.len()) {
            return ReportResult::Malformed;
        }
        let phase = retention::phase(self.salt, head.boot);
        let entry = self.entries.entry(head.boot).or_insert_with(|| Entry::new(head.clone(), phase));
        entry.absorb(head, known, layout, cells)
    }

    /// Learns what the cells of snapshots with this layout mean. False if the bytes are not that layout.
    pub fn learn_layout(&mut self, hash: LayoutHash, bytes: &[u8]) -> bool {
        if self.layouts.get(hash).is_some() {
            return true;
        }
        let Some(layout) = self.layouts.learn(hash, bytes) else { return false };
        for entry in self.entries.values_mut() {
            entry.described(&layout);
        }
        true
    }

    /// Listening begins at `now`, not when this was made.
    pub fn listening_since(&mut self, now: Millis) {
        self.started = now;
    }

    /// The bucket has been read to its end.
    pub fn mark_replayed(&mut self) {
        self.replayed = true;
    }

    /// Whether the page may be served: the bucket is read, a report interval has passed, and whoever was alive a moment
    /// ago has reported or had three intervals to do so. Earlier, counters could stand lower than they stood before.
    pub fn is_ready(&self, now: Millis) -> bool {
        let up = now.saturating_sub(self.started);
        let awaited = || self.entries.values().any(|entry| entry.head.replayed && entry.head.may_be_alive(now));
        self.replayed && up >= READY_AFTER_MS && (up >= READY_AT_LATEST_MS || !awaited())
    }

    pub fn layouts(&self) -> &Layouts {
        &self.layouts
    }

    pub fn layouts_mut(&mut self) -> &mut Layouts {
        &mut self.layouts
    }
}

/// One report interval and what a report may be late.
const READY_AFTER_MS: Millis = 1_250;
const READY_AT_LATEST_MS: Millis = 3_250;
