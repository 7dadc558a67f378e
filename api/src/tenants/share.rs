//! What apis must agree on: how many they are, and how much of a quota is used. Once a second, beside the requests.
//!
//! The record of a tenant's day is one key in the bucket of quotas, `<tenant>.<date>`, a plain number. Each api adds what
//! it has let in since the last time, by compare-and-swap. Tenants that nobody asked for are not read. A write whose answer
//! is lost may have happened: its total is remembered, and recognised when the record says just that. Should another api
//! have written over it meanwhile, what was let in within that second counts twice.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv;
use forebay_shared::ids::TenantName;
use forebay_shared::metrics::Counter;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::quota::Day;
use super::{Account, Tenants};
use crate::peers::Peers;

/// How far apart apis may be in what they know.
const EVERY: Duration = Duration::from_secs(1);
/// Attempts at one record before the next second's turn.
const ATTEMPTS: usize = 5;

/// Keeps one api in step with the others.
pub struct Sharing {
    tenants: Arc<Tenants>,
    peers: Arc<Peers>,
    records: kv::Store,
    /// Counts writes that failed.
    failed: Counter,
    /// Totals of writes whose answer was lost, with what they would have added.
    unsure: FxHashMap<(TenantName, Day), (u64, i64)>,
}

impl Sharing {
    pub fn new(tenants: Arc<Tenants>, peers: Arc<Peers>, records: kv::Store, failed: Counter) -> Self {
        Self { tenants, peers, records, failed, unsure: FxHashMap::default() }
    }

    /// Runs until `done`, and tells the others then what they do not know yet.
    pub async fn run(mut self, mut done: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.once().await,
                _ = &mut done => return self.once().await,
            }
        }
    }

    /// Takes over the number of apis, and exchanges what was used since the last time.
    pub async fn once(&mut self) {
        self.tenants.divide(self.peers.live());
        for account in self.tenants.accounts() {
            let (day, _) = account.today();
            let Some(Some(delta)) = account.usage.with_quota(|quota| quota.pending(day)) else { continue };
            if let Err(error) = self.exchange(&account, delta, day).await {
                account.usage.with_quota(super::quota::Quota::missed);
                tracing::warn!(tenant = %account.rights.name, %error, "the use of a quota could not be shared; trying again");
            }
        }
        let today = self.tenants.today().0;
        self.unsure.retain(|(_, day), _| *day >= today);
    }

    async fn exchange(&mut self, account: &Account, delta: i64, day: Day) -> anyhow::Result<()> {
        let name = &account.rights.name;
        let key = format!("{name}.{}", date(day));
        let mut left = delta;
        for _ in 0..ATTEMPTS {
            let record = self.records.entry(key.as_str()).await?.filter(|entry| entry.operation == kv::Operation::Put);
            let (revision, total) = match &record {
                Some(entry) => (entry.revision, std::str::from_utf8(&entry.value)?.parse::<u64>()?),
                None => (0, 0),
            };
            if let Some((_, added)) = self.unsure.remove(&(name.clone(), day)).filter(|(wrote, _)| *wrote == total) {
                left -= added;
                account.usage.with_quota(|quota| quota.wrote(added, total, day));
            }
            if left == 0 {
                account.usage.with_quota(|quota| quota.wrote(0, total, day));
                return Ok(());
            }
            let sum = total.saturating_add_signed(left);
            match self.write(&key, sum, revision).await {
                Ok(true) => {
                    account.usage.with_quota(|quota| quota.wrote(left, sum, day));
                    return Ok(());
                }
                // Somebody was faster: on top of what it wrote, then.
                Ok(false) => tokio::time::sleep(Duration::from_millis(rand::random_range(1..10))).await,
                Err(error) => {
                    self.unsure.insert((name.clone(), day), (sum, left));
                    return Err(error);
                }
            }
        }
        anyhow::bail!("other apis wrote it {ATTEMPTS} times in a row")
    }

    /// False if the record is not at `revision` any more; 0 = there is none.
    async fn write(&self, key: &str, total: u64, revision: u64) -> anyhow::Result<bool> {
        let value = total.to_string().into();
        if revision == 0 {
            return match self.records.create(key, value).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
                Err(error) => {
                    self.failed.inc();
                    Err(error.into())
                }
            };
        }
        match self.records.update(key, value, revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => {
                self.failed.inc();
                Err(error.into())
            }
        }
    }
}

/// As an operator who looks into the bucket would write it.
fn date(day: Day) -> String {
    let epoch = time::macros::date!(1970 - 01 - 01);
    epoch.checked_add(time::Duration::days(i64::from(day))).unwrap_or(epoch).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_as_a_date() {
        assert_eq!([0, 20_777].map(date), ["1970-01-01", "2026-11-20"]);
    }
}
