//! Tells the fleet that this worker is there: the model's record once, a sign of life every second and when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use async_nats::Client;
use async_nats::jetstream::kv;
use forebay_shared::codec::{self, Wire};
use forebay_shared::job::Live;
use forebay_shared::model::{ModelRecord, record_key};
use forebay_shared::subjects;
use futures::StreamExt;

use crate::models::ModelInfo;

const INTERVAL: Duration = Duration::from_secs(1);

/// The record of a loaded model.
pub(crate) fn record(info: &ModelInfo) -> ModelRecord {
    ModelRecord {
        name: info.name.as_str().into(),
        token: info.token.clone(),
        architecture: info.architecture.clone(),
        dtype: info.dtype.clone(),
        dimensions: info.dimensions as u32,
        max_tokens: info.max_tokens as u32,
        pooling: info.pooling.as_str().to_owned(),
        normalize: info.normalize,
        matryoshka_dimensions: info.matryoshka_dimensions.iter().map(|length| *length as u32).collect(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    }
}

/// Points the model's name at these weights; the switch is atomic, and a no-op when nothing has changed.
pub(crate) async fn register(models: &kv::Store, record: &ModelRecord) -> anyhow::Result<()> {
    let key = record_key(&record.name);
    let known = models.get(&key).await.context("cannot read the table of models")?;
    if let Some(known) = known.and_then(|value| serde_json::from_slice::<ModelRecord>(&value).ok()) {
        if (ModelRecord { created: record.created, ..known.clone() }) == *record {
            return Ok(());
        }
        if known.token != record.token {
            tracing::warn!(model = %record.name, from = %known.token, to = %record.token, "the name switches to other weights");
        }
    }
    models.put(key, serde_json::to_vec(record)?.into()).await.context("cannot register the model")?;
    Ok(())
}

/// Signs of life; told apart from a drain by [`Announcer::draining`].
pub(crate) struct Announcer {
    client: Client,
    live: Live,
    ready: AtomicBool,
}

impl Announcer {
    pub(crate) fn new(client: Client, live: Live) -> Arc<Self> {
        Arc::new(Self { client, live, ready: AtomicBool::new(true) })
    }

    /// Announces until the process ends.
    ///
    /// # Errors
    /// The broker refused the subscription.
    pub(crate) async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut roll_calls = self.client.subscribe(subjects::ROLL_CALL).await?;
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                call = roll_calls.next() => if call.is_none() {
                    anyhow::bail!("the connection to the broker is closed");
                },
            }
            self.say().await;
        }
    }

    /// From now on apis do not count on this worker.
    pub(crate) async fn draining(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.say().await;
    }

    async fn say(&self) {
        let live = Live { ready: self.ready.load(Ordering::Relaxed), ..self.live.clone() };
        // In every version that somebody may still read: apis of the release before must know of us, too.
        for version in codec::OLDEST..=Live::VERSION {
            if let Ok(payload) = codec::encode_for(&live, version) {
                let _missed = self.client.publish(subjects::live(&live.token), payload).await;
            }
        }
    }
}
