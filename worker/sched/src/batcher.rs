//! Batches for encoders: what runs together, when, and why (step 5 of the data path).
//!
//! ```text
//!             +--poll--> in a batch
//! push--> waiting --remove_where, drain--> given back
//!   |         +--deadline <= now--> expired --take_expired--> answered as such
//!   +--> rejected: larger than any batch
//! ```
//!
//! *Batch while the device is busy.* The driver calls [`Batcher::poll`] only when the device is free, or about to be
//! ([`crate::Pipeline`]); before that it may take what cannot grow ([`Batcher::poll_full`]). Whatever waits then goes at once, as much as the limits allow; while the device works, the next batch forms by itself. A
//! `max_delay` above zero makes a batch that is not full wait for company, until its first job has waited that long
//! or would miss its deadline. A waiting isolated job ends that wait for all: the device has work anyway.
//!
//! *Who goes first.* Lanes share by weight, high first ([`crate::LaneWeights`]). Within a lane the oldest goes first;
//! one that does not fit into what is left of a batch is looked past, a bounded number of times. Isolated jobs run
//! alone, after the ordinary jobs of their lane, and are overtaken by younger ones a bounded number of times too.
//!
//! Invariants, each held by a property test:
//! * every job that was pushed comes out exactly once;
//! * a batch holds at most `max_tokens` tokens and `max_rows` rows, is never empty, and holds no expired job;
//! * an isolated job is alone in its batch, and its batch is the only kind closed as `Isolated`;
//! * in at most `max_overtakes` batches do younger ordinary jobs of its lane leave before an ordinary job, or before
//!   the oldest isolated job; an isolated job never leaves before an older ordinary one;
//! * a lane with waiting jobs is in one of any `starvation_bound(lane) + 1` batches in a row, unless jobs are taken back
//!   or expire; a job that has `n` older ones in its lane is in one of the next `(n + 1) × (max_overtakes + 1)` batches
//!   that its lane is in;
//! * [`Batcher::poll_full`] returns a batch only if a full one waits, and nothing is full without a push;
//! * before [`Batcher::next_deadline`] nothing happens without a push; at it, something does.
//!
//! What it does not do: it reads no clock; it does not reorder a lane by deadline, as jobs of one lane mostly have
//! the same time-out, and where they differ the bounds above would be lost; it does not estimate how long a batch
//! runs; it does not bound how much waits (the intake takes in only what fits); it does not know of several models
//! (one batcher each).

use std::time::Instant;

use crate::lane_queue::Seq;
use crate::lanes::Lanes;
use crate::timers::Timers;
use crate::{Batch, BatchLimits, CloseReason, QueuedJob, Rejected};

/// The waiting jobs of one model, and the choice of which run next.
#[derive(Debug, Clone)]
pub struct Batcher<T> {
    /// `max_tokens` as narrowed.
    limits: BatchLimits,
    /// As configured: no job of more tokens is taken.
    widest: usize,
    /// Most tokens of a job so far.
    longest: usize,
    lanes: Lanes<T>,
    timers: Timers,
    /// Found expired and not yet taken. Such a job is in neither `lanes` nor `timers`.
    expired: Vec<QueuedJob<T>>,
    /// Of all jobs held, in `lanes` or `expired`.
    tokens: usize,
    next_seq: Seq,
}

impl<T> Batcher<T> {
    /// Limits that were not validated do no harm: a zero that would keep a job for ever counts as one.
    pub fn new(limits: BatchLimits) -> Self {
        let limits = limits.raised();
        Self {
            lanes: Lanes::new(&limits),
            timers: Timers::default(),
            expired: Vec::new(),
            tokens: 0,
            next_seq: 0,
            widest: limits.max_tokens,
            longest: 0,
            limits,
        }
    }

    /// Adds a job behind all others of its lane.
    ///
    /// # Errors
    /// [`Rejected::TooLarge`], with the job, if it has more tokens than a batch may have.
    pub fn push(&mut self, job: QueuedJob<T>) -> Result<(), Rejected<T>> {
        if job.tokens > self.widest {
            return Err(Rejected::TooLarge { job, max_tokens: self.widest });
        }
        self.longest = self.longest.max(job.tokens);
        self.limits.max_tokens = self.limits.max_tokens.max(job.tokens);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.tokens += job.tokens;
        self.timers.add(seq, &job, &self.limits);
        self.lanes.push(seq, job);
        Ok(())
    }

