//! How much of what may wait in this process one tenant may take. Pure.
//!
//! A named tenant may have as many jobs waiting as there is room left (a dynamic threshold; Choudhury, Hahne 1998): alone
//! it fills half, two tenants a third each, and whoever comes next always finds as much free as the largest one has. Nobody
//! has to be configured for it. The tenant `default` stands for a system without tenants and may have everything.

use forebay_shared::ids::TenantName;
use rustc_hash::FxHashMap;

/// Jobs that wait, by named tenant.
#[derive(Debug, Default)]
pub(crate) struct Shares(FxHashMap<TenantName, usize>);

impl Shares {
    /// Counts `rows` jobs of a tenant in, of which `room` are still free; false and uncounted if it has its share already.
    pub(crate) fn admit(&mut self, tenant: &TenantName, rows: usize, room: usize) -> bool {
        let waiting = self.0.get(tenant).copied().unwrap_or(0);
        // Its first request is only bounded by what is free.
        let fits = rows <= room && (waiting == 0 || waiting + rows <= room - rows);
        if fits {
            *self.0.entry(tenant.clone()).or_default() += rows;
        }
        fits
    }

    /// Counts them out again.
    pub(crate) fn leave(&mut self, tenant: &TenantName, rows: usize) {
        if let Some(waiting) = self.0.get_mut(tenant) {
            *waiting = waiting.saturating_sub(rows);
            if *waiting == 0 {
                self.0.remove(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1200;

    struct Process {
        shares: Shares,
        waiting: usize,
    }

    impl Process {
        /// Admits one job after the other until one is refused; returns how many.
        fn fill(&mut self, tenant: &str) -> usize {
            let tenant = TenantName::from(tenant);
            let before = self.waiting;
            while self.shares.admit(&tenant, 1, MAX - self.waiting) {
                self.waiting += 1;
            }
            self.waiting - before
        }
    }

    #[test]
    fn a_flooder_alone_fills_half_and_the_next_finds_room() {
        let mut process = Process { shares: Shares::default(), waiting: 0 };
        assert_eq!(process.fill("flooder"), MAX / 2);
        assert_eq!(process.fill("other"), MAX / 4);
        assert_eq!(process.fill("flooder"), 0);
        assert_eq!(process.fill("third"), MAX / 8);
    }

    #[test]
    fn who_leaves_makes_room_and_is_forgotten() {
        let mut process = Process { shares: Shares::default(), waiting: 0 };
        let tenant = TenantName::from("flooder");
        process.fill("flooder");
        process.shares.leave(&tenant, MAX / 2);
        assert!(process.shares.0.is_empty());
        assert!(process.shares.admit(&tenant, MAX, MAX), "a first request is only bounded by what is free");
    }
}
