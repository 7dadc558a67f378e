//! Which jobs are out, who waits for them, and when their message may be acknowledged. A plain table: no I/O, told the time.
//!
//! ```text
//!            open (bundle published)            settle (reply) | withdraw (deadline, client gone)
//! Ready ───────────────────────────▶ Pending ───────────────────────────────────────────────────▶ gone
//! ```
//! A **bundle** stays until each of its jobs is gone. The last one to go releases the acknowledgement, at the most recent
//! address a worker gave. Invariants, checked by the property test: every entry belongs to an open bundle, a bundle's
//! `remaining` is the number of its entries, no job is settled twice, no bundle is released before its last job, and a
//! lane's [`Flow`] has as many rows out as there are entries of it.

use std::sync::Arc;
use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::JobId;
use forebay_shared::job::{Output, ReplyGroup, Verdict};
use rustc_hash::FxHashMap;

use super::fair::flow::Flow;
use super::gather::Gather;

/// Jobs in flight of one api.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    jobs: FxHashMap<JobId, Entry>,
    bundles: FxHashMap<u64, OpenBundle>,
    next_bundle: u64,
}

#[derive(Debug)]
struct Entry {
    gather: Arc<Gather>,
    index: usize,
    bundle: u64,
}

#[derive(Debug)]
struct OpenBundle {
    remaining: usize,
    ack: Option<String>,
    flow: Arc<Flow>,
    /// What each of its jobs is taken to cost: their mean.
    cost: u64,
    opened: Instant,
}

/// What a group of replies led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Acknowledge the message here: nobody waits for any of its jobs any more.
    pub ack: Option<String>,
    /// Replies to jobs that nobody waits for: answered before, expired or cancelled.
    pub unknown: u64,
}

impl Pending {
    /// Registers the jobs of a bundle that is about to be published in the lane of `flow`, each at the cost of `cost`;
    /// returns its number.
    pub(crate) fn open(
        &mut self,
        jobs: impl IntoIterator<Item = (JobId, Arc<Gather>, usize)>,
        flow: &Arc<Flow>,
        cost: u64,
        now: Instant,
    ) -> u64 {
        let number = self.next_bundle;
        self.next_bundle += 1;
        let mut remaining = 0;
        for (id, gather, index) in jobs {
            // A request that ended a moment ago has withdrawn its jobs already: registering one now would keep it forever.
            if !gather.is_over() {
                self.jobs.insert(id, Entry { gather, index, bundle: number });
                remaining += 1;
            }
        }
        if remaining > 0 {
            flow.sent(remaining, cost * remaining as u64);
            let flow = Arc::clone(flow);
            self.bundles.insert(number, OpenBundle { remaining, ack: None, flow, cost, opened: now });
        }
        number
    }

    /// Hands replies to who waits for them.
    pub(crate) fn settle(&mut self, group: ReplyGroup, now: Instant) -> Settled {
        let mut settled = Settled::default();
        if let Some(open) = self.bundles.get(&group.bundle) {
            open.flow.measured(now.saturating_duration_since(open.opened));
        }
        for reply in group.replies {
            match self.jobs.remove(&reply.id) {
                Some(entry) => {
                    self.leave(entry.bundle, true);
                    entry.gather.fill(entry.index, reply.outcome);
                }
                None => settled.unknown += 1,
            }
        }
        match self.bundles.get_mut(&group.bundle) {
            Some(open) if open.remaining > 0 => open.ack = Some(group.ack),
            _ => {
                self.bundles.remove(&group.bundle);
                settled.ack = Some(group.ack);
            }
        }
        settled
    }

    /// Takes back jobs whose request ended without their answer. Returns where to acknowledge bundles that are now
    /// complete, as far as a worker has told.
    pub(crate) fn withdraw(&mut self, ids: &[JobId]) -> Vec<String> {
        let mut acks = Vec::new();
        for id in ids {
            let Some(entry) = self.jobs.remove(id) else { continue };
            if self.leave(entry.bundle, false)
                && let Some(ack) = self.bundles.remove(&entry.bundle).and_then(|open| open.ack)
            {
                acks.push(ack);
            }
        }
        acks
    }

    /// Fails what is still out of these jobs, because their bundle could not be published.
    pub(crate) fn fail(&mut self, number: u64, ids: &[JobId], error: &JobError) {
        for id in ids {
            if let Some(entry) = self.jobs.remove(id) {
                self.leave(entry.bundle, false);
                entry.gather.fill(entry.index, Err(error.clone()));
            }
        }
        self.bundles.remove(&number);
    }

    /// Whether any of these jobs is still waited for.
    pub(crate) fn any(&self, ids: &[JobId]) -> bool {
        ids.iter().any(|id| self.jobs.contains_key(id))
    }

    /// Answers a worker that was handed a job a second time.
    pub(crate) fn verdict(&self, id: &JobId) -> Verdict {
        if self.jobs.contains_key(id) { Verdict::Wanted } else { Verdict::Done }
    }

    /// One job of the bundle is gone; true when it was the last.
    fn leave(&mut self, bundle: u64, answered: bool) -> bool {
        match self.bundles.get_mut(&bundle) {
            Some(open) => {
                open.flow.returned(open.cost, answered);
                open.remaining = open.remaining.saturating_sub(1);
                open.remaining == 0
            }
            None => false,
        }
    }

    #[cfg(test)]
    fn check(&self) {
        let mut counted: FxHashMap<u64, usize> = FxHashMap::default();
        for entry in self.jobs.values() {
            *counted.entry(entry.bundle).or_default() += 1;
        }
        for (number, open) in &self.bundles {
            assert_eq!(open.remaining, counted.remove(number).unwrap_or(0), "bundle {number}");
        }
        assert!(counted.is_empty(), "jobs without a bundle: {counted:?}");
    }
}

/// A row's answer.
pub(crate) type Outcome = Result<Output, JobError>;

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
