//! One lane: first in, first out, except for bounded look-ahead past a job that does not fit.
//!
//! A map by arrival number, and not a deque: deadlines and cancellations take jobs out of the middle, and that must
//! cost the same for the ten thousandth job as for the first.
//!
//! Invariants: an ordinary job is overtaken, that is, a younger ordinary job of the lane leaves before it, in at most
//! `max_overtakes` batches; so is the oldest isolated job. No isolated job leaves before an older ordinary one.

use std::collections::BTreeMap;

use crate::{BatchLimits, QueuedJob};

/// Arrival number of a job, unique in a batcher. Order in a lane is order of arrival.
pub(crate) type Seq = u64;

#[derive(Debug, Clone)]
struct Waiting<T> {
    job: QueuedJob<T>,
    /// Batches in which younger jobs left first.
    overtaken: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct LaneQueue<T> {
    ordinary: BTreeMap<Seq, Waiting<T>>,
    isolated: BTreeMap<Seq, Waiting<T>>,
    ordinary_tokens: usize,
}

/// How far one batch has come in one lane.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    from: Seq,
    skipped: usize,
    youngest_taken: Option<Seq>,
    /// Nothing more of this lane can go into this batch.
    pub(crate) closed: bool,
}

impl Cursor {
    /// A job did not fit into the tokens that were left.
    pub(crate) fn lacked_room(&self) -> bool {
        self.skipped > 0
    }
}

impl<T> LaneQueue<T> {
    pub(crate) fn new() -> Self {
        Self { ordinary: BTreeMap::new(), isolated: BTreeMap::new(), ordinary_tokens: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ordinary.is_empty() && self.isolated.is_empty()
    }

    pub(crate) fn ordinary_rows(&self) -> usize {
        self.ordinary.len()
    }

    pub(crate) fn isolated_rows(&self) -> usize {
        self.isolated.len()
    }

    pub(crate) fn ordinary_tokens(&self) -> usize {
        self.ordinary_tokens
    }

    /// The oldest ordinary job and the oldest isolated one, where there are any.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &QueuedJob<T>> {
        [&self.ordinary, &self.isolated].into_iter().filter_map(|jobs| Some(&jobs.first_key_value()?.1.job))
    }

    pub(crate) fn push(&mut self, seq: Seq, job: QueuedJob<T>) {
        let jobs = if job.isolated {
            &mut self.isolated
        } else {
            self.ordinary_tokens += job.tokens;
            &mut self.ordinary
        };
        jobs.insert(seq, Waiting { job, overtaken: 0 });
    }

    pub(crate) fn remove(&mut self, seq: Seq) -> Option<QueuedJob<T>> {
        if let Some(waiting) = self.ordinary.remove(&seq) {
            self.ordinary_tokens -= waiting.job.tokens;
            return Some(waiting.job);
        }
        self.isolated.remove(&seq).map(|waiting| waiting.job)
    }

    pub(crate) fn remove_where(&mut self, pred: &mut impl FnMut(&T) -> bool) -> Vec<(Seq, QueuedJob<T>)> {
        let ordinary = self.ordinary.extract_if(.., |_, waiting| pred(&waiting.job.payload));
        let mut removed: Vec<_> = ordinary.map(|(seq, waiting)| (seq, waiting.job)).collect();
        self.ordinary_tokens -= removed.iter().map(|(_, job)| job.tokens).sum::<usize>();
        let isolated = self.isolated.extract_if(.., |_, waiting| pred(&waiting.job.payload));
        removed.extend(isolated.map(|(seq, waiting)| (seq, waiting.job)));
        removed
    }

    /// Takes the oldest isolated job if it is the lane's turn for one: no ordinary job waits, or only such as have
    /// no right left to go before it.
    pub(crate) fn take_isolated(&mut self, max_overtakes: u32) -> Option<(Seq, QueuedJob<T>)> {
        let before = self.isolated_bound(max_overtakes);
        if self.ordinary.first_key_value().is_some_and(|(&seq, _)| seq < before) {
            return None;
        }
        self.isolated.pop_first().map(|(seq, waiting)| (seq, waiting.job))
    }

    /// Takes the next ordinary job of at most `room` tokens. `room` does not grow during a batch, so what was
    /// skipped once stays skipped.
    pub(crate) fn take_fitting(
        &mut self,
        cursor: &mut Cursor,
        room: usize,
        max_overtakes: u32,
    ) -> Option<(Seq, QueuedJob<T>)> {
        let mut found = None;
        for (&seq, waiting) in self.ordinary.range(cursor.from..self.isolated_bound(max_overtakes)) {
            if waiting.job.tokens <= room {
                found = Some(seq);
                break;
            }
            cursor.skipped += 1;
            if waiting.overtaken >= max_overtakes || cursor.skipped >= BatchLimits::LOOK_AHEAD {
                break;
            }
        }
        let seq = found?;
        cursor.from = seq + 1;
        cursor.youngest_taken = Some(seq);
        self.remove(seq).map(|job| (seq, job))
    }

    /// Ends a batch: counts it for every job that it overtook.
    pub(crate) fn finish(&mut self, cursor: Cursor) {
        let Some(youngest) = cursor.youngest_taken else { return };
        // Only skipped jobs are left before the youngest that was taken: a few, not the queue.
        for (_, waiting) in self.ordinary.range_mut(..youngest) {
            waiting.overtaken += 1;
        }
        // Only the oldest: were all counted, a crash that left many isolated jobs would block the lane with all of
        // them in a row.
        if let Some(mut oldest) = self.isolated.first_entry()
            && *oldest.key() < youngest
        {
            oldest.get_mut().overtaken += 1;
        }
    }

    /// Ordinary jobs from this arrival number on must let the oldest isolated job go first.
    fn isolated_bound(&self, max_overtakes: u32) -> Seq {
        match self.isolated.first_key_value() {
            Some((&seq, oldest)) if oldest.overtaken >= max_overtakes => seq,
            _ => Seq::MAX,
        }
    }
}
