//! Folds boots that have been silent for an hour, and removes keys that nobody needs.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::UpdateErrorKind;

use super::{Retainer, keys};

const COMPACT_EVERY: Duration = Duration::from_secs(60);

impl Retainer {
    pub async fn compact(self: Arc<Self>) {
        loop {
            tokio::time::sleep(COMPACT_EVERY).await;
            self.compact_once().await;
        }
    }

    async fn compact_once(&self) {
        let now = self.hub.now();
        let plan = self.hub.fleet().plan_fold(now);
        if let Some((record, expected)) = plan {
            // The write decides: from here on the boots stand in the total, whether or not their keys are gone yet.
            match self.store.update(keys::TOTAL, record.encode().into(), expected).await {
                Ok(revision) => {
                    self.hub.fleet().take_fold(record, revision);
                }
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => self.failed("the total of past processes", &error),
            }
        }
        self.remove_folded().await;
        self.remove_abandoned_layouts().await;
    }

    /// Also what an aggregator left behind that died between writing the total and removing the keys.
    async fn remove_folded(&self) {
        let folded: Vec<_> = {
            let fleet = self.hub.fleet();
            let present = self.present();
            present
                .iter()
                .filter(|(boot, _)| fleet.fold().contains(**boot))
                .map(|(boot, key)| (*boot, key.clone()))
                .collect()
        };
        for (boot, (key, revision)) in folded {
            if self.remove(&key, Some(revision)).await {
                self.present().remove(&boot);
            }
        }
    }

    async fn remove_abandoned_layouts(&self) {
        let now = self.hub.now();
        let gone = {
            let mut fleet = self.hub.fleet();
            let used = fleet.used_layouts();
            fleet.layouts_mut().take_abandoned(|hash| used.contains(&hash), now)
        };
        for hash in gone {
            self.remove(&keys::layout(hash), None).await;
        }
    }

    /// Without a delete marker: nobody needs to be told, and markers would pile up, one per boot that ever was.
    async fn remove(&self, key: &str, revision: Option<u64>) -> bool {
        let subject = format!("{}{key}", self.store.prefix);
        let purge = self.store.stream.purge().filter(subject);
        let purged = match revision {
            Some(revision) => purge.sequence(revision + 1).await,
            None => purge.await,
        };
        purged.map_err(|error| self.failed("the removal of a key", &error)).is_ok()
    }
}
