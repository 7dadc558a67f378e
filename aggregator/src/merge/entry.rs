//! One boot of one process: its newest report, and the newest of its numbers whose meaning is known.

use std::sync::Arc;

use forebay_shared::ids::{BootId, ProcessName, Role};
use forebay_shared::metrics::ReportResult;
use forebay_shared::stats::{LayoutHash, ProcessState, Served, Snapshot, WIRE_VERSION};
use serde::{Deserialize, Serialize};

use super::Millis;
use super::cells;
use super::layouts::Interned;
use super::retention::Retained;

/// A process that misses this many reports is silent.
const MISSED: u64 = 3;

/// A report without its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub role: Role,
    pub process: ProcessName,
    pub boot: BootId,
    pub seq: u64,
    pub started_ms: Millis,
    pub sent_ms: Millis,
    pub interval_ms: u32,
    pub address: Option<String>,
    pub state: ProcessState,
    pub served: Vec<Served>,
    /// When an aggregator last heard the process.
    pub heard: Millis,
    /// Known from the bucket only; this aggregator has not heard the process itself.
    pub replayed: bool,
}

impl Head {
    /// The head of a report heard at `heard`.
    pub fn of(report: &Snapshot, heard: Millis) -> Self {
        Self {
            role: report.role,
            process: report.process.clone(),
            boot: report.boot,
            seq: report.seq,
            started_ms: report.started_ms,
            sent_ms: report.sent_ms,
            interval_ms: report.interval_ms.max(1),
            address: report.address.clone(),
            state: report.state,
            served: report.served.clone(),
            heard,
            replayed: false,
        }
    }

    pub fn age(&self, now: Millis) -> Millis {
        now.saturating_sub(self.heard)
    }

    /// Reports, and has not said goodbye.
    pub fn is_live(&self, now: Millis) -> bool {
        self.state != ProcessState::Goodbye && self.age(now) < MISSED * u64::from(self.interval_ms)
    }

    /// The bucket says so little ago that the process lived that a report may come at any moment.
    pub fn may_be_alive(&self, now: Millis) -> bool {
        self.state != ProcessState::Goodbye && self.age(now) < super::REFRESH_MS * 3 / 2
    }
}

/// What the bucket keeps of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub snapshot: Snapshot,
    /// When the aggregator that wrote this had heard the process last.
    pub heard_ms: Millis,
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("strings, numbers and bytes always encode")
    }

    /// `None` if these bytes are no record of this wire version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok().filter(|record: &Self| record.snapshot.version == WIRE_VERSION)
    }
}

/// Numbers whose meaning is known.
#[derive(Debug, Clone)]
pub struct Counted {
    pub layout: Arc<Interned>,
    pub seq: u64,
    pub cells: Vec<u8>,
}

/// Numbers whose layout has not arrived yet.
#[derive(Debug, Clone)]
struct Undescribed {
    layout: LayoutHash,
    seq: u64,
    cells: Vec<u8>,
}

#[derive(Debug)]
pub struct Entry {
    pub head: Head,
    pub counted: Option<Counted>,
    undescribed: Option<Undescribed>,
    pub retained: Retained,
}

impl Entry {
    pub fn new(head: Head, phase: Millis) -> Self {
        // The first write is due within one period, at a moment of its own.
        let at = head.heard.saturating_sub(phase);
        Self {
            head: Head { seq: 0, ..head },
            counted: None,
            undescribed: None,
            retained: Retained { at, ..Retained::default() },
        }
    }

    /// Takes a report. Its head and its numbers are judged apart: numbers without a layout wait, and meanwhile the ones
    /// before stand, so that no counter dips.
    pub fn absorb(
        &mut self,
        head: Head,
        known: Option<Arc<Interned>>,
        hash: LayoutHash,
        cells: Vec<u8>,
    ) -> ReportResult {
        let seq = head.seq;
        let newer = seq > self.head.seq;
        if newer {
            let heard = self.head.heard.max(head.heard);
            self.head = Head { heard, ..head };
        }
        let counted_seq = self.counted.as_ref().map_or(0, |counted| counted.seq);
        match known {
            Some(layout) if seq > counted_seq => self.count(layout, seq, cells),
            Some(_) => {}
            None if seq > counted_seq.max(self.undescribed.as_ref().map_or(0, |waiting| waiting.seq)) => {
                self.undescribed = Some(Undescribed { layout: hash, seq, cells });
                return ReportResult::Undescribed;
            }
            None => {}
        }
        if newer { ReportResult::Applied } else { ReportResult::Stale }
    }

    fn count(&mut self, layout: Arc<Interned>, seq: u64, mut cells: Vec<u8>) {
        if let Some(before) = &self.counted
            && before.layout.hash == layout.hash
        {
            for range in &layout.cumulative {
                cells::keep_largest(&mut cells, &before.cells, range.clone());
            }
        }
        if self.undescribed.as_ref().is_some_and(|waiting| waiting.seq <= seq) {
            self.undescribed = None;
        }
        self.counted = Some(Counted { layout, seq, cells });
    }

    /// A layout became known; numbers that waited for it now count.
    pub fn described(&mut self, layout: &Arc<Interned>) {
        let waited = self.undescribed.take_if(|waiting| waiting.layout == layout.hash);
        if let Some(waiting) = waited
            && waiting.cells.len() == layout.width * 8
        {
            self.count(Arc::clone(layout), waiting.seq, waiting.cells);
        }
    }

    pub fn is_undescribed(&self) -> bool {
        self.undescribed.is_some()
    }

    /// Some aggregator heard the process at `at`.
    pub fn heard(&mut self, at: Millis) {
        self.head.heard = self.head.heard.max(at);
    }

    /// What the bucket should hold; `None` while nothing is understood.
    pub fn record(&self) -> Option<Record> {
        let counted = self.counted.as_ref()?;
        let head = self.head.clone();
        let snapshot = Snapshot {
            version: WIRE_VERSION,
            role: head.role,
            process: head.process,
            boot: head.boot,
            seq: counted.seq,
            started_ms: head.started_ms,
            sent_ms: head.sent_ms,
            interval_ms: head.interval_ms,
            address: head.address,
            state: head.state,
            served: head.served,
            layout: counted.layout.hash,
            cells: counted.cells.clone(),
            description: None,
        };
        Some(Record { snapshot, heard_ms: head.heard })
    }
}
