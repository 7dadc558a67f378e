//! How many things of one kind this process does for each tenant at the moment, so that none can take every place.

use std::sync::Arc;

use forebay_shared::ids::TenantName;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Counters by tenant; a tenant that holds nothing has none.
#[derive(Debug, Default)]
pub struct Holders(Mutex<FxHashMap<TenantName, usize>>);

/// One, counted until it is dropped.
#[derive(Debug)]
pub struct Held {
    holders: Arc<Holders>,
    tenant: TenantName,
}

impl Holders {
    /// `None` if the tenant holds `most` already.
    pub fn hold(self: &Arc<Self>, tenant: &TenantName, most: usize) -> Option<Held> {
        let mut holders = self.0.lock();
        if holders.get(tenant).copied().unwrap_or_default() >= most {
            return None;
        }
        *holders.entry(tenant.clone()).or_default() += 1;
        Some(Held { holders: Arc::clone(self), tenant: tenant.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.holders.0.lock();
        if let Some(count) = holders.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                holders.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_holds_so_many_and_what_is_dropped_makes_room() {
        let holders = Arc::new(Holders::default());
        let (a, b) = (TenantName::from("a"), TenantName::from("b"));
        let mut held: Vec<Held> = (0..3).map_while(|_| holders.hold(&a, 2)).collect();
        assert_eq!(held.len(), 2);
        let of_b = holders.hold(&b, 2);
        assert!(of_b.is_some());
        held.pop();
        assert!(holders.hold(&a, 2).is_some());
        drop((held, of_b));
        assert!(holders.0.lock().is_empty());
    }
}
