//! Rows that are being computed at this moment, so that the same row is not computed twice at once.
//!
//! A **flight** is one submission of rows that nobody else was computing. It is a shared future: whoever waits for one of
//! its rows polls it, whoever began it is one of them, and when the last of them is gone it is dropped, which withdraws its
//! jobs. So a request that goes away takes nothing from those who joined it. A **berth** says which row of which flight
//! a key is. The table never keeps a flight alive; a flight that ends, or is dropped, takes its berths away.
//!
//! A request joins only what will not hold it up: a flight in a lane at least as urgent, and no larger than itself or than
//! one message. What fails is tried again by those who joined ([`super::answer`]): its deadline was another's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_shared::error::JobError;
use forebay_shared::ids::Lane;
use forebay_shared::job::{MAX_BUNDLE_JOBS, Output};
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::key::RowKey;

/// How a flight ends; its rows in order.
pub(super) type Landing = Result<Arc<Vec<Output>>, JobError>;
pub(super) type Flight = Shared<BoxFuture<'static, Landing>>;

/// Which row of which flight.
struct Berth {
    flight: u64,
    /// Rows of the flight.
    rows: usize,
    lane: Lane,
    position: usize,
    handle: WeakShared<BoxFuture<'static, Landing>>,
}

/// A row of somebody else's flight.
pub(super) struct Joined {
    pub number: u64,
    pub flight: Flight,
    /// Rows of the flight.
    pub rows: usize,
    pub position: usize,
}

/// All flights of this process.
#[derive(Default)]
pub(super) struct Flights {
    berths: Mutex<FxHashMap<RowKey, Berth>>,
    next: AtomicU64,
}

impl Flights {
    /// A flight in which this row is computed, if a request of `rows` rows in this lane may wait for it.
    pub(super) fn join(&self, key: &RowKey, lane: Lane, rows: usize) -> Option<Joined> {
        let berths = self.berths.lock();
        let berth = berths.get(key).filter(|berth| berth.lane <= lane && berth.rows <= rows.max(MAX_BUNDLE_JOBS))?;
        let flight = berth.handle.upgrade()?;
        Some(Joined { number: berth.flight, flight, rows: berth.rows, position: berth.position })
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on others may join. A row that is in another flight, too, is looked for in this one.
    pub(super) fn depart(&self, number: u64, flight: &Flight, lane: Lane, keys: &[RowKey]) {
        // It is done already, without having been waited for: there is nothing to join.
        let Some(handle) = flight.downgrade() else { return };
        let mut berths = self.berths.lock();
        for (position, key) in keys.iter().enumerate() {
            let handle = handle.clone();
            berths.insert(*key, Berth { flight: number, rows: keys.len(), lane, position, handle });
        }
    }

    /// The flight is over, or nobody waits for it any more.
    pub(super) fn leave(&self, number: u64, keys: &[RowKey]) {
        let mut berths = self.berths.lock();
        for key in keys {
            if berths.get(key).is_some_and(|berth| berth.flight == number) {
                berths.remove(key);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.berths.lock().is_empty()
    }
}
