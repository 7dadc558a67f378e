//! Deficit round robin: one queue per tenant, served in turn by what jobs cost. Pure; told nothing of time.
//!
//! Each visit adds a quantum to the tenant's deficit; jobs are taken while their cost is covered. A tenant whose queue is
//! empty is forgotten, deficit and all, so nobody saves up turns. (Shreedhar, Varghese: Efficient fair queuing using
//! deficit round robin, 1995.)
//!
//! Invariants, each held by a property test:
//! * jobs of one tenant come out in the order in which they went in, each exactly once;
//! * as long as anything waits, `pop` returns something;
//! * between two tenants that wait all the time, served cost never differs by more than a quantum and a largest job each.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// What waits, by tenant.
#[derive(Debug, Clone)]
pub(crate) struct Drr<K, T> {
    queues: FxHashMap<K, Queue<T>>,
    /// Tenants with something waiting, in the order of their turns.
    turns: VecDeque<K>,
    quantum: u64,
    rows: usize,
    cost: u64,
}

#[derive(Debug, Clone)]
struct Queue<T> {
    jobs: VecDeque<(u64, T)>,
    cost: u64,
    deficit: u64,
    /// This visit has had its quantum.
    visited: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), cost: 0, deficit: 0, visited: false }
    }
}

impl<K: Clone + Eq + Hash, T> Drr<K, T> {
    /// `quantum`: cost that a tenant may take per turn; 0 counts as 1.
    pub(crate) fn new(quantum: u64) -> Self {
        Self { queues: FxHashMap::default(), turns: VecDeque::new(), quantum: quantum.max(1), rows: 0, cost: 0 }
    }

    /// Adds a job behind all others of its tenant.
    pub(crate) fn push(&mut self, tenant: K, cost: u64, job: T) {
        let queue = self.queues.entry(tenant.clone()).or_default();
        if queue.jobs.is_empty() {
            self.turns.push_back(tenant);
        }
        queue.jobs.push_back((cost, job));
        queue.cost += cost;
        self.rows += 1;
        self.cost += cost;
    }

    /// Takes the job whose turn it is; `None` only if nothing waits.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let mut fruitless = 0;
        loop {
            let tenant = self.turns.front()?;
            let queue = self.queues.get_mut(tenant)?;
            if !queue.visited {
                queue.visited = true;
                queue.deficit += self.quantum;
            }
            match queue.jobs.front() {
                Some((cost, _)) if *cost <= queue.deficit => {
                    let (cost, job) = queue.jobs.pop_front()?;
                    queue.deficit -= cost;
                    queue.cost -= cost;
                    self.rows -= 1;
                    self.cost -= cost;
                    if queue.jobs.is_empty() {
                        self.queues.remove(tenant);
                        self.turns.pop_front();
                    }
                    return Some(job);
                }
                _ => {
                    queue.visited = false;
                    self.turns.rotate_left(1);
                    fruitless += 1;
                    if fruitless == self.turns.len() {
                        self.skip_fruitless_rounds();
                        fruitless = 0;
                    }
                }
            }
        }
    }

    /// All heads are larger than what their tenants may take: grants at once the rounds in which nobody would be served.
    fn skip_fruitless_rounds(&mut self) {
        let rounds = self.queues.values().filter_map(|queue| {
            let (cost, _) = queue.jobs.front()?;
            Some(cost.saturating_sub(queue.deficit).div_ceil(self.quantum))
        });
        let granted = rounds.min().unwrap_or(0).saturating_sub(1) * self.quantum;
        self.queues.values_mut().for_each(|queue| queue.deficit += granted);
    }

    /// Keeps the jobs that `keep` accepts; returns how many went. Looks at every job.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> usize {
        let before = self.rows;
        (self.rows, self.cost) = (0, 0);
        self.queues.retain(|_, queue| {
            queue.jobs.retain(|(_, job)| keep(job));
            queue.cost = queue.jobs.iter().map(|(cost, _)| cost).sum();
            self.rows += queue.jobs.len();
            self.cost += queue.cost;
            !queue.jobs.is_empty()
        });
        self.turns.retain(|tenant| self.queues.contains_key(tenant));
        before - self.rows
    }

    /// Whether any job of the tenant waits.
    pub(crate) fn holds(&self, tenant: &K) -> bool {
        self.queues.contains_key(tenant)
    }

    /// Jobs that wait.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// What has to be served before a job of `tenant` that came now with `own` (its request's cost) would be done: its
    /// tenant's queue, and as much of every other tenant's, but no more than is there.
    pub(crate) fn cost_before(&self, tenant: &K, own: u64) -> u64 {
        let mine = self.queues.get(tenant).map_or(0, |queue| queue.cost) + own;
        let others = self.queues.iter().filter(|(name, _)| *name != tenant);
        mine + others.map(|(_, queue)| queue.cost.min(mine + self.quantum)).sum::<u64>()
    }
}

#[cfg(test)]
#[path = "drr_tests.rs"]
mod tests;
