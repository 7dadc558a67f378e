//! What one lane of one model has out and holds back in this api: shared by its publisher, the table of pending jobs and
//! admission.
//!
//! Counts are atomics and the queue is only locked when something is held back, so that a lane without a backlog costs its
//! jobs nothing but two additions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use forebay_shared::ids::TenantName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::drr::Drr;
use super::express::Express;
use super::window::low_water;
use crate::dispatch::Ready;
use crate::dispatch::estimate::{Answered, Drain, Unreachable};

/// Tokens that a tenant may take per turn: a few short inputs.
pub(crate) const QUANTUM_TOKENS: u64 = 64;
/// One row in so many of the window may be out past the backlog.
const EXPRESS_SHARE: usize = 4;
/// Withdrawn jobs among those held back are removed when they may be more than one in so many.
const SWEEP_SHARE: usize = 8;
const SWEEP_AT_LEAST: usize = 64;

/// One lane of one model.
#[derive(Debug)]
pub(crate) struct Flow {
    out_rows: AtomicUsize,
    out_cost: AtomicU64,
    answered_rows: AtomicU64,
    answered_cost: AtomicU64,
    /// Microseconds from a bundle's publish to an answer of it, smoothed; 0 = none yet.
    round_trip_us: AtomicU64,
    /// The publisher wants to be woken when less than this is out; 0 = it holds nothing back.
    wake_below: AtomicUsize,
    room: Notify,
    held_rows: AtomicUsize,
    held: Mutex<Held>,
    express: Arc<Express>,
}

/// What is held back, and how fast it drains.
#[derive(Debug)]
struct Held {
    queue: Drr<TenantName, Ready>,
    /// Jobs that were withdrawn since the last sweep; some of them may be in the queue.
    withdrawn: usize,
    drain: Drain,
}

impl Default for Flow {
    fn default() -> Self {
        let held = Held { queue: Drr::new(QUANTUM_TOKENS), withdrawn: 0, drain: Drain::default() };
        Self {
            out_rows: AtomicUsize::new(0),
            out_cost: AtomicU64::new(0),
            answered_rows: AtomicU64::new(0),
            answered_cost: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
            wake_below: AtomicUsize::new(0),
            room: Notify::new(),
            held_rows: AtomicUsize::new(0),
            held: Mutex::new(held),
            express: Arc::default(),
        }
    }
}

impl Flow {
    /// Rows that are published and neither answered nor withdrawn.
    pub(crate) fn out_rows(&self) -> usize {
        self.out_rows.load(SeqCst)
    }

    /// Rows that are held back.
    pub(crate) fn held_rows(&self) -> usize {
        self.held_rows.load(SeqCst)
    }

    /// Jobs go out.
    pub(crate) fn sent(&self, rows: usize, cost: u64) {
        self.out_rows.fetch_add(rows, SeqCst);
        self.out_cost.fetch_add(cost, SeqCst);
    }

    /// One job is no longer out.
    pub(crate) fn returned(&self, cost: u64, answered: bool) {
        if answered {
            self.answered_rows.fetch_add(1, SeqCst);
            self.answered_cost.fetch_add(cost, SeqCst);
        }
        self.out_cost.fetch_sub(cost, SeqCst);
        let left = self.out_rows.fetch_sub(1, SeqCst) - 1;
        if left < self.wake_below.load(SeqCst) {
            self.room.notify_one();
        }
    }

    /// A bundle was answered, this long after it was published.
    pub(crate) fn measured(&self, round_trip: Duration) {
        let new = round_trip.as_micros() as u64;
        let smoothed = match self.round_trip_us.load(SeqCst) {
            0 => new,
            // Down fast and up slowly: it is used to refuse, and after a stall the next answers put it right.
            old if new < old => u64::midpoint(old, new),
            old => (old * 7 + new) / 8,
        };
        self.round_trip_us.store(smoothed.max(1), SeqCst);
    }

    /// How long what is published now will take; zero while nothing is out that could correct it.
    pub(crate) fn round_trip(&self) -> Duration {
        if self.out_rows() == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(self.round_trip_us.load(SeqCst))
    }

    /// Rows per second in this lane while it was limited.
    pub(crate) fn drained_per_second(&self) -> Option<f64> {
        self.held.lock().drain.rows_per_second()
    }

    /// Takes out of `jobs` those whose tenants ask for less than their share: none of theirs is held back, and little of
    /// theirs is out. Each gets its ticket.
    pub(crate) fn let_pass(&self, jobs: &mut Vec<Ready>, window: usize) -> Vec<Ready> {
        let held = self.held.lock();
        let mut passing = Vec::new();
        for mut ready in std::mem::take(jobs) {
            let tenant = &ready.job.tenant;
            if !held.queue.holds(tenant) {
                ready.ticket = self.express.admit(tenant, ready.cost(), window / EXPRESS_SHARE);
            }
            if ready.ticket.is_some() { passing.push(ready) } else { jobs.push(ready) }
        }
        passing
    }

    /// Puts jobs behind those of their tenant.
    pub(crate) fn hold_back(&self, jobs: impl IntoIterator<Item = Ready>) {
        let mut held = self.held.lock();
        for ready in jobs {
            held.queue.push(ready.job.tenant.clone(), ready.cost(), ready);
        }
        self.held_rows.store(held.queue.rows(), SeqCst);
    }

    /// Takes jobs in their fair order, as long as `take` says that there is room for one more, and notes the time.
    pub(crate) fn release(&self, window: usize, now: Instant, mut take: impl FnMut(Ready) -> bool) {
        let mut held = self.held.lock();
        let out = self.out_rows();
        if out <= low_water(window) {
            let mut room = window.saturating_sub(out);
            while room > 0
                && let Some(ready) = held.queue.pop()
            {
                room -= usize::from(take(ready));
            }
        }
        let rows = held.queue.rows();
        held.drain.observe(self.answered(), rows > 0, now);
        self.held_rows.store(rows, SeqCst);
        let wake_below = if rows > 0 { window.min(low_water(window) + 1) } else { 0 };
        self.wake_below.store(wake_below, SeqCst);
    }

    /// Waits until there may be room for more.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    /// Jobs of a request that ended early were withdrawn; returns how many of them were held back and are gone by now.
    pub(crate) fn withdrawn(&self, rows: usize) -> usize {
        if self.held_rows() == 0 {
            return 0;
        }
        let mut held = self.held.lock();
        held.withdrawn += rows;
        if held.withdrawn < SWEEP_AT_LEAST.max(held.queue.rows() / SWEEP_SHARE) {
            return 0;
        }
        held.withdrawn = 0;
        let gone = held.queue.retain(|ready| !ready.gather.is_over());
        self.held_rows.store(held.queue.rows(), SeqCst);
        gone
    }

    /// Whether a request of this tenant and cost can be answered within `left`.
    ///
    /// # Errors
    /// [`Unreachable`] with the estimate; never while nothing is held back.
    pub(crate) fn check(
        &self,
        tenant: &TenantName,
        cost: u64,
        left: Duration,
        now: Instant,
    ) -> Result<(), Unreachable> {
        if self.held_rows() == 0 {
            return Ok(());
        }
        let held = self.held.lock();
        let before = self.out_cost.load(SeqCst) + held.queue.cost_before(tenant, cost);
        held.drain.check(before, left, now)
    }

    fn answered(&self) -> Answered {
        Answered { rows: self.answered_rows.load(SeqCst), cost: self.answered_cost.load(SeqCst) }
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
