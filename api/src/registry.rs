//! Which models exist (a KV bucket, written by workers) and who serves them right now (their announcements).
//!
//! A worker announces itself every second. Three missed announcements and it no longer counts for bundling; the fleet is
//! believed to be able to serve a model for `no_worker_after` longer, because a worker that is being restarted finds its
//! queue waiting. After that a request is refused at the door instead of being left to its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use bytes::Bytes;
use forebay_shared::broker::Link;
use forebay_shared::codec;
use forebay_shared::ids::{BootId, ModelName, ModelToken};
use forebay_shared::job::Live;
use forebay_shared::metrics::ApiMetrics;
use forebay_shared::model::ModelRecord;
use forebay_shared::streams::through_an_election;
use forebay_shared::subjects;
use futures::StreamExt;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::peers::Peers;

/// An announcement is good for three intervals of a second.
const LIVE_FOR: Duration = Duration::from_millis(3_200);

/// The api's view of the fleet. Reads never wait for the network.
pub struct Registry {
    no_worker_after: Duration,
    /// Only models of the table may become labels.
    metrics: ApiMetrics,
    synced: AtomicBool,
    fleet: RwLock<Fleet>,
    peers: Arc<Peers>,
}

/// Models and workers, told the time.
#[derive(Debug, Default)]
struct Fleet {
    by_name: FxHashMap<ModelName, Arc<ModelRecord>>,
    /// Every set of weights that was heard of: work that was accepted for one is done by its workers, also once the name
    /// means another.
    by_token: FxHashMap<ModelToken, Arc<ModelRecord>>,
    workers: FxHashMap<ModelToken, Workers>,
}

#[derive(Debug, Default)]
struct Workers {
    heard: FxHashMap<BootId, Heard>,
    /// The last time any worker was ready; survives the entries of `heard`.
    last_ready: Option<Instant>,
}

/// The last sign of life of one worker.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    /// Newest version that it reads. It says so in the newest that it writes; its other announcements are for others.
    wire: u8,
    max_rows: u32,
}

impl Fleet {
    fn announce(&mut self, live: &Live, now: Instant) {
        let workers = self.workers.entry(live.token.clone()).or_default();
        workers.heard.retain(|_, heard| now.duration_since(heard.at) < LIVE_FOR);
        if live.ready {
            let heard = workers.heard.entry(live.boot).or_insert(Heard { at: now, wire: 0, max_rows: 0 });
            heard.at = now;
            heard.wire = heard.wire.max(live.wire);
            heard.max_rows = heard.max_rows.max(live.max_rows);
            workers.last_ready = Some(now);
        } else {
            workers.heard.remove(&live.boot);
        }
    }

    fn live(&self, token: &ModelToken, now: Instant) -> impl Iterator<Item = &Heard> {
        let heard = self.workers.get(token).map(|workers| workers.heard.values());
        heard.into_iter().flatten().filter(move |heard| now.duration_since(heard.at) < LIVE_FOR)
    }

    fn live_workers(&self, token: &ModelToken, now: Instant) -> usize {
        self.live(token, now).count()
    }

    fn seen_within(&self, token: &ModelToken, window: Duration, now: Instant) -> bool {
        let last = self.workers.get(token).and_then(|workers| workers.last_ready);
        last.is_some_and(|last| now.duration_since(last) < window)
    }
}

impl Registry {
    pub fn new(no_worker_after: Duration, metrics: ApiMetrics) -> Self {
        Self {
            no_worker_after,
            metrics,
            synced: AtomicBool::new(false),
            fleet: RwLock::default(),
            peers: Arc::default(),
        }
    }

    /// The table of models has been read once.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// The model of that name, whether or not anybody serves it at the moment.
    pub fn find(&self, name: &str) -> Option<Arc<ModelRecord>> {
        self.fleet.read().by_name.get(&ModelName::from(name)).cloned()
    }

