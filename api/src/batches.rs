//! OpenAI's Batch API: a file of requests in, a file of answers out, whoever dies meanwhile.
//!
//! ```text
//! POST /v1/batches ── record ──▶ split ──▶ parts ──▶ a marker each ──▶ finish
//!                     (KV)     (message)  (messages)     (KV)        (whoever completes the last part)
//! ```
//!
//! A batch is a layer above the synchronous path: an api takes parts from a work queue and submits their lines as an
//! ordinary client would, in lane `low`; workers know nothing of it. What survives what:
//!
//! - **A batch is its record** ([`record`]). Each transition is a compare-and-swap, so two processes that act on the same
//!   batch agree on what happened.
//! - **Splitting is a message**, acknowledged when every part is on the queue. Cutting is a pure function of the file, so
//!   that a second attempt publishes the same parts.
//! - **A part is a message** with its lines in it, acknowledged when its answers are stored and its **marker** exists. The
//!   marker is created, never replaced: of two runs of a part the first counts and the other removes what it wrote.
//!   Executions may repeat; a line is in the output once.
//! - **Finishing is repeatable**: markers do not change, file ids are derived from the batch's, so whoever does it writes
//!   the same. Nothing is copied: an output file is the list of its parts' objects, in the order of the input.
//!
//! What is our trouble (no capacity, no worker, no broker, a deadline) is never written as a line's error: the line waits
//! and is tried again, until the completion window is over or the batch is cancelled. Lines that were not run then say so
//! in the error file.
//!
//! A batch whose messages were lost all the same is found and split again, within minutes if its tenant has nothing else on
//! the queue and after its completion window at the latest (`repair`).
//!
//! Memory is bounded by [`runner::PARTS_AT_ONCE`] parts and their answers; files are only ever streamed.

mod allowance;
mod begun;
pub mod cut;
mod execute;
mod finish;
pub mod line;
pub mod part;
pub mod record;
#[cfg(test)]
mod record_tests;
pub mod records;
mod repair;
pub mod room;
pub mod runner;
mod split;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec;
use forebay_shared::ids::TenantName;
use forebay_shared::metrics::{ApiMetrics, BatchEnd, StoreWrite};
use forebay_shared::model::slug;
use forebay_shared::streams::{Bucket, Objects, Stores, is_full};
use forebay_shared::subjects;
use parking_lot::Mutex;

use crate::dispatch::Dispatch;
use crate::error::Failure;
use crate::files::Files;
use crate::registry::Registry;
use crate::tenants::Tenants;
use crate::tenants::held::Holders;
use crate::validate::RequestLimits;
use part::{Marker, Step};
use record::{Batch, Counts, Event, Refused};
use records::{Records, StoreError, Versioned};

/// Batches whose progress is remembered, so that asking again reads only what is new.
const REMEMBERED: u64 = 1_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// How long the broker may take to store a chunk of a file.
const BULK_TIMEOUT: Duration = Duration::from_secs(10);

/// Batches and files, as one api process sees them.
pub struct Batches {
    pub files: Files,
    records: Records,
    dispatch: Arc<Dispatch>,
    registry: Arc<Registry>,
    clock: BrokerClock,
    metrics: Arc<ApiMetrics>,
    limits: RequestLimits,
    queue: jetstream::Context,
    stores: Stores,
    progress: moka::sync::Cache<String, Arc<Mutex<Progress>>>,
    /// Message ids of what this process works on.
    at_work: Mutex<rustc_hash::FxHashSet<String>>,
    /// Whose lines are charged; `None` where no keys are configured.
    tenants: Option<Arc<Tenants>>,
    /// Of the store of files, what one of them may have.
    tenant_share_percent: u8,
    /// Parts held here, by tenant.
    held: Arc<Holders>,
}

/// Markers read so far: they never change.
#[derive(Debug, Default)]
struct Progress {
    parts: rustc_hash::FxHashSet<u32>,
    completed: u64,
    failed: u64,
}

/// Key of a batch's record.
pub(crate) fn batch_key(tenant: &TenantName, id: &str) -> String {
    format!("batch.{}.{id}", slug(tenant.as_str()))
}

fn markers_of(id: &str) -> String {
    format!("part.{id}.")
}

fn starts_of(id: &str) -> String {
    format!("starts.{id}.")
}

fn marker_key(id: &str, part: u32) -> String {
    format!("part.{id}.{part}")
}

/// What stands between a process and a shared state that it wants to change.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the batch is {0}")]
    Refused(#[from] Refused),
    #[error("there is no such batch")]
    Gone,
}

