//! A batcher's promises, written down the slow and obvious way: it does not predict a batch, it judges one.

use std::collections::HashSet;
use std::time::Instant;

use forebay_sched::{Batch, BatchLimits, CloseReason, Lane, QueuedJob};

use super::Id;

/// A job that was pushed and has not come out.
#[derive(Debug)]
struct Known {
    job: QueuedJob<Id>,
    /// Batches in which younger ordinary jobs of the lane left; of isolated jobs, only the lane's oldest is counted.
    overtaken: u32,
    /// Batches that the lane was in since the push.
    lane_batches: u32,
    /// Most that `lane_batches` may be when the job leaves.
    bound: u32,
}

/// All jobs held, in order of arrival.
#[derive(Debug)]
pub(crate) struct Model {
    /// `max_tokens` as narrowed.
    limits: BatchLimits,
    widest: usize,
    /// Most tokens of a job so far.
    longest: usize,
    known: Vec<Known>,
}

impl Model {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self { widest: limits.max_tokens, limits, longest: 0, known: Vec::new() }
    }

    pub(crate) fn push(&mut self, job: QueuedJob<Id>) {
        self.longest = self.longest.max(job.tokens);
        self.limits.max_tokens = self.limits.max_tokens.max(job.tokens);
        let older = self.known.iter().filter(|known| known.job.lane == job.lane).count() as u32;
        let bound = (older + 1) * (self.limits.max_overtakes + 1);
        self.known.push(Known { job, overtaken: 0, lane_batches: 0, bound });
    }

    pub(crate) fn narrow(&mut self, max_tokens: usize) {
        self.limits.max_tokens = max_tokens.max(self.longest).max(1).min(self.widest);
    }

    /// A batch waits that cannot grow.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        let ordinary = || self.live(now).filter(|known| !known.job.isolated);
        ordinary().count() >= self.limits.max_rows
            || ordinary().map(|known| known.job.tokens).sum::<usize>() >= self.limits.max_tokens
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn tokens(&self) -> usize {
        self.known.iter().map(|known| known.job.tokens).sum()
    }

    /// `out` are exactly the jobs that `pred` accepts. They are gone afterwards.
    pub(crate) fn check_removed(&mut self, out: &[QueuedJob<Id>], pred: impl Fn(&QueuedJob<Id>) -> bool) {
        let mut expected: Vec<_> = self.known.extract_if(.., |known| pred(&known.job)).map(|k| k.job).collect();
        let mut out = out.to_vec();
        expected.sort_by_key(|job| job.payload);
        out.sort_by_key(|job| job.payload);
        assert_eq!(out, expected);
    }

    /// No batch at `now` is right only if nothing live is due.
    pub(crate) fn check_idle(&self, now: Instant) {
        let live: Vec<_> = self.known.iter().map(|known| &known.job).filter(|job| job.deadline > now).collect();
        if live.is_empty() {
            return;
        }
        assert!(!self.limits.max_delay.is_zero() && live.iter().all(|job| !job.isolated), "idle: {live:?}");
        assert!(live.len() < self.limits.max_rows, "full of rows");
        assert!(live.iter().map(|job| job.tokens).sum::<usize>() < self.limits.max_tokens, "full of tokens");
        assert!(live.iter().all(|job| self.leaves_at(job).0 > now), "somebody waited too long");
    }

    pub(crate) fn check_batch(&mut self, batch: &Batch<Id>, now: Instant) {
        let ids: HashSet<Id> = batch.jobs.iter().map(|job| job.payload).collect();
        assert_eq!(ids.len(), batch.jobs.len(), "a job twice in a batch");
        let taken: Vec<Known> = self.known.extract_if(.., |known| ids.contains(&known.job.payload)).collect();
        assert_eq!(taken.len(), ids.len(), "a job that does not wait");
        assert!(taken.iter().all(|known| batch.jobs.contains(&known.job)), "a job that was changed");
        assert!(taken.iter().all(|known| known.job.deadline > now), "an expired job was run");
        assert!(!taken.is_empty() && taken.len() <= self.limits.max_rows, "rows");
        assert_eq!(batch.tokens, taken.iter().map(|known| known.job.tokens).sum::<usize>());
        assert!(batch.tokens <= self.limits.max_tokens, "tokens");

        if taken.iter().any(|known| known.job.isolated) {
            assert_eq!((taken.len(), batch.reason), (1, CloseReason::Isolated));
            self.check_isolated(&taken[0], now);
        } else {
            let expected = self.expected_reason(batch, now);
            assert_eq!(batch.reason, expected);
            self.check_filled(batch, now);
        }
        self.count(batch, now);
    }

    /// Last in its lane, unless it was overtaken to the bound; never before an older job.
    fn check_isolated(&self, isolated: &Known, now: Instant) {
        let in_lane: Vec<_> = self.live(now).filter(|known| known.job.lane == isolated.job.lane).collect();
        assert!(in_lane.iter().all(|known| known.job.payload > isolated.job.payload), "before an older one");
        let last = in_lane.iter().all(|known| known.job.isolated);
        assert!(last || isolated.overtaken == self.limits.max_overtakes, "before its turn");
    }

    fn expected_reason(&self, batch: &Batch<Id>, now: Instant) -> CloseReason {
        if batch.jobs.len() == self.limits.max_rows {
            CloseReason::Full
        } else if batch.tokens == self.limits.max_tokens || self.free_to_go(now).next().is_some() {
            CloseReason::Tokens
        } else if self.limits.max_delay.is_zero() || self.live(now).any(|known| known.job.isolated) {
            CloseReason::DeviceIdle
        } else {
            let first = batch.jobs.iter().map(|job| (self.leaves_at(job), job.payload));
            let ((at, reason), _) = first.min_by_key(|&((at, _), id)| (at, id)).expect("not empty");
            assert!(at <= now, "left without a reason");
            reason
        }
    }

    /// Nothing stayed behind that fits, unless it would overtake a job that was overtaken to the bound, or too
    /// many at once.
    fn check_filled(&self, batch: &Batch<Id>, now: Instant) {
        let room = self.limits.max_tokens - batch.tokens;
        if batch.jobs.len() == self.limits.max_rows || room == 0 {
            return;
        }
        for lane in Lane::ALL {
            let in_lane = self.free_to_go(now).filter(|known| known.job.lane == lane);
            for known in in_lane.take(BatchLimits::LOOK_AHEAD) {
                assert!(known.job.tokens > room, "room for {known:?}");
                if known.overtaken == self.limits.max_overtakes {
                    break;
                }
            }
        }
    }

    /// Counts the batch for every job of its lanes that stays, and checks the bounds.
    fn count(&mut self, batch: &Batch<Id>, now: Instant) {
        for lane in Lane::ALL {
            let in_lane = || batch.jobs.iter().filter(|job| job.lane == lane);
            assert!(in_lane().map(|job| job.payload).is_sorted(), "order in a lane");
            let Some(youngest) = in_lane().map(|job| job.payload).max() else { continue };
            let isolated = in_lane().any(|job| job.isolated);
            let stay = self.known.iter_mut().filter(|known| known.job.lane == lane && known.job.deadline > now);
            let mut oldest_isolated = true;
            for known in stay {
                known.lane_batches += 1;
                assert!(known.lane_batches < known.bound, "starved: {known:?}");
                let counted = !known.job.isolated || std::mem::replace(&mut oldest_isolated, false);
                if counted && !isolated && known.job.payload < youngest {
                    known.overtaken += 1;
                    assert!(known.overtaken <= self.limits.max_overtakes, "overtaken too often: {known:?}");
                }
            }
        }
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| known.job.deadline > now)
    }

    /// Ordinary jobs that need not let an older isolated one go first.
    fn free_to_go(&self, now: Instant) -> impl Iterator<Item = &Known> {
        self.live(now).filter(move |known| {
            let held = |other: &Known| {
                other.job.isolated
                    && other.job.lane == known.job.lane
                    && other.job.payload < known.job.payload
                    && other.overtaken == self.limits.max_overtakes
            };
            !known.job.isolated && !self.live(now).any(held)
        })
    }

    fn leaves_at(&self, job: &QueuedJob<Id>) -> (Instant, CloseReason) {
        let patience = job.queued_at + self.limits.max_delay;
        let in_time = (job.deadline - self.limits.deadline_margin).max(job.queued_at);
        if patience <= in_time { (patience, CloseReason::MaxDelay) } else { (in_time, CloseReason::Deadline) }
    }
}
