//! The other apis: how many there are, and how many of them hold work back in which lane.
//!
//! Nobody coordinates apis. Where something belongs to all of them together (the room in a lane, a tenant's limit), each
//! takes its part: the whole divided by how many share it. They are counted by what they send anyway, their stats reports,
//! heard once a second; an api that holds work back in a lane says so on a subject of its own, so that a lane's room
//! is divided among those who need it and not among all. Counts are at least 1: this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_shared::broker::Link;
use forebay_shared::ids::{BootId, Lane, ModelToken, Role};
use forebay_shared::stats::{ProcessState, Snapshot};
use forebay_shared::subjects;
use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Three reports of a second, and a little.
const HEARD_FOR: Duration = Duration::from_millis(3_200);
/// An api that holds work back repeats it this often.
pub const HOLDING_EVERY: Duration = Duration::from_secs(1);

/// Reads never wait for the network.
#[derive(Debug, Default)]
pub struct Peers {
    live: AtomicUsize,
    table: Mutex<Table>,
}

/// Who was heard when; told the time.
#[derive(Debug, Default)]
struct Table {
    live: FxHashMap<BootId, Instant>,
    holding: FxHashMap<(ModelToken, Lane), FxHashMap<BootId, Instant>>,
}

impl Table {
    fn report(&mut self, boot: BootId, leaves: bool, now: Instant) -> usize {
        if leaves {
            self.live.remove(&boot);
        } else {
            self.live.insert(boot, now);
        }
        // Our own reports come round too, so this runs once a second also when nobody else is there.
        self.live.retain(|_, heard| now.duration_since(*heard) < HEARD_FOR);
        self.live.len()
    }

    fn hold(&mut self, token: ModelToken, lane: Lane, boot: BootId, now: Instant) {
        self.holding.entry((token, lane)).or_default().insert(boot, now);
    }

    fn holding(&mut self, token: &ModelToken, lane: Lane, now: Instant) -> usize {
        let Some(holders) = self.holding.get_mut(&(token.clone(), lane)) else { return 0 };
        holders.retain(|_, heard| now.duration_since(*heard) < HEARD_FOR);
        holders.len()
    }

    fn others_hold(&self, token: &ModelToken, lane: Lane, own: BootId, now: Instant) -> bool {
        let holders = self.holding.get(&(token.clone(), lane));
        holders.is_some_and(|holders| {
            holders.iter().any(|(boot, heard)| *boot != own && now.duration_since(*heard) < HEARD_FOR)
        })
    }
}

impl Peers {
    /// Apis that are there, this one included: what a limit of the whole fleet is divided by.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed).max(1)
    }

    /// Apis that hold work back in this lane, this one included: what the lane's room is divided by.
    pub fn holding(&self, token: &ModelToken, lane: Lane) -> usize {
        self.table.lock().holding(token, lane, Instant::now()).max(1)
    }

    /// Whether an api that is not `own` holds work back in this lane.
    pub fn others_hold(&self, token: &ModelToken, lane: Lane, own: BootId) -> bool {
        self.table.lock().others_hold(token, lane, own, Instant::now())
    }

    /// Listens; returns once the subscriptions stand.
    ///
    /// # Errors
    /// The broker refused a subscription.
    pub async fn follow(self: &Arc<Self>, link: &Link) -> anyhow::Result<()> {
        let mut reports = link.client.subscribe(subjects::stats_of(Role::Api)).await?;
        let mut holding = link.client.subscribe(subjects::HOLDING_ALL).await?;
        let peers = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(message) = reports.next().await {
                let Some(boot) = boot_of(&message.subject) else { continue };
                // Of another version: its sender is there all the same.
                let leaves = Snapshot::decode(&message.payload)
                    .is_ok_and(|snapshot| matches!(snapshot.state, ProcessState::Draining | ProcessState::Goodbye));
                let live = peers.table.lock().report(boot, leaves, Instant::now());
                peers.live.store(live, Ordering::Relaxed);
            }
        });
        let peers = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(message) = holding.next().await {
                if let (Some(boot), Some((token, lane))) =
                    (boot_of(&message.subject), subjects::parse_holding(&message.subject))
                {
                    peers.table.lock().hold(token, lane, boot, Instant::now());
                }
            }
        });
        Ok(())
    }

    /// Tells the others that this api holds work back in the lane. Lost or late it costs them a little order, nothing else.
    pub async fn announce_holding(link: &Link, token: &ModelToken, lane: Lane, boot: BootId) {
        let _lost = link.client.publish(subjects::holding(token, lane, boot), Bytes::new()).await;
    }
}

fn boot_of(subject: &str) -> Option<BootId> {
    subject.rsplit('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn boot(n: u8) -> BootId {
        BootId::from_bytes([n; 16])
    }

    #[test]
    fn an_api_counts_until_three_reports_are_missed_or_it_says_goodbye() {
        let (mut table, start) = (Table::default(), Instant::now());
        assert_eq!(table.report(boot(1), false, start), 1);
        assert_eq!(table.report(boot(2), false, start + SECOND), 2);
        assert_eq!(table.report(boot(2), false, start + 4 * SECOND), 1);
        assert_eq!(table.report(boot(3), false, start + 4 * SECOND), 2);
        assert_eq!(table.report(boot(2), true, start + 4 * SECOND), 1);
    }

    #[test]
    fn who_holds_work_back_is_counted_per_lane() {
        let (mut table, start, token) = (Table::default(), Instant::now(), ModelToken::from("m-0123456789"));
        table.hold(token.clone(), Lane::Low, boot(1), start);
        table.hold(token.clone(), Lane::Low, boot(2), start + 2 * SECOND);
        table.hold(token.clone(), Lane::Low, boot(2), start + 2 * SECOND);
        assert_eq!(table.holding(&token, Lane::Low, start + 3 * SECOND), 2);
        assert_eq!(table.holding(&token, Lane::Low, start + 4 * SECOND), 1);
        assert_eq!(table.holding(&token, Lane::High, start), 0);
        assert_eq!(Peers::default().live(), 1, "this process, before anything was heard");
    }
}
