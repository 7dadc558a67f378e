//! When a boot's numbers are written to the bucket.

use std::hash::{Hash, Hasher};

use forebay_shared::ids::BootId;
use forebay_shared::stats::{LayoutHash, ProcessState};
use rustc_hash::FxHasher;

use super::entry::Record;
use super::{Fleet, Millis};

/// A live process is written this often if its numbers changed.
pub const RETAIN_EVERY_MS: Millis = 5_000;
/// A live process is written this often in any case, so that the bucket tells when it was last heard.
pub const REFRESH_MS: Millis = 60_000;
/// A write that failed is tried again after this.
const RETRY_MS: Millis = 1_000;

/// What the bucket holds for a boot, as far as this aggregator knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retained {
    /// 0 = no key yet.
    pub revision: u64,
    pub seq: u64,
    /// Hash over numbers and state.
    pub mark: u64,
    pub at: Millis,
}

/// One write that is due: only if the key still stands at `revision`.
#[derive(Debug)]
pub struct DueRecord {
    pub boot: BootId,
    pub layout: LayoutHash,
    pub record: Record,
    pub revision: u64,
}

/// Tells whether two snapshots say the same.
pub fn mark(cells: &[u8], state: ProcessState) -> u64 {
    let mut hash = FxHasher::default();
    (cells, state).hash(&mut hash);
    hash.finish().max(1)
}

/// A boot's place in the period, different for each aggregator.
pub fn phase(salt: u64, boot: BootId) -> Millis {
    let mut hash = FxHasher::default();
    (salt, boot).hash(&mut hash);
    hash.finish() % RETAIN_EVERY_MS
}

impl Fleet {
    /// What should be written now: live processes whose numbers changed, every 5 s; whoever fell silent or said goodbye,
    /// at once. Asking counts as an attempt: a write that fails is due again a second later.
    pub fn due(&mut self, now: Millis) -> Vec<DueRecord> {
        self.due_after(now, RETAIN_EVERY_MS, RETRY_MS)
    }

    /// Everything that changed since it was written, however recently: for an aggregator's own shutdown.
    pub fn due_at_once(&mut self, now: Millis) -> Vec<DueRecord> {
        self.due_after(now, 0, 0)
    }

    fn due_after(&mut self, now: Millis, live_every: Millis, dead_every: Millis) -> Vec<DueRecord> {
        let mut due = Vec::new();
        for (boot, entry) in &mut self.entries {
            let Some(counted) = &entry.counted else { continue };
            let since = now.saturating_sub(entry.retained.at);
            let live = entry.head.is_live(now);
            if since < if live { live_every } else { dead_every } {
                continue;
            }
            let newer = counted.seq > entry.retained.seq || entry.head.seq > entry.retained.seq;
            let changed = newer && mark(&counted.cells, entry.head.state) != entry.retained.mark;
            if changed || (live && newer && since >= REFRESH_MS) {
                let Some(record) = entry.record() else { continue };
                due.push(DueRecord {
                    boot: *boot,
                    layout: counted.layout.hash,
                    record,
                    revision: entry.retained.revision,
                });
                entry.retained.at = now.saturating_sub(if live { RETAIN_EVERY_MS - RETRY_MS } else { 0 });
            }
        }
        due
    }

    /// The write succeeded and made `revision`.
    pub fn retained(&mut self, boot: BootId, record: &Record, revision: u64, now: Millis) {
        if let Some(entry) = self.entries.get_mut(&boot)
            && entry.retained.revision < revision
        {
            let mark = mark(&record.snapshot.cells, record.snapshot.state);
            entry.retained = Retained { revision, seq: record.snapshot.seq, mark, at: now };
        }
    }

    /// Whether this aggregator has taken that revision of a boot's key already: its own writes come back to it.
    pub fn has_taken(&self, boot: BootId, revision: u64) -> bool {
        self.entries.get(&boot).is_some_and(|entry| entry.retained.revision >= revision)
    }

    /// Whether the bucket holds everything this aggregator knows about a boot.
    pub(super) fn is_retained(&self, boot: BootId) -> bool {
        self.entries.get(&boot).is_some_and(|entry| {
            let retained = entry.retained;
            entry.counted.as_ref().is_some_and(|counted| mark(&counted.cells, entry.head.state) == retained.mark)
        })
    }
}
