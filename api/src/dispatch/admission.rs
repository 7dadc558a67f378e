//! The door: how much may wait here, how much of it one tenant may have, and what would be late anyway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::TenantName;
use forebay_shared::job::Input;
use forebay_shared::metrics::Refusal;
use parking_lot::Mutex;

use super::fair::estimated_tokens;
use super::fair::flow::Flow;
use super::share::Shares;
use super::{MAX_RETRY_AFTER, MIN_RETRY_AFTER, Shared};

/// What an api lets in.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Most jobs that may wait for an answer in this process.
    pub max_in_flight: usize,
    /// Refuse what cannot be answered before its deadline.
    pub by_deadline: bool,
}

/// What waits for an answer in this process.
#[derive(Debug, Default)]
pub(super) struct Room {
    rows: AtomicUsize,
    shares: Mutex<Shares>,
}

/// A part of it, given back on drop.
#[derive(Debug)]
#[must_use]
pub struct InFlight<'a> {
    room: &'a Room,
    rows: usize,
    /// Whose share it is taken from; `None` where there are no tenants.
    tenant: Option<TenantName>,
}

impl Room {
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn admit(&self, most: &Admission, tenant: &TenantName, rows: usize) -> Result<InFlight<'_>, Refusal> {
        let before = self.rows.fetch_add(rows, Ordering::Relaxed);
        // Counted from here on, and out again if it is refused.
        let mut admitted = InFlight { room: self, rows, tenant: None };
        let room = most.max_in_flight.saturating_sub(before);
        if rows > room {
            return Err(Refusal::Jobs);
        }
        if tenant.as_str() != TenantName::DEFAULT {
            if !self.shares.lock().admit(tenant, rows, room) {
                return Err(Refusal::Jobs);
            }
            admitted.tenant = Some(tenant.clone());
        }
        Ok(admitted)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.room.rows.fetch_sub(self.rows, Ordering::Relaxed);
        if let Some(tenant) = &self.tenant {
            self.room.shares.lock().leave(tenant, self.rows);
        }
    }
}

impl Shared {
    /// Refuses a request whose rows would not be answered before its deadline.
    pub(super) fn check_deadline(
        &self,
        flow: &Flow,
        tenant: &TenantName,
        rows: &[Input],
        deadline: Instant,
        now: Instant,
    ) -> Result<(), JobError> {
        if !self.admission.by_deadline || flow.held_rows() == 0 {
            return Ok(());
        }
        let cost = rows.iter().map(|row| estimated_tokens(row.len_bytes())).sum();
        flow.check(tenant, cost, deadline.saturating_duration_since(now), now).map_err(|late| {
            let retry_after = late.retry_after.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
            JobError::DeadlineUnreachable {
                estimate_ms: late.estimate.as_millis() as u64,
                retry_after_ms: retry_after.as_millis() as u64,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Admission = Admission { max_in_flight: 10, by_deadline: true };

    #[test]
    fn what_is_refused_or_leaves_is_counted_out_again() {
        let (room, tenant) = (Room::default(), TenantName::default());
        let first = room.admit(&MOST, &tenant, 6).unwrap();
        assert_eq!(room.admit(&MOST, &tenant, 5).unwrap_err(), Refusal::Jobs);
        let second = room.admit(&MOST, &tenant, 4).unwrap();
        assert_eq!(room.rows(), 10);
        drop((first, second));
        assert_eq!(room.rows(), 0);
    }

    #[test]
    fn a_named_tenant_may_have_as_much_as_is_free() {
        let room = Room::default();
        let _five = room.admit(&MOST, &"a".into(), 5).unwrap();
        assert_eq!(room.admit(&MOST, &"a".into(), 1).unwrap_err(), Refusal::Jobs);
        assert!(room.admit(&MOST, &"b".into(), 5).is_ok());
    }
}