impl Batches {
    /// Opens the stores over two connections of its own: `bulk` for files, `control` for everything that must not wait
    /// behind them.
    ///
    /// # Errors
    /// A store cannot be opened.
    #[expect(clippy::too_many_arguments, reason = "everything of a process comes together here, once")]
    pub async fn open(
        control: &Link,
        bulk: &Link,
        stores: &Stores,
        dispatch: Arc<Dispatch>,
        registry: Arc<Registry>,
        clock: BrokerClock,
        metrics: Arc<ApiMetrics>,
        limits: RequestLimits,
        max_file_bytes: u64,
    ) -> anyhow::Result<Self> {
        let args = stores.args().clone();
        let stores = Stores::new(control.jetstream(), &args);
        // A chunk may wait for a disk that others write to as well.
        let patient = jetstream::context::ContextBuilder::new().timeout(BULK_TIMEOUT).ack_timeout(BULK_TIMEOUT);
        let bulk_js = patient.build(bulk.client.clone());
        let bulk = Stores::new(bulk_js.clone(), &args);
        let (records, objects) = tokio::try_join!(stores.bucket(Bucket::Batches), bulk.objects(Objects::Files))?;
        let failed = |kind| metrics.store_write_errors_total.with(&(kind,));
        let records = Records::new(records).counting(failed(StoreWrite::Kv));
        let (clock_of_files, failed) = (clock.clone(), failed(StoreWrite::Object));
        let files =
            Files::new(records.clone(), objects, bulk_js, clock_of_files, failed, max_file_bytes, args.files_keep);
        let progress = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN_AFTER).build();
        let queue = control.jetstream();
        Ok(Self {
            files,
            records,
            dispatch,
            registry,
            clock,
            metrics,
            limits,
            queue,
            stores,
            progress,
            at_work: Mutex::default(),
            tenants: None,
            tenant_share_percent: 100,
            held: Arc::default(),
        })
    }

    /// Charges lines to these tenants, who wait when they are over a limit, and lets each have its share of the store.
    #[must_use]
    pub fn with_tenants(self, tenants: Option<Arc<Tenants>>, tenant_share_percent: u8) -> Self {
        Self { tenants, tenant_share_percent, ..self }
    }

    fn now(&self) -> u64 {
        self.clock.now_us() / 1_000_000
    }

    /// A batch that nobody knows of yet.
    pub fn draft(&self, tenant: TenantName, input_file_id: String) -> Batch {
        let id = records::new_id("batch_", self.clock.now_us() / 1_000);
        Batch::new(id, tenant, line::ENDPOINT.to_owned(), input_file_id, self.now())
    }

    /// Keeps a new batch and hands it to whoever splits it.
    ///
    /// # Errors
    /// [`Failure`] if there is no room for its answers or the broker does not take it; nothing is kept then.
    pub async fn begin(&self, batch: Batch) -> Result<Batch, Failure> {
        self.admit(&batch.tenant, 0).await?;
        let key = batch_key(&batch.tenant, &batch.id);
        self.records.create(&key, &batch).await?;
        if let Err(error) = self.publish_split(&batch).await {
            self.records.remove(&key).await?;
            return Err(error.into());
        }
        Ok(batch)
    }

    async fn publish_split(&self, batch: &Batch) -> Result<(), StoreError> {
        let step = Step { batch: batch.id.clone(), tenant: batch.tenant.clone() };
        let payload = codec::encode(&step).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        self.publish(subjects::batch_step(&batch.tenant), step.message_id(), payload).await
    }

    /// Puts a message on the queue, once: a repeated publish with the same id within the duplicate window is none.
    async fn publish(&self, subject: String, id: String, payload: Bytes) -> Result<(), StoreError> {
        let message = jetstream::message::PublishMessage::build().payload(payload).message_id(id);
        let sent = self.queue.send_publish(subject, message).await;
        let acknowledged = match sent {
            Ok(ack) => ack.await.map(drop),
            Err(error) => Err(error),
        };
        acknowledged.map_err(|error| {
            if !is_full(&error) {
                self.metrics.store_write_errors_total.with(&(StoreWrite::Publish,)).inc();
            }
            StoreError::Unavailable(error.to_string())
        })
    }

    /// A tenant's batch, with counts as of now.
    ///
    /// # Errors
    /// [`Failure::NotFound`], or the broker does not answer.
    pub async fn show(self: &Arc<Self>, tenant: &TenantName, id: &str) -> Result<Batch, Failure> {
        let found = self.find(tenant, id).await?.ok_or_else(|| no_such_batch(id))?;
        Ok(self.with_counts(found.value).await?)
    }

    async fn find(&self, tenant: &TenantName, id: &str) -> Result<Option<Versioned<Batch>>, StoreError> {
        if !records::is_id(id) {
            return Ok(None);
        }
        let found = self.records.get::<Batch>(&batch_key(tenant, id)).await?;
        // Two names can share a key; their batches stay apart.
        Ok(found.filter(|found| found.value.tenant == *tenant))
    }

    /// Fills in how far a batch is, and gives a push to one that somebody died over.
    async fn with_counts(self: &Arc<Self>, mut batch: Batch) -> Result<Batch, StoreError> {
        if batch.phase.is_over() {
            return Ok(batch);
        }
        self.repair(&batch).await?;
        if batch.parts == 0 {
            return Ok(batch);
        }
        let counted = self.count(&batch).await?;
        (batch.counts.completed, batch.counts.failed) = (counted.0, counted.1);
        if counted.2 == batch.parts as usize {
            let (batches, batch) = (Arc::clone(self), batch.clone());
            tokio::spawn(async move {
                if let Err(error) = batches.finish(&batch.tenant, &batch.id).await {
                    tracing::debug!(batch = batch.id, %error, "a batch cannot be finished yet");
                }
            });
        }
        Ok(batch)
    }

    /// Lines completed, lines failed and parts that have ended.
    async fn count(&self, batch: &Batch) -> Result<(u64, u64, usize), StoreError> {
        let progress = self.progress.get_with(batch.id.clone(), Arc::default);
        let keys = self.records.keys(&markers_of(&batch.id)).await?;
        let number = |key: &String| key.rsplit('.').next().and_then(|part| part.parse::<u32>().ok());
        let parts = keys.iter().filter_map(number);
        let new: Vec<u32> = {
            let known = progress.lock();
            parts.filter(|part| !known.parts.contains(part)).collect()
        };
        for (part, marker) in self.markers(&batch.id, new).await? {
            let mut known = progress.lock();
            if known.parts.insert(part) {
                known.completed += u64::from(marker.completed);
                known.failed += u64::from(marker.failed);
            }
        }
        let known = progress.lock();
        Ok((known.completed, known.failed, known.parts.len()))
    }

    /// The markers of these parts that exist, in the order asked for.
    async fn markers(&self, id: &str, parts: Vec<u32>) -> Result<Vec<(u32, Marker)>, StoreError> {
        use futures::{StreamExt, TryStreamExt};
        let read = parts.into_iter().map(|part| {
            let key = marker_key(id, part);
            async move { Ok((part, self.records.get::<Marker>(&key).await?)) }
        });
        let read: Vec<(u32, Option<Versioned<Marker>>)> =
            futures::stream::iter(read).buffered(16).try_collect().await?;
        Ok(read.into_iter().filter_map(|(part, found)| Some((part, found?.value))).collect())
    }

    /// A tenant's batches, newest first, at most `limit` after the one called `after`; and whether there are more.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn list(
        self: &Arc<Self>,
        tenant: &TenantName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Batch>, bool), Failure> {
        let mut page = Vec::new();
        for key in self.records.newest_first(&batch_key(tenant, ""), after).await? {
            let Some(found) = self.records.get::<Batch>(&key).await? else { continue };
            if found.value.tenant != *tenant {
                continue;
            }
            if page.len() == limit {
                return Ok((page, true));
            }
            page.push(self.with_counts(found.value).await?);
        }
        Ok((page, false))
    }

    /// Stops what has not run; what has run can be fetched once the batch is `cancelled`.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::Conflict`] for a batch that is over.
    pub async fn cancel(self: &Arc<Self>, tenant: &TenantName, id: &str) -> Result<Batch, Failure> {
        if self.find(tenant, id).await?.is_none() {
            return Err(no_such_batch(id));
        }
        match self.apply(tenant, id, &Event::CancelAsked).await {
            Ok(batch) => Ok(self.with_counts(batch).await?),
            Err(BatchError::Store(error)) => Err(error.into()),
            Err(BatchError::Gone) => Err(no_such_batch(id)),
            Err(BatchError::Refused(Refused(phase))) => {
                let phase = phase.as_str();
                Err(Failure::Conflict(format!("a batch with the status '{phase}' cannot be cancelled")))
            }
        }
    }

    /// Applies `event` to the batch as it is now; a change in between is read and judged again.
    async fn apply(&self, tenant: &TenantName, id: &str, event: &Event) -> Result<Batch, BatchError> {
        let key = batch_key(tenant, id);
        loop {
            let Versioned { mut value, revision } = self.records.get::<Batch>(&key).await?.ok_or(BatchError::Gone)?;
            if !value.apply(event, self.now())? {
                return Ok(value);
            }
            if self.records.replace(&key, &value, revision).await? {
                tracing::info!(batch = id, phase = value.phase.as_str(), "a batch has moved on");
                if let Some(end) = value.phase.end() {
                    self.metrics.batches_total.with(&(end,)).inc();
                }
                return Ok(value);
            }
        }
    }
}

impl record::Phase {
    fn end(self) -> Option<BatchEnd> {
        match self {
            Self::Completed => Some(BatchEnd::Completed),
            Self::Failed => Some(BatchEnd::Failed),
            Self::Expired => Some(BatchEnd::Expired),
            Self::Cancelled => Some(BatchEnd::Cancelled),
            Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling => None,
        }
    }
}

impl Counts {
    /// Nothing done yet of `total` lines.
    pub const fn of(total: u64) -> Self {
        Self { total, completed: 0, failed: 0 }
    }
}

fn no_such_batch(id: &str) -> Failure {
    Failure::NotFound { kind: "batch", id: id.chars().take(100).collect() }
}
