//! What is decided about a suspect, told what is known of it. Plain values: no I/O, no clock.
//!
//! A **suspect** is a job of a message that was delivered before. Whoever had it may have died of it, so its starts are
//! written down before it runs and the end after it:
//!
//! ```text
//!              start written                     answered
//! suspect ─────────────────────▶ runs alone ─────────────────▶ record removed
//!    ▲                              │ its worker dies
//!    └──── delivered again ◀────────┘ one start without an end; with the second: dead letter, never run again
//! ```
//! The first delivery runs among others and is not recorded. A job that ends every worker it meets therefore costs three:
//! the one that ran it first, and [`MAX_STARTS`] that ran it alone. A worker that loses its device under a job ends like one
//! that dies of it, so such a job costs three, too; a device that fails by itself takes at most one suspect with it each time,
//! since a suspect has the device to itself.

use std::collections::VecDeque;

use forebay_shared::dead::Start;
use forebay_shared::ids::{BootId, Lane};
use serde::{Deserialize, Serialize};

/// So many recorded starts without an end make a dead letter.
pub(super) const MAX_STARTS: usize = 2;

/// What is known of a suspect, by anybody: one value of [`forebay_shared::streams::Bucket::Attempts`], as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Starts without an end, oldest first.
    pub starts: Vec<Start>,
    /// Its dead letter is written; only the answer may be missing.
    #[serde(default)]
    pub dead: bool,
}

/// What to do with a suspect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Write this record, then run it.
    Run(Record),
    /// Put it aside, with these starts.
    Dead(Record),
}

impl Record {
    /// Decides before `start`. Starts of the same boot do not count: it is alive, so none of them ended it; one that was
    /// given up before it ran, or whose end could not be written, is replaced.
    pub(super) fn decide(&self, start: Start) -> Decision {
        let mut record = self.without(start.boot);
        if record.dead || record.starts.len() >= MAX_STARTS {
            return Decision::Dead(record);
        }
        record.starts.push(start);
        Decision::Run(record)
    }

    /// What is left without any start of `boot`.
    fn without(&self, boot: BootId) -> Self {
        let starts = self.starts.iter().filter(|start| start.boot != boot).cloned().collect();
        Self { starts, dead: self.dead }
    }

    /// What is left after the end of `start`. A later one of the same boot stays: that run may be under way.
    pub(super) fn after(&self, start: &Start) -> Self {
        let starts = self.starts.iter().filter(|other| !is_same(other, start)).cloned().collect();
        Self { starts, dead: self.dead }
    }

    /// Whether `start` is recorded.
    pub(super) fn holds(&self, start: &Start) -> bool {
        self.starts.iter().any(|other| is_same(other, start))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty() && !self.dead
    }
}

/// A worker starts one suspect after the other, so the time tells its starts apart.
fn is_same(one: &Start, other: &Start) -> bool {
    (one.boot, one.at_us) == (other.boot, other.at_us)
}

/// Suspects that wait for their turn, one after the other: higher lanes first, the oldest of a lane first. Bounded,
/// because they do not count against the intake's credit: ordinary work must go on beside them.
#[derive(Debug)]
pub(super) struct SuspectQueue<T> {
    lanes: [VecDeque<(usize, T)>; 3],
    jobs: usize,
    bytes: usize,
    max_jobs: usize,
    max_bytes: usize,
}

impl<T> SuspectQueue<T> {
    pub(super) fn new(max_jobs: usize, max_bytes: usize) -> Self {
        Self { lanes: Default::default(), jobs: 0, bytes: 0, max_jobs, max_bytes }
    }

    /// Whether a message with so many jobs and bytes may still be held; an empty queue takes any.
    pub(super) fn has_room(&self, jobs: usize, bytes: usize) -> bool {
        self.jobs == 0 || (self.jobs + jobs <= self.max_jobs && self.bytes + bytes <= self.max_bytes)
    }

    pub(super) fn push(&mut self, lane: Lane, bytes: usize, suspect: T) {
        self.lanes[lane.index()].push_back((bytes, suspect));
        self.jobs += 1;
        self.bytes += bytes;
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (bytes, suspect) = self.lanes.iter_mut().find_map(VecDeque::pop_front)?;
        self.jobs -= 1;
        self.bytes -= bytes;
        Some(suspect)
    }

    /// Takes out all that `pred` accepts, in order.
    pub(super) fn remove_where(&mut self, mut pred: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for lane in &mut self.lanes {
            let (out, left): (VecDeque<_>, _) = std::mem::take(lane).into_iter().partition(|(_, one)| pred(one));
            *lane = left;
            for (bytes, suspect) in out {
                self.jobs -= 1;
                self.bytes -= bytes;
                removed.push(suspect);
            }
        }
        removed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.jobs
    }
}

/// Names a message also where its stream is made anew and counts from 1 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageName {
    pub(crate) lane: Lane,
    pub(crate) stream_seq: u64,
    /// In broker time.
    pub(crate) stored_us: u64,
}

/// Own deliveries of messages: one that **only this process** was ever handed cannot have ended anybody, because this
/// process is alive. It is no suspect, however often it came.
///
/// That is what makes a restart of the broker, or of the connection, cheap where it brings back what the same worker had.
/// Bounded: what is forgotten is a suspect, which is safe.
#[derive(Debug)]
pub(crate) struct OwnDeliveries {
    seen: rustc_hash::FxHashMap<MessageName, u64>,
    order: VecDeque<MessageName>,
    capacity: usize,
}

impl OwnDeliveries {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { seen: rustc_hash::FxHashMap::default(), order: VecDeque::new(), capacity }
    }

    /// Notes delivery number `delivered` of a message to this process; true if every one before was to it as well.
    pub(crate) fn note(&mut self, message: MessageName, delivered: u64) -> bool {
        let before = match self.seen.get(&message) {
            // A consumer that was made anew delivers what is left from the beginning.
            Some(_) if delivered == 1 => 0,
            Some(before) => *before,
            None => {
                self.order.push_back(message);
                0
            }
        };
        self.seen.insert(message, before + 1);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        before + 1 == delivered
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
