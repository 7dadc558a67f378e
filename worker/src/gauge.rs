//! Counts shared between the worker's threads: what waits, and whether the engine advances.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use forebay_shared::ids::Lane;
use tokio::sync::Notify;

/// Rows and tokens taken in and not started, written by intake and driver, read by the credit policy.
#[derive(Debug, Default)]
pub struct Waiting {
    rows: [AtomicUsize; 3],
    tokens: AtomicUsize,
    /// Intake wants to be told when there is room again.
    starved: AtomicBool,
    room: Notify,
}

impl Waiting {
    pub(crate) fn add(&self, lane: Lane, rows: usize, tokens: usize) {
        self.rows[lane.index()].fetch_add(rows, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, lane: Lane, rows: usize, tokens: usize) {
        self.rows[lane.index()].fetch_sub(rows, Ordering::Relaxed);
        self.tokens.fetch_sub(tokens, Ordering::Release);
    }

    /// Wakes the intake if it waits for room. Called after any number of [`remove`](Self::remove).
    pub(crate) fn announce_room(&self) {
        // Together with the fence in `mark_starved`: either we see that it waits, or it sees the room we made.
        fence(Ordering::SeqCst);
        if self.starved.swap(false, Ordering::AcqRel) {
            self.room.notify_one();
        }
    }

    pub(crate) fn snapshot(&self) -> ([usize; 3], usize) {
        (std::array::from_fn(|lane| self.rows[lane].load(Ordering::Relaxed)), self.tokens.load(Ordering::Acquire))
    }

    /// Marks the intake as waiting; read the counts once more after this and before waiting.
    pub(crate) fn mark_starved(&self) {
        self.starved.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }
}

/// Whether the engine advances: it must, while it has work.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    /// Milliseconds after `origin` at which the running step began, plus one; 0 = idle.
    running_since_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { origin: Instant::now(), running_since_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    pub(crate) fn step_begins(&self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_millis() as u64;
        self.running_since_ms.store(since + 1, Ordering::Relaxed);
    }

    pub(crate) fn step_ends(&self) {
        self.running_since_ms.store(0, Ordering::Relaxed);
    }

    /// The running step has taken longer than `limit`.
    pub(crate) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        match self.running_since_ms.load(Ordering::Relaxed) {
            0 => false,
            since => {
                let now_ms = now.saturating_duration_since(self.origin).as_millis() as u64;
                now_ms.saturating_sub(since - 1) > limit.as_millis() as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_runs_too_long_is_a_stall() {
        let (pulse, now, limit) = (Pulse::default(), Instant::now(), Duration::from_secs(10));
        assert!(!pulse.is_stalled(limit, now + 2 * limit), "idle");
        pulse.step_begins(now);
        assert!(!pulse.is_stalled(limit, now + limit / 2));
        assert!(pulse.is_stalled(limit, now + 2 * limit));
        pulse.step_ends();
        assert!(!pulse.is_stalled(limit, now + 2 * limit));
    }
}
