//! The three lanes and whose turn it is: stride scheduling, row by row.
//!
//! Each lane has a `pass`, the work it was charged divided by its weight. The waiting lane with the smallest pass is
//! next, the higher lane where passes are equal. A lane that had nothing waiting starts level with the smallest, so
//! nobody saves up turns, and a high job that arrives now goes now. Under contention every lane so gets its weight's
//! share; what a lane leaves unused goes to the others.

use std::time::Instant;

use crate::lane_queue::{Cursor, LaneQueue, Seq};
use crate::timers::Timers;
use crate::{Batch, BatchLimits, CloseReason, Lane, QueuedJob};

#[derive(Debug, Clone)]
pub(crate) struct Lanes<T> {
    queues: [LaneQueue<T>; 3],
    pass: [u128; 3],
    /// What one unit of charge adds to `pass`: the product of the other lanes' weights, so the division is exact.
    stride: [u128; 3],
}

impl<T> Lanes<T> {
    pub(crate) fn new(limits: &BatchLimits) -> Self {
        let weight = |lane| u128::from(limits.lane_weights.of(lane));
        let product: u128 = Lane::ALL.into_iter().map(weight).product();
        Self {
            queues: [LaneQueue::new(), LaneQueue::new(), LaneQueue::new()],
            pass: [0; 3],
            stride: Lane::ALL.map(|lane| product / weight(lane)),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.ordinary_rows() + self.isolated_rows()
    }

    pub(crate) fn ordinary_rows(&self) -> usize {
        self.queues.iter().map(LaneQueue::ordinary_rows).sum()
    }

    pub(crate) fn isolated_rows(&self) -> usize {
        self.queues.iter().map(LaneQueue::isolated_rows).sum()
    }

    pub(crate) fn ordinary_tokens(&self) -> usize {
        self.queues.iter().map(LaneQueue::ordinary_tokens).sum()
    }

    /// When the longest waiting of the lanes' first jobs was queued.
    pub(crate) fn oldest_queued_at(&self) -> Option<Instant> {
        self.queues.iter().flat_map(LaneQueue::heads).map(|job| job.queued_at).min()
    }

    pub(crate) fn push(&mut self, seq: Seq, job: QueuedJob<T>) {
        let lane = job.lane.index();
        if self.queues[lane].is_empty() {
            match self.turn(&[Cursor::default(); 3]) {
                Some(least) => self.pass[lane] = self.pass[lane].max(self.pass[least]),
                None => self.pass = [0; 3],
            }
        }
        self.queues[lane].push(seq, job);
    }

    pub(crate) fn remove(&mut self, lane: Lane, seq: Seq) -> Option<QueuedJob<T>> {
        self.queues[lane.index()].remove(seq)
    }

    pub(crate) fn remove_where(&mut self, pred: &mut impl FnMut(&T) -> bool) -> Vec<(Seq, QueuedJob<T>)> {
        self.queues.iter_mut().flat_map(|queue| queue.remove_where(pred)).collect()
    }

    /// Takes the next batch and forgets its timers. `otherwise` is its reason if no limit closes it. `None` only if
    /// nothing waits: the first job chosen always fits.
    pub(crate) fn take_batch(
        &mut self,
        limits: &BatchLimits,
        timers: &mut Timers,
        otherwise: CloseReason,
    ) -> Option<Batch<T>> {
        let first = self.turn(&[Cursor::default(); 3])?;
        if let Some((seq, job)) = self.queues[first].take_isolated(limits.max_overtakes) {
            timers.remove(seq, &job, limits);
            // It has the device to itself, so it costs its lane a whole batch.
            self.pass[first] += self.stride[first] * limits.max_tokens as u128;
            return Some(Batch { tokens: job.tokens, jobs: vec![job], reason: CloseReason::Isolated });
        }

        let (mut jobs, mut room, mut cursors) = (Vec::new(), limits.max_tokens, [Cursor::default(); 3]);
        while jobs.len() < limits.max_rows && room > 0 {
            let Some(lane) = self.turn(&cursors) else { break };
            // A lane whose turn it is but that has nothing for this batch keeps its pass, and so opens the next.
            let Some((seq, job)) = self.queues[lane].take_fitting(&mut cursors[lane], room, limits.max_overtakes)
            else {
                cursors[lane].closed = true;
                continue;
            };
            timers.remove(seq, &job, limits);
            self.pass[lane] += self.stride[lane] * limits.charge(job.tokens) as u128;
            room -= job.tokens;
            jobs.push(job);
        }
        for (queue, cursor) in self.queues.iter_mut().zip(cursors) {
            queue.finish(cursor);
        }
        self.forgive(limits);
        let reason = if jobs.len() == limits.max_rows {
            CloseReason::Full
        } else if room == 0 || cursors.iter().any(Cursor::lacked_room) {
            CloseReason::Tokens
        } else {
            otherwise
        };
        Some(Batch { jobs, tokens: limits.max_tokens - room, reason })
    }

    /// Keeps every lane within one full batch of the smallest pass. A lane gets further ahead only by filling room that
    /// the lane whose turn it was could not use; held against it, that would later starve it without bound.
    fn forgive(&mut self, limits: &BatchLimits) {
        if let Some(least) = self.turn(&[Cursor::default(); 3]) {
            let floor = self.pass[least];
            for (pass, stride) in self.pass.iter_mut().zip(self.stride) {
                *pass = (*pass).min(floor + stride * limits.max_tokens as u128);
            }
        }
    }

    /// The lane to serve next: of those that wait and are not closed, the one with the smallest pass.
    fn turn(&self, cursors: &[Cursor; 3]) -> Option<usize> {
        (0..Lane::ALL.len())
            .filter(|&lane| !cursors[lane].closed && !self.queues[lane].is_empty())
            .min_by_key(|&lane| self.pass[lane])
    }
}
