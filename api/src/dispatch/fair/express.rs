//! Who may pass by what others have in the broker.
//!
//! What is published stands behind two batches per worker of whoever floods. A tenant that asks for less than its share has
//! no part in that backlog, so while a lane is contended its jobs go over the next higher lane of the broker, which workers
//! keep open while a full batch waits: they are in the next batch that starts. (The idea is that of new flows in
//! fq_codel, RFC 8290.)
//!
//! Invariants: a tenant has no more than [`EXPRESS_TOKENS`] out this way, or one job; all tenants of a lane together
//! have no more rows than they are told; what is out counts until its bundle is closed.

use std::sync::Arc;

use forebay_shared::ids::{Lane, TenantName};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// A tenant's turn of the round robin: more than that at a time waits like everybody's.
const EXPRESS_TOKENS: u64 = super::flow::QUANTUM_TOKENS;

/// The lane over which jobs of `lane` pass by others; none for the highest.
pub(crate) const fn over(lane: Lane) -> Option<Lane> {
    match lane {
        Lane::High => None,
        Lane::Normal => Some(Lane::High),
        Lane::Low => Some(Lane::Normal),
    }
}

/// What is out this way.
#[derive(Debug, Default)]
pub(crate) struct Express(Mutex<Out>);

#[derive(Debug, Default)]
struct Out {
    tokens: FxHashMap<TenantName, u64>,
    rows: usize,
}

/// The right of one job to pass; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    express: Arc<Express>,
    tenant: TenantName,
    tokens: u64,
}

impl Express {
    /// A ticket for a job of `tokens`, if its tenant and all tenants together (`most_rows`) have little out.
    pub(crate) fn admit(self: &Arc<Self>, tenant: &TenantName, tokens: u64, most_rows: usize) -> Option<Ticket> {
        let mut out = self.0.lock();
        let own = out.tokens.get(tenant).copied();
        if out.rows >= most_rows.max(1) || own.is_some_and(|own| own + tokens > EXPRESS_TOKENS) {
            return None;
        }
        out.rows += 1;
        out.tokens.insert(tenant.clone(), own.unwrap_or(0) + tokens);
        Some(Ticket { express: Arc::clone(self), tenant: tenant.clone(), tokens })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut out = self.express.0.lock();
        out.rows -= 1;
        if let Some(left) = out.tokens.get_mut(&self.tenant) {
            *left -= self.tokens;
            if *left == 0 {
                out.tokens.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_turn_or_one_job_out_and_all_together_no_more_than_they_may() {
        let express = Arc::new(Express::default());
        let (a, b, c): (TenantName, TenantName, TenantName) = ("a".into(), "b".into(), "c".into());
        let huge = express.admit(&a, 10 * EXPRESS_TOKENS, 3).unwrap();
        assert!(express.admit(&a, 1, 3).is_none(), "one job, however large");
        let half = express.admit(&b, EXPRESS_TOKENS / 2, 3).unwrap();
        let other_half = express.admit(&b, EXPRESS_TOKENS / 2, 3).unwrap();
        assert!(express.admit(&b, 1, 9).is_none(), "a turn");
        assert!(express.admit(&c, 1, 3).is_none(), "all together");
        drop(huge);
        assert!(express.admit(&c, 1, 3).is_some());
        drop((half, other_half));
        assert!(
            express.0.lock().tokens.is_empty() && express.0.lock().rows == 0,
            "nothing is kept of who has nothing out"
        );
    }

    #[test]
    fn one_job_may_always_pass() {
        let express = Arc::new(Express::default());
        assert!(express.admit(&"a".into(), 1, 0).is_some());
    }
}
