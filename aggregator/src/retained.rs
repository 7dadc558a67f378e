//! The bucket that lets counters outlive processes and aggregators: a grow-only counter per boot.
//!
//! | key | value |
//! |---|---|
//! | `<process>.<boot>` | [`Record`]: the boot's last snapshot; written only over the revision that was read |
//! | `=layout.<hash>` | an encoded layout, under its own hash; written before a record refers to it |
//! | `=total` | [`FoldRecord`]: sum of all boots silent for an hour, and their names |
//!
//! Every aggregator watches the whole bucket, so a write by one spares the others theirs. A lost race is no error: the
//! winner's record comes back through the watch, and what it lacks is written next time. Keys are removed by a purge of
//! their subject, which leaves no marker behind, up to the revision that was folded.

mod compact;
mod keys;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation, Store, UpdateErrorKind};
use forebay_shared::ids::BootId;
use forebay_shared::streams::{Bucket, Stores};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::hub::Hub;
use crate::merge::{DueRecord, FoldRecord, Record};
use keys::Key;

/// The stream behind the bucket.
pub const STATS_STREAM: &str = "KV_FOREBAY_STATS";

const WRITE_EVERY: Duration = Duration::from_secs(1);
const WRITES_AT_ONCE: usize = 32;

/// Opens the bucket, creating it if need be; waits for the broker as long as it takes.
pub async fn open(stores: &Stores) -> Store {
    loop {
        match stores.bucket(Bucket::Stats).await {
            Ok(store) => return store,
            Err(error) => tracing::warn!(%error, "cannot open the bucket of retained counters; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reads and writes the bucket.
pub struct Retainer {
    hub: Arc<Hub>,
    store: Store,
    /// Key and revision of every boot that has one.
    present: Mutex<BTreeMap<BootId, (String, u64)>>,
}

impl Retainer {
    pub fn new(hub: Arc<Hub>, store: Store) -> Self {
        Self { hub, store, present: Mutex::default() }
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<BootId, (String, u64)>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replays the bucket, then follows it.
    pub async fn watch(self: Arc<Self>) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(%error, "lost the watch on the retained counters; starting it again");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let mut watch = self.store.watch_with_history(">").await?;
        let mut replayed = false;
        loop {
            let entry = match timeout(Duration::from_secs(1), watch.next()).await {
                Ok(Some(entry)) => entry?,
                Ok(None) => anyhow::bail!("the watch ended"),
                // Nothing comes: either all is read, or the bucket is empty and there is nothing to mark its end.
                Err(_) if !replayed && self.store.status().await?.values() == 0 => {
                    replayed = self.replayed();
                    continue;
                }
                Err(_) => continue,
            };
            let current = entry.seen_current;
            self.take(entry);
            if current && !replayed {
                replayed = self.replayed();
            }
        }
    }

    fn replayed(&self) -> bool {
        self.hub.fleet().mark_replayed();
        tracing::info!(boots = self.present().len(), "the retained counters are read");
        true
    }

    fn take(&self, entry: Entry) {
        if entry.operation != Operation::Put {
            return;
        }
        let understood = match Key::parse(&entry.key) {
            Some(Key::Boot(boot)) => {
                self.present().insert(boot, (entry.key.clone(), entry.revision));
                let mut fleet = self.hub.fleet();
                let news = !fleet.has_taken(boot, entry.revision);
                !news || Record::decode(&entry.value).map(|record| fleet.replay(record, entry.revision)).is_some()
            }
            Some(Key::Layout(hash)) => {
                let written = (entry.created.unix_timestamp_nanos() / 1_000_000) as u64;
                let mut fleet = self.hub.fleet();
                let understood = fleet.learn_layout(hash, &entry.value);
                fleet.layouts_mut().mark_written(hash, written);
                understood
            }
            Some(Key::Total) => FoldRecord::decode(&entry.value)
                .is_some_and(|record| self.hub.fleet().take_fold(record, entry.revision)),
            None => false,
        };
        if !understood {
            tracing::warn!(key = entry.key, revision = entry.revision, "a retained record cannot be read; not counted");
        }
    }

    /// Writes what is due, every second.
    pub async fn write(self: Arc<Self>) {
        let mut tick = interval(WRITE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = self.hub.now();
            let due = self.hub.fleet().due(now);
            self.put_all(due).await;
        }
    }

    /// Writes everything that is not written yet.
    pub async fn write_all(&self) {
        let started = Instant::now();
        let now = self.hub.now();
        let due = self.hub.fleet().due_at_once(now);
        let count = due.len();
        self.put_all(due).await;
        tracing::info!(count, took = ?started.elapsed(), "the counters are written");
    }

    async fn put_all(&self, due: Vec<DueRecord>) {
        futures::stream::iter(due).for_each_concurrent(WRITES_AT_ONCE, |due| self.put(due)).await;
    }

    async fn put(&self, due: DueRecord) {
        let now = self.hub.now();
        let layout = self.hub.fleet().layouts().due(due.layout, now);
        if let Some(bytes) = layout {
            if let Err(error) = self.store.put(keys::layout(due.layout), bytes.into()).await {
                return self.failed("a layout", &error);
            }
            self.hub.fleet().layouts_mut().mark_written(due.layout, now);
        }
        let key = keys::boot(&due.record.snapshot.process, due.boot);
        match self.store.update(&key, due.record.encode().into(), due.revision).await {
            Ok(revision) => {
                self.hub.fleet().retained(due.boot, &due.record, revision, now);
                self.present().insert(due.boot, (key, revision));
            }
            // Another aggregator wrote; the watch brings its record.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => self.failed("a boot's counters", &error),
        }
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) {
        self.hub.metrics.broker_write_errors_total.inc();
        tracing::warn!(%error, "could not write {what}; trying again");
    }
}
