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

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::JobId;
use forebay_shared::job::{Output, Reply, ReplyGroup, Verdict};
use rustc_hash::{FxHashMap, FxHashSet};

use super::fair::express::Ticket;
use super::fair::flow::Flow;
use super::gather::Gather;

/// How many withdrawn jobs are remembered: a worker that asks later is told that they are done, which leads to the same.
const WITHDRAWN_KEPT: usize = 16_384;

/// Jobs in flight of one api.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    jobs: FxHashMap<JobId, Entry>,
    bundles: FxHashMap<u64, OpenBundle>,
    next_bundle: u64,
    /// The last jobs that were withdrawn, oldest first, and the same by id.
    withdrawn: VecDeque<JobId>,
    is_withdrawn: FxHashSet<JobId>,
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
    /// Those of its jobs that passed by others, until all of them are gone.
    tickets: Vec<Ticket>,
}

/// What a group of replies led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Acknowledge the message here: nobody waits for any of its jobs any more.
    pub ack: Option<String>,
    /// And these: the last of their jobs were answered by an earlier message.
    pub more_acks: Vec<String>,
    /// Replies to jobs that nobody waits for: answered before, expired or cancelled.
    pub unknown: u64,
    /// Those of them that say that a job was not run: no work was done in vain.
    pub spared: u64,
}

/// What withdrawing jobs led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawal {
    /// Acknowledge these messages: nobody waits for any of their jobs any more.
    pub acks: Vec<String>,
    /// Jobs that are out, each with the number of its bundle: workers should hear that they are not wanted.
    pub jobs: Vec<(u64, JobId)>,
}

impl Pending {
    /// Registers the jobs of a bundle that is about to be published in the lane of `flow`, each at the cost of `cost`;
    /// returns its number.
    pub(crate) fn open(
        &mut self,
        jobs: impl IntoIterator<Item = (JobId, Arc<Gather>, usize)>,
        flow: &Arc<Flow>,
        cost: u64,
        tickets: Vec<Ticket>,
        now: Instant,
    ) -> u64 {
        let number = self.next_bundle;
        self.next_bundle += 1;
        let mut remaining = 0;
        for (id, gather, index) in jobs {
            // A request that ended a moment ago has withdrawn its jobs already: registering one now would keep it forever.
            if gather.is_over() {
                continue;
            }
            // The same job submitted anew while it was still out: the earlier submission has no claim to it any more.
            match self.jobs.insert(id, Entry { gather, index, bundle: number }) {
                Some(earlier) if earlier.bundle != number => {
                    let _not_acknowledged = self.leave(earlier.bundle, false);
                    earlier.gather.fill(earlier.index, Err(JobError::Internal));
                    remaining += 1;
                }
                Some(_) => {}
                None => remaining += 1,
            }
        }
        if remaining > 0 {
            flow.sent(remaining, cost * remaining as u64);
            let flow = Arc::clone(flow);
            self.bundles.insert(number, OpenBundle { remaining, ack: None, flow, cost, opened: now, tickets });
        }
        number
    }

    /// Hands replies to who waits for them.
    pub(crate) fn settle(&mut self, group: ReplyGroup, now: Instant) -> Settled {
        let mut settled = Settled::default();
        // What was not run says nothing about how long work takes.
        let ran = group.replies.iter().any(|reply| !is_not_run(reply));
        // Nor does what did not wait for its turn.
        if let Some(open) = self.bundles.get(&group.bundle).filter(|open| ran && open.tickets.is_empty()) {
            open.flow.measured(now.saturating_duration_since(open.opened));
        }
        for reply in group.replies {
            let not_run = is_not_run(&reply);
            // What was submitted anew under the same id is not meant by the end of its earlier life.
            let meant = |entry: &Entry| !not_run || entry.bundle == group.bundle;
            if self.jobs.get(&reply.id).is_some_and(meant)
                && let Some(entry) = self.jobs.remove(&reply.id)
            {
                let released = self.leave(entry.bundle, !not_run);
                settled.more_acks.extend(released.filter(|_| entry.bundle != group.bundle));
                entry.gather.fill(entry.index, reply.outcome);
            } else {
                settled.unknown += 1;
                settled.spared += u64::from(not_run);
            }
        }
        match self.bundles.get_mut(&group.bundle) {
            Some(open) => open.ack = Some(group.ack),
            None => settled.ack = Some(group.ack),
        }
        settled
    }

    /// Takes back jobs whose request ended without their answer.
    pub(crate) fn withdraw(&mut self, ids: &[JobId]) -> Withdrawal {
        let mut withdrawal = Withdrawal::default();
        for id in ids {
            let Some(entry) = self.jobs.remove(id) else { continue };
            self.remember(*id);
            withdrawal.jobs.push((entry.bundle, *id));
            withdrawal.acks.extend(self.leave(entry.bundle, false));
        }
        withdrawal
    }

    fn remember(&mut self, id: JobId) {
        if self.is_withdrawn.insert(id) {
            self.withdrawn.push_back(id);
        }
        if self.withdrawn.len() > WITHDRAWN_KEPT
            && let Some(oldest) = self.withdrawn.pop_front()
        {
            self.is_withdrawn.remove(&oldest);
        }
    }

    /// Fails what is still out of these jobs, because their bundle could not be published.
    pub(crate) fn fail(&mut self, number: u64, ids: &[JobId], error: &JobError) {
        for id in ids {
            // A job that was submitted anew is out in another bundle.
            if self.jobs.get(id).is_some_and(|entry| entry.bundle == number)
                && let Some(entry) = self.jobs.remove(id)
            {
                self.remember(*id);
                self.leave(entry.bundle, false);
                entry.gather.fill(entry.index, Err(error.clone()));
            }
        }
        self.bundles.remove(&number);
    }

    /// Whether any of these jobs is still waited for, out in this bundle.
    pub(crate) fn any(&self, number: u64, ids: &[JobId]) -> bool {
        ids.iter().any(|id| self.jobs.get(id).is_some_and(|entry| entry.bundle == number))
    }

    /// Answers a worker that was handed a job a second time.
    pub(crate) fn verdict(&self, id: &JobId) -> Verdict {
        if self.jobs.contains_key(id) {
            Verdict::Wanted
        } else if self.is_withdrawn.contains(id) {
            Verdict::Cancelled
        } else {
            Verdict::Done
        }
    }

    /// One job of the bundle is gone, and with the last the bundle; returns where to acknowledge it then, if a worker has said
    /// so.
    fn leave(&mut self, bundle: u64, answered: bool) -> Option<String> {
        let open = self.bundles.get_mut(&bundle)?;
        open.flow.returned(open.cost, answered);
        open.remaining = open.remaining.saturating_sub(1);
        if open.remaining > 0 {
            return None;
        }
        self.bundles.remove(&bundle)?.ack
    }

    #[cfg(test)]
    fn check(&self) {
        let mut counted: FxHashMap<u64, usize> = FxHashMap::default();
        for entry in self.jobs.values() {
            *counted.entry(entry.bundle).or_default() += 1;
        }
        for (number, open) in &self.bundles {
            assert_ne!(open.remaining, 0, "bundle {number} is kept for nothing");
            assert_eq!(open.remaining, counted.remove(number).unwrap_or(0), "bundle {number}");
        }
        assert!(counted.is_empty(), "jobs without a bundle: {counted:?}");
    }
}

/// A worker says that it has not run the job.
fn is_not_run(reply: &Reply) -> bool {
    matches!(reply.outcome, Err(JobError::Cancelled | JobError::DeadlineExceeded))
}

/// A row's answer.
pub(crate) type Outcome = Result<Output, JobError>;

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
