//! Every change of every record, seen through one watch per api and handed to whoever waits here.
//!
//! Waiting clients, event streams and running attempts subscribe by key; the table of all jobs ([`Index`]) is kept on the
//! way. A subscriber reads the record itself once after subscribing: what changed before is not repeated here.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv;
use forebay_shared::async_jobs::{JobKey, Record, Records, State};
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{ModelToken, TenantName};
use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use super::index::Index;

/// Pause before a watch that ended is begun again.
const PAUSE: Duration = Duration::from_millis(500);

/// The last record seen since the subscription, if any.
pub type Changes = watch::Receiver<Option<Arc<Record>>>;

pub struct Board {
    pub index: Mutex<Index>,
    watched: Mutex<FxHashMap<String, watch::Sender<Option<Arc<Record>>>>>,
    /// Who takes a tenant's jobs for a model, to be woken when there is one.
    takers: Mutex<FxHashMap<(ModelToken, TenantName), Arc<Notify>>>,
    /// There is a job that nobody here takes yet.
    pub unclaimed: Notify,
    clock: BrokerClock,
}

impl Board {
    pub fn new(clock: BrokerClock, keep: Duration) -> Self {
        let index = Mutex::new(Index::new(keep.as_millis() as u64));
        Self { index, watched: Mutex::default(), takers: Mutex::default(), unclaimed: Notify::new(), clock }
    }

    /// Wakes whoever takes this tenant's jobs when one begins to wait, until [`Self::leave`].
    pub fn take_for(&self, token: &ModelToken, tenant: &TenantName) -> Arc<Notify> {
        Arc::clone(self.takers.lock().entry((token.clone(), tenant.clone())).or_default())
    }

    pub fn leave(&self, token: &ModelToken, tenant: &TenantName) {
        self.takers.lock().remove(&(token.clone(), tenant.clone()));
    }

    /// Follows one job from now on.
    pub fn subscribe(&self, key: &JobKey) -> Changes {
        let mut watched = self.watched.lock();
        match watched.get(key.as_str()) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, changes) = watch::channel(None);
                watched.insert(key.as_str().to_owned(), sender);
                changes
            }
        }
    }

    /// Follows the bucket for as long as the process lives.
    pub async fn follow(self: Arc<Self>, records: Records) {
        let mut seen = 0;
        loop {
            let watch = match seen {
                0 => records.bucket().watch_with_history(">").await,
                seen => records.bucket().watch_all_from_revision(seen + 1).await,
            };
            match watch {
                Ok(mut changes) => {
                    while let Some(Ok(entry)) = changes.next().await {
                        seen = seen.max(entry.revision);
                        self.take(&entry);
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot follow the records of jobs"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn take(&self, entry: &kv::Entry) {
        if entry.operation != kv::Operation::Put {
            return self.index.lock().forget(&entry.key);
        }
        let record: Record = match serde_json::from_slice(&entry.value) {
            Ok(record) => record,
            Err(error) => return tracing::warn!(%error, "a job's record cannot be read"),
        };
        self.index.lock().observe(&record, self.clock.now_us() / 1_000);
        if record.state == State::Queued && !record.express {
            let taker = self.takers.lock().get(&(record.token.clone(), record.tenant.clone())).cloned();
            taker.as_deref().unwrap_or(&self.unclaimed).notify_one();
        }
        let mut watched = self.watched.lock();
        if let Some(sender) = watched.get(&entry.key)
            && sender.send(Some(Arc::new(record))).is_err()
        {
            watched.remove(&entry.key);
        }
    }

    /// Drops the keys that nobody follows any more.
    pub fn tidy(&self) {
        self.watched.lock().retain(|_, sender| sender.receiver_count() > 0);
    }
}