    /// Models that the fleet can serve, by name.
    pub fn list(&self) -> Vec<Arc<ModelRecord>> {
        let (fleet, now) = (self.fleet.read(), Instant::now());
        let mut models: Vec<_> = fleet
            .by_name
            .values()
            .filter(|model| fleet.seen_within(&model.token, self.no_worker_after, now))
            .cloned()
            .collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// These weights, whatever their name means by now.
    pub fn find_token(&self, token: &ModelToken) -> Option<Arc<ModelRecord>> {
        self.fleet.read().by_token.get(token).cloned()
    }

    /// All weights that were heard of, whether or not anybody serves them.
    pub fn known(&self) -> Vec<Arc<ModelRecord>> {
        self.fleet.read().by_token.values().cloned().collect()
    }

    /// All weights that somebody serves, those included that a name does not mean any more.
    pub fn served_tokens(&self) -> Vec<ModelToken> {
        let (fleet, now) = (self.fleet.read(), Instant::now());
        let seen = |token: &&ModelToken| fleet.seen_within(token, self.no_worker_after, now);
        fleet.by_token.keys().filter(seen).cloned().collect()
    }

    /// The model, if there is exactly one to choose from.
    pub fn sole(&self) -> Option<Arc<ModelRecord>> {
        match <[_; 1]>::try_from(self.list()) {
            Ok([model]) => Some(model),
            Err(_) => None,
        }
    }

    /// Workers that announced themselves within the last three seconds.
    pub fn live_workers(&self, token: &ModelToken) -> usize {
        self.fleet.read().live_workers(token, Instant::now())
    }

    /// The version in which all live workers of a model read; the oldest while there is none to ask.
    pub fn wire_version(&self, token: &ModelToken) -> u8 {
        self.fleet.read().live(token, Instant::now()).map(|heard| heard.wire).min().unwrap_or(codec::OLDEST)
    }

    /// Rows that all live workers of a model run at once: one batch each. Workers that do not say are not counted.
    pub fn batch_rows(&self, token: &ModelToken) -> usize {
        self.fleet.read().live(token, Instant::now()).map(|heard| heard.max_rows as usize).sum()
    }

    /// The other apis.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// A worker is there, or was a short while ago and may be coming back.
    pub fn may_serve(&self, token: &ModelToken) -> bool {
        self.fleet.read().seen_within(token, self.no_worker_after, Instant::now())
    }

    /// Reads the table and follows it, and listens for announcements; returns once both stand.
    ///
    /// # Errors
    /// The broker refused the subscription or the watch.
    pub async fn follow(self: &Arc<Self>, link: &Link, models: kv::Store) -> anyhow::Result<()> {
        let mut announcements = link.client.subscribe(subjects::LIVE_ALL).await?;
        link.client.publish(subjects::ROLL_CALL, Bytes::new()).await?;
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(message) = announcements.next().await {
                match codec::decode::<Live>(&message.payload) {
                    Ok(live) => registry.fleet.write().announce(&live, Instant::now()),
                    Err(error) => tracing::debug!(%error, "an announcement cannot be read"),
                }
            }
        });
        self.peers.follow(link).await?;
        through_an_election("read the table of models", || self.load(&models)).await?;
        self.synced.store(true, Ordering::Relaxed);
        let registry = Arc::clone(self);
        tokio::spawn(async move { registry.watch(models).await });
        Ok(())
    }

    async fn load(&self, models: &kv::Store) -> anyhow::Result<()> {
        let mut keys = models.keys().await?;
        while let Some(key) = keys.next().await {
            if let Some(value) = models.get(key?).await? {
                self.put(&value);
            }
        }
        Ok(())
    }

    /// Follows changes for as long as the process lives; a watch that ends is begun again.
    async fn watch(&self, models: kv::Store) {
        loop {
            match models.watch_with_history(">").await {
                Ok(mut changes) => {
                    while let Some(Ok(entry)) = changes.next().await {
                        if entry.operation == kv::Operation::Put {
                            self.put(&entry.value);
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot follow the table of models"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn put(&self, value: &[u8]) {
        match serde_json::from_slice::<ModelRecord>(value) {
            Ok(model) => {
                self.metrics.register_model(&model.name);
                let model = Arc::new(model);
                let mut fleet = self.fleet.write();
                fleet.by_token.insert(model.token.clone(), Arc::clone(&model));
                fleet.by_name.insert(model.name.clone(), model);
            }
            Err(error) => tracing::warn!(%error, "a model's record cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(boot: u8, ready: bool) -> Live {
        Live {
            boot: BootId::from_bytes([boot; 16]),
            process: "worker-1".into(),
            model: "m".into(),
            token: "m-0123456789".into(),
            ready,
            wire: 2,
            max_rows: 32,
        }
    }

    #[test]
    fn a_worker_counts_until_three_announcements_are_missed() {
        let (mut fleet, start, token) = (Fleet::default(), Instant::now(), ModelToken::from("m-0123456789"));
        fleet.announce(&live(1, true), start);
        fleet.announce(&live(2, true), start + Duration::from_secs(2));
        assert_eq!(fleet.live_workers(&token, start + Duration::from_secs(3)), 2);
        assert_eq!(fleet.live_workers(&token, start + Duration::from_secs(4)), 1);
    }

    #[test]
    fn a_draining_worker_leaves_at_once_but_its_model_stays_for_a_while() {
        let (mut fleet, start, token) = (Fleet::default(), Instant::now(), ModelToken::from("m-0123456789"));
        fleet.announce(&live(1, true), start);
        fleet.announce(&live(1, false), start);
        assert_eq!(fleet.live_workers(&token, start), 0);
        let window = Duration::from_secs(15);
        assert!(fleet.seen_within(&token, window, start + Duration::from_secs(14)));
        assert!(!fleet.seen_within(&token, window, start + Duration::from_secs(15)));
    }

    #[test]
    fn everybody_is_written_to_in_the_version_of_the_oldest_worker() {
        let (mut fleet, start, token) = (Fleet::default(), Instant::now(), ModelToken::from("m-0123456789"));
        let lowest = |fleet: &Fleet| fleet.live(&token, start).map(|heard| heard.wire).min();
        fleet.announce(&live(1, true), start);
        fleet.announce(&Live { wire: 1, ..live(1, true) }, start);
        assert_eq!(lowest(&fleet), Some(2), "it says so once more in the version that everybody reads");
        fleet.announce(&Live { wire: 1, max_rows: 0, ..live(2, true) }, start);
        assert_eq!(lowest(&fleet), Some(1));
    }
}
