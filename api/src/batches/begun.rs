//! How often something was begun that its message says nothing else about: whether it ends the processes that begin it.
//!
//! Deliveries alone do not tell: what is put off, waits for a worker of its model or is given back by a process that stops is
//! delivered often, too. So from a few deliveries on starts are counted, each before it can do harm, and what comes to rest
//! takes its start back: while nothing of it runs, it is not to blame for the end of its process.

use std::sync::Arc;

use async_nats::jetstream::Message;
use tokio::sync::Mutex;

use super::Batches;
use super::records::StoreError;

/// From then on starts are counted.
const DELIVERIES_BEFORE_STARTS_COUNT: i64 = 5;
/// What was begun more often, and neither ended nor came to rest, has probably ended the processes that did.
pub(super) const MAX_STARTS: i64 = 10;
/// Tries to change a count that others change at the same time.
const TRIES: usize = 5;

/// One start of one delivery.
pub(super) struct Begun {
    batches: Arc<Batches>,
    /// Where it is counted, if it is.
    counted: Mutex<Option<String>>,
}

impl Begun {
    pub(super) fn new(batches: Arc<Batches>) -> Self {
        Self { batches, counted: Mutex::default() }
    }

    /// Counts that what `message` asks for is begun, under `key`: how often that was so, 0 while nobody has a suspicion.
    ///
    /// # Errors
    /// The broker does not answer.
    pub(super) async fn count(&self, message: &Message, key: String) -> Result<i64, StoreError> {
        let deliveries = message.info().map_or(0, |info| info.delivered);
        if deliveries <= DELIVERIES_BEFORE_STARTS_COUNT {
            return Ok(0);
        }
        let starts = self.batches.add_starts(&key, 1).await?;
        *self.counted.lock().await = Some(key);
        Ok(starts)
    }

    /// Takes the start back.
    pub(super) async fn withdraw(&self) {
        let mut counted = self.counted.lock().await;
        if let Some(key) = counted.as_deref() {
            match self.batches.add_starts(key, -1).await {
                Ok(_) => *counted = None,
                // It stays counted until the next time that it comes to rest.
                Err(error) => tracing::debug!(%error, "cannot take back that a part was begun"),
            }
        }
    }
}

impl Batches {
    async fn add_starts(&self, key: &str, change: i64) -> Result<i64, StoreError> {
        for _ in 0..TRIES {
            let found = self.records.get::<i64>(key).await?;
            let starts = found.as_ref().map_or(0, |found| found.value).saturating_add(change).max(0);
            let changed = match found {
                Some(found) => self.records.replace(key, &starts, found.revision).await?,
                None => self.records.create(key, &starts).await?,
            };
            if changed {
                return Ok(starts);
            }
        }
        Err(StoreError::Unavailable("too many writers of one count".to_owned()))
    }
}
