//! When something happens to a waiting job by time alone: it expires, or it stops waiting for company.
//!
//! Ordered maps, and not a heap with lazy deletion: most jobs leave long before their deadline, so a heap would fill
//! with entries of jobs that are gone.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::lane_queue::Seq;
use crate::{BatchLimits, CloseReason, Lane, QueuedJob};

/// Invariant: `expiries` has one entry for every waiting job; `leaves` one for every ordinary waiting job if
/// `max_delay` is above zero, else none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    expiries: BTreeMap<(Instant, Seq), Lane>,
    leaves: BTreeMap<(Instant, Seq), CloseReason>,
}

impl Timers {
    pub(crate) fn add<T>(&mut self, seq: Seq, job: &QueuedJob<T>, limits: &BatchLimits) {
        self.expiries.insert((job.deadline, seq), job.lane);
        if let Some((at, reason)) = leave(job, limits) {
            self.leaves.insert((at, seq), reason);
        }
    }

    pub(crate) fn remove<T>(&mut self, seq: Seq, job: &QueuedJob<T>, limits: &BatchLimits) {
        self.expiries.remove(&(job.deadline, seq));
        if let Some((at, _)) = leave(job, limits) {
            self.leaves.remove(&(at, seq));
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Forgets and returns the expiry of the job with the earliest deadline, if that is not after `now`.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(Seq, Lane)> {
        let first = self.expiries.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, seq), lane) = first.remove_entry();
        Some((seq, lane))
    }

    /// When the first job stops waiting for company, and whether its patience or its deadline is why.
    pub(crate) fn next_leave(&self) -> Option<(Instant, CloseReason)> {
        self.leaves.first_key_value().map(|(&(at, _), &reason)| (at, reason))
    }
}

/// When a job stops waiting for company; `None` if it never waits for any.
fn leave<T>(job: &QueuedJob<T>, limits: &BatchLimits) -> Option<(Instant, CloseReason)> {
    if job.isolated || limits.max_delay.is_zero() {
        return None;
    }
    let in_time = job.deadline.checked_sub(limits.deadline_margin).unwrap_or(job.queued_at).max(job.queued_at);
    match job.queued_at.checked_add(limits.max_delay) {
        Some(at) if at <= in_time => Some((at, CloseReason::MaxDelay)),
        _ => Some((in_time, CloseReason::Deadline)),
    }
}
