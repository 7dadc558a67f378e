//! Tokens per day, of all apis together: what one api knows of it. A plain value, told the day.
//!
//! ```text
//! used by the fleet, as this api knows it  =  written (the broker's record)  +  unwritten (what this api has not told yet)
//! ```
//! `share` adds `unwritten` to the record by compare-and-swap once a second. In between apis do not see each other's use:
//! a quota is overshot by at most what all other apis let in within that second, which the tenant's own limits of tokens
//! per minute and of requests bound, and by estimates that were too low.

/// Days since 1970-01-01, UTC, by the broker's clock.
pub type Day = u32;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    limit: u64,
    day: Day,
    written: u64,
    unwritten: i64,
    /// Somebody asked since the record was read last: it is worth reading again.
    asked: bool,
}

/// Part of a quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedUp;

impl Quota {
    pub fn new(limit: u64, day: Day) -> Self {
        Self { limit, day, written: 0, unwritten: 0, asked: true }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The use stays, the limit changes.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Takes so many tokens, if the day has them left.
    ///
    /// # Errors
    /// [`UsedUp`], and nothing is taken.
    pub fn take(&mut self, tokens: u64, day: Day) -> Result<(), UsedUp> {
        self.turn(day);
        self.asked = true;
        if self.used().saturating_add(tokens) > self.limit {
            return Err(UsedUp);
        }
        self.add(tokens as i64);
        Ok(())
    }

    /// So many more were used than were taken on `day`, or fewer if below 0. Yesterday's do not matter any more.
    pub fn correct(&mut self, more: i64, day: Day) {
        if day == self.day {
            self.add(more);
        }
    }

    /// What to add to the record of `day`; `None` if nobody has asked since the last time.
    pub fn pending(&mut self, day: Day) -> Option<i64> {
        self.turn(day);
        let due = self.asked || self.unwritten != 0;
        self.asked = false;
        due.then_some(self.unwritten)
    }

    /// `added` is in the record of `day` now, which says `total`.
    pub fn wrote(&mut self, added: i64, total: u64, day: Day) {
        if day == self.day {
            self.unwritten -= added;
            self.written = total;
        }
    }

    /// The record could not be written: it will be tried again.
    pub fn missed(&mut self) {
        self.asked = true;
    }

    pub fn used(&self) -> u64 {
        self.written.saturating_add_signed(self.unwritten)
    }

    fn add(&mut self, tokens: i64) {
        self.unwritten = self.unwritten.saturating_add(tokens);
    }

    fn turn(&mut self, day: Day) {
        if day > self.day {
            (self.day, self.written, self.unwritten) = (day, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quota_is_used_up_by_all_apis_together() {
        let (mut one, mut two) = (Quota::new(100, 1), Quota::new(100, 1));
        one.take(60, 1).unwrap();
        assert_eq!(one.pending(1), Some(60));
        one.wrote(60, 60, 1);
        assert_eq!(two.pending(1), Some(0), "a new one reads the record before anybody has asked");
        two.wrote(0, 60, 1);
        assert_eq!(two.pending(1), None);
        assert_eq!(two.take(41, 1), Err(UsedUp));
        assert_eq!(two.take(40, 1), Ok(()));
        assert_eq!(two.take(1, 1), Err(UsedUp));
    }

    #[test]
    fn a_new_day_begins_at_nothing_and_yesterdays_corrections_are_dropped() {
        let mut quota = Quota::new(10, 1);
        quota.take(10, 1).unwrap();
        assert_eq!(quota.take(10, 2), Ok(()));
        quota.correct(-5, 1);
        quota.wrote(10, 10, 1);
        assert_eq!((quota.used(), quota.pending(2)), (10, Some(10)));
    }

    #[test]
    fn what_was_not_written_is_written_later() {
        let mut quota = Quota::new(10, 1);
        quota.take(4, 1).unwrap();
        assert_eq!(quota.pending(1), Some(4));
        quota.missed();
        quota.take(4, 1).unwrap();
        quota.correct(-3, 1);
        assert_eq!((quota.pending(1), quota.used()), (Some(5), 5));
    }

    proptest! {
        /// Two apis, any order of use, corrections and writes: in the end the record is the sum of what was used.
        #[test]
        fn nothing_is_counted_twice_and_nothing_is_lost(
            steps in prop::collection::vec((0usize..2, 0u8..3, 1u64..50, -20i64..20), 0..100)
        ) {
            let (mut apis, mut record, mut used) = ([Quota::new(1_000, 1), Quota::new(1_000, 1)], 0u64, 0i64);
            let write = |quota: &mut Quota, record: &mut u64| {
                if let Some(delta) = quota.pending(1) {
                    *record = record.saturating_add_signed(delta);
                    quota.wrote(delta, *record, 1);
                }
            };
            for (api, step, tokens, more) in steps {
                match step {
                    0 if apis[api].take(tokens, 1).is_ok() => used += tokens as i64,
                    1 if used + more >= 0 && apis[api].used() as i64 + more >= 0 && record as i64 + more >= 0 => {
                        apis[api].correct(more, 1);
                        used += more;
                    }
                    2 => write(&mut apis[api], &mut record),
                    _ => {}
                }
            }
            // Corrections of one api may come before the use of another is written: at the end all is.
            prop_assume!(apis.iter().map(|quota| quota.used() as i64).all(|seen| seen >= 0));
            let unwritten: i64 = apis.iter_mut().filter_map(|quota| quota.pending(1)).sum();
            prop_assert_eq!(record as i64 + unwritten, used);
        }
    }
}