    /// Earliest instant at which [`Self::poll`] or [`Self::take_expired`] returns something without another push; an
    /// instant that has passed means now. `None` if nothing waits.
    ///
    /// While the device is busy, when `poll` is not called, wait for [`Self::next_expiry`] instead.
    pub fn next_deadline(&self) -> Option<Instant> {
        let leave = if self.goes_at_once() {
            self.lanes.oldest_queued_at()
        } else {
            self.timers.next_leave().map(|(at, _)| at)
        };
        leave.into_iter().chain(self.next_expiry()).min()
    }

    /// Earliest instant at which [`Self::take_expired`] returns something. `None` if nothing waits.
    pub fn next_expiry(&self) -> Option<Instant> {
        let found = self.expired.first().map(|job| job.deadline);
        found.into_iter().chain(self.timers.next_expiry()).min()
    }

    /// Removes and returns the next batch, if one is due at `now`. Call it only when the device is free.
    ///
    /// Expired jobs are set aside for [`Self::take_expired`], never returned.
    pub fn poll(&mut self, now: Instant) -> Option<Batch<T>> {
        self.set_expired_aside(now);
        let reason = if self.goes_at_once() {
            CloseReason::DeviceIdle
        } else {
            self.timers.next_leave().filter(|(at, _)| *at <= now)?.1
        };
        let batch = self.lanes.take_batch(&self.limits, &mut self.timers, reason)?;
        self.tokens -= batch.tokens;
        Some(batch)
    }

    /// As [`Self::poll`], but only if a batch waits that cannot grow: for a device that is busy. Where an isolated job is
    /// next in line, it is that job's batch.
    pub fn poll_full(&mut self, now: Instant) -> Option<Batch<T>> {
        self.set_expired_aside(now);
        if self.is_full() { self.poll(now) } else { None }
    }

    /// From now on a batch holds at most so many tokens, within what was configured; as many as the longest job so far, at
    /// least.
    pub fn narrow(&mut self, max_tokens: usize) {
        self.limits.max_tokens = max_tokens.max(self.longest).clamp(1, self.widest);
    }

    /// Removes and returns the jobs whose deadline is not after `now`.
    pub fn take_expired(&mut self, now: Instant) -> Vec<QueuedJob<T>> {
        self.set_expired_aside(now);
        self.tokens -= tokens(&self.expired);
        std::mem::take(&mut self.expired)
    }

    /// Removes and returns the jobs whose payload `pred` accepts: cancelled, or given back. Looks at every job.
    pub fn remove_where(&mut self, mut pred: impl FnMut(&T) -> bool) -> Vec<QueuedJob<T>> {
        let mut removed: Vec<_> = self.expired.extract_if(.., |job| pred(&job.payload)).collect();
        for (seq, job) in self.lanes.remove_where(&mut pred) {
            self.timers.remove(seq, &job, &self.limits);
            removed.push(job);
        }
        self.tokens -= tokens(&removed);
        removed
    }

    /// Removes and returns all jobs, expired ones too.
    pub fn drain(&mut self) -> Vec<QueuedJob<T>> {
        self.remove_where(|_| true)
    }

    /// Jobs that were pushed and have not come out.
    pub fn len(&self) -> usize {
        self.lanes.rows() + self.expired.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of the jobs that [`Self::len`] counts.
    pub fn waiting_tokens(&self) -> usize {
        self.tokens
    }

    /// Whether waiting for company is over, or never was, at any time from now on.
    fn goes_at_once(&self) -> bool {
        self.limits.max_delay.is_zero() || self.lanes.isolated_rows() > 0 || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.lanes.ordinary_rows() >= self.limits.max_rows || self.lanes.ordinary_tokens() >= self.limits.max_tokens
    }

    fn set_expired_aside(&mut self, now: Instant) {
        while let Some((seq, lane)) = self.timers.pop_expired(now) {
            if let Some(job) = self.lanes.remove(lane, seq) {
                self.timers.remove(seq, &job, &self.limits);
                self.expired.push(job);
            }
        }
    }
}

fn tokens<T>(jobs: &[QueuedJob<T>]) -> usize {
    jobs.iter().map(|job| job.tokens).sum()
}
