//! The door: how much may wait here, how much of it one tenant may have, and what would be late anyway.

use std::sync::atomic::Ordering;
use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::TenantName;
use forebay_shared::job::Input;

use super::fair::estimated_tokens;
use super::fair::flow::Flow;
use super::{MAX_RETRY_AFTER, MIN_RETRY_AFTER, Shared};

/// What an api lets in.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Most jobs that may wait for an answer in this process.
    pub max_in_flight: usize,
    /// Refuse what cannot be answered before its deadline.
    pub by_deadline: bool,
}

/// Room in the admission count, given back on drop.
pub(super) struct InFlight<'a> {
    shared: &'a Shared,
    rows: usize,
    /// Whose share it is taken from; `None` where there are no tenants.
    tenant: Option<TenantName>,
}

impl<'a> InFlight<'a> {
    pub(super) fn admit(shared: &'a Shared, tenant: &TenantName, rows: usize) -> Result<Self, JobError> {
        let max = shared.admission.max_in_flight;
        let before = shared.in_flight.fetch_add(rows, Ordering::Relaxed);
        let mut admitted = Self { shared, rows, tenant: None };
        let room = max.saturating_sub(before);
        if rows > room {
            return Err(shared.overloaded());
        }
        if tenant.as_str() != TenantName::DEFAULT {
            if !shared.shares.lock().admit(tenant, rows, room) {
                return Err(shared.overloaded());
            }
            admitted.tenant = Some(tenant.clone());
        }
        Ok(admitted)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(self.rows, Ordering::Relaxed);
        if let Some(tenant) = &self.tenant {
            self.shared.shares.lock().leave(tenant, self.rows);
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
