//! Every stream, consumer, bucket and object store, in one place, and the only code that may create them.
//!
//! | name | kind | holds | kept |
//! |---|---|---|---|
//! | `FOREBAY_JOBS_<token>` | work queue | a model's jobs | until acknowledged, or a little past their deadline |
//! | `FOREBAY_ASYNC` | work queue | asynchronous jobs that wait | until they have ended |
//! | `FOREBAY_PARTS` | work queue | parts of batches, and steps of batches as a whole | until they have ended |
//! | `FOREBAY_WEBHOOKS` | work queue | calls to make when a job has ended | until made, or given up |
//! | `FOREBAY_DEAD` | stream | dead letters | `dead_letters_keep` |
//! | `FOREBAY_ADVISORIES` | stream | what the broker gave up delivering | `dead_letters_keep` |
//! | `FOREBAY_MODELS` | bucket | alias → model | for ever |
//! | `FOREBAY_STATS` | bucket | counters of every process | for ever, folded |
//! | `FOREBAY_ATTEMPTS` | bucket | starts of jobs in quarantine | an hour |
//! | `FOREBAY_REAPS` | bucket | which dead worker was dealt with by whom | an hour |
//! | `FOREBAY_RECORDS` | bucket | state of asynchronous jobs | `results_keep` |
//! | `FOREBAY_IDEMPOTENCY` | bucket | idempotency key → job | `results_keep` |
//! | `FOREBAY_QUOTAS` | bucket | tokens used per tenant and day | two days |
//! | `FOREBAY_BATCHES` | bucket | batches of the Batch API, records of files | `files_keep` |
//! | `FOREBAY_RESULTS` | objects | large results | `results_keep` |
//! | `FOREBAY_FILES` | objects | uploaded and produced files | `files_keep` |
//!
//! Definitions are constants of the fleet and its [`StoreArgs`], never a worker's flags, and carry a version in their
//! metadata. A process creates what is missing and refuses to start when what is there differs, naming the field: the
//! client's own create would silently overwrite it.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType};

use crate::ids::ModelToken;
use crate::settings::{Durability, StoreArgs};
use crate::subjects;

mod consumers;
mod ensure;
mod fields;
pub mod migrate;
mod migration;
mod room;

pub use consumers::Durable;
pub use ensure::{EnsureError, Stores, through_an_election};
pub use migration::{Finding, Migration, Verdict};
pub use room::{Level, is_full, level};

/// Version of the definitions below.
pub const DEFINITIONS_VERSION: u32 = 1;
/// Processes of this definitions version and later work with the ones below as they are: one of the release before that
/// crashes after a migration starts again. Raised when they would not.
pub const OLDEST_READER: u32 = 1;
pub const VERSION_KEY: &str = "forebay.version";
pub const READER_KEY: &str = "forebay.oldest-reader";

/// Alias → model record.
pub const MODELS_BUCKET: &str = "FOREBAY_MODELS";
/// The stream behind [`MODELS_BUCKET`]; always there, so it also answers for the broker's clock.
pub const MODELS_STREAM: &str = "KV_FOREBAY_MODELS";

/// A publish may be repeated with the same id for half of this.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(60);
/// A delivery that is neither acknowledged nor reported in progress for this long goes to somebody else.
pub const ACK_WAIT: Duration = Duration::from_secs(5);
/// The same where streams are replicated: a new leader takes 5 to 8 s to be chosen.
pub const ACK_WAIT_REPLICATED: Duration = Duration::from_secs(15);
/// Only a backstop: the answer to a poison job is decided by workers, not by counting deliveries.
pub const MAX_DELIVER: i64 = 20;
pub const MAX_ACK_PENDING: i64 = 20_000;
const MAX_WAITING: i64 = 8_192;
/// How long the consumer of a tenant that has nothing to do is kept: longer than a fleet is without workers for a moment.
const TURN_KEPT: Duration = Duration::from_secs(3_600);
/// Backstop of the queues that there is one of.
const MAX_MESSAGES: i64 = 1_000_000;

pub const JOBS_PREFIX: &str = "FOREBAY_JOBS_";

/// Streams that there is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Async,
    Parts,
    Webhooks,
    Dead,
    Advisories,
}

impl Queue {
    pub const ALL: [Self; 5] = [Self::Async, Self::Parts, Self::Webhooks, Self::Dead, Self::Advisories];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Async => "FOREBAY_ASYNC",
            Self::Parts => "FOREBAY_PARTS",
            Self::Webhooks => "FOREBAY_WEBHOOKS",
            Self::Dead => "FOREBAY_DEAD",
            Self::Advisories => "FOREBAY_ADVISORIES",
        }
    }
}

/// Key-value buckets, one value per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    Models,
    Stats,
    Attempts,
    Reaps,
    Records,
    Idempotency,
    Quotas,
    Batches,
}

impl Bucket {
    pub const ALL: [Self; 8] = [
        Self::Models,
        Self::Stats,
        Self::Attempts,
        Self::Reaps,
        Self::Records,
        Self::Idempotency,
        Self::Quotas,
        Self::Batches,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Models => MODELS_BUCKET,
            Self::Stats => "FOREBAY_STATS",
            Self::Attempts => "FOREBAY_ATTEMPTS",
            Self::Reaps => "FOREBAY_REAPS",
            Self::Records => "FOREBAY_RECORDS",
            Self::Idempotency => "FOREBAY_IDEMPOTENCY",
            Self::Quotas => "FOREBAY_QUOTAS",
            Self::Batches => "FOREBAY_BATCHES",
        }
    }

    /// Name of the stream behind it.
    pub fn stream(self) -> String {
        format!("KV_{}", self.name())
    }

    /// Of all its values.
    pub fn subjects(self) -> String {
        format!("$KV.{}.>", self.name())
    }

    /// How long a value stays; `None` = until it is removed.
    pub fn keep(self, stores: &StoreArgs) -> Option<Duration> {
        const HOUR: Duration = Duration::from_secs(3_600);
        match self {
            Self::Models | Self::Stats => None,
            Self::Attempts | Self::Reaps => Some(HOUR),
            Self::Quotas => Some(48 * HOUR),
            Self::Records | Self::Idempotency => Some(stores.results_keep),
            Self::Batches => Some(stores.files_keep),
        }
    }

    fn max_bytes(self, stores: &StoreArgs) -> i64 {
        match self {
            Self::Records => bound(stores.records_max_bytes),
            _ => 256 << 20,
        }
    }
}

/// Object stores, for what does not fit into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objects {
    Results,
    Files,
}

impl Objects {
    pub const ALL: [Self; 2] = [Self::Results, Self::Files];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Results => "FOREBAY_RESULTS",
            Self::Files => "FOREBAY_FILES",
        }
    }

    pub fn keep(self, stores: &StoreArgs) -> Duration {
        match self {
            Self::Results => stores.results_keep,
            Self::Files => stores.files_keep,
        }
    }

    fn max_bytes(self, stores: &StoreArgs) -> i64 {
        match self {
            Self::Results => bound(stores.results_max_bytes),
            Self::Files => bound(stores.files_max_bytes),
        }
    }
}

/// All queues, buckets and object stores that there is one of, and the name of the stream behind each.
pub fn singles() -> impl Iterator<Item = (&'static str, String)> {
    let queues = Queue::ALL.into_iter().map(|queue| (queue.name(), queue.name().to_owned()));
    let buckets = Bucket::ALL.into_iter().map(|bucket| (bucket.name(), bucket.stream()));
    let objects = Objects::ALL.into_iter().map(|objects| (objects.name(), format!("OBJ_{}", objects.name())));
    queues.chain(buckets).chain(objects)
}

/// As the broker is told it.
fn bound(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Name of the stream that holds a model's synchronous jobs.
pub fn jobs_stream(token: &ModelToken) -> String {
    format!("{JOBS_PREFIX}{token}")
}

/// How long a delivery is lent in a fleet of this durability.
pub const fn ack_wait(durability: Durability) -> Duration {
    match durability {
        Durability::Replicated => ACK_WAIT_REPLICATED,
        Durability::Memory | Durability::File => ACK_WAIT,
    }
}

const fn storage(durability: Durability) -> StorageType {
    match durability {
        Durability::Memory => StorageType::Memory,
        Durability::File | Durability::Replicated => StorageType::File,
    }
}

/// Work queue: a message is there until it is acknowledged, and survives the broker's process unless it is in memory.
pub fn jobs_stream_config(token: &ModelToken, stores: &StoreArgs) -> StreamConfig {
    StreamConfig {
        name: jobs_stream(token),
        subjects: vec![subjects::jobs_model(token)],
        retention: RetentionPolicy::WorkQueue,
        storage: storage(stores.durability),
        discard: DiscardPolicy::New,
        max_messages: i64::from(stores.queue_max_messages),
        max_bytes: i64::from(stores.queue_max_bytes),
        duplicate_window: DUPLICATE_WINDOW,
        allow_message_ttl: true,
        num_replicas: stores.durability.replicas(),
        metadata: metadata(),
        ..Default::default()
    }
}

/// A stream that there is one of. What is asynchronous is on file in every mode: its 202 promises more than a connection.
pub fn queue_config(queue: Queue, stores: &StoreArgs) -> StreamConfig {
    let (subject, work_queue, keep) = match queue {
        Queue::Async => (subjects::ASYNC_ALL, true, Duration::ZERO),
        Queue::Parts => (subjects::PARTS_ALL, true, Duration::ZERO),
        Queue::Webhooks => (subjects::WEBHOOKS_ALL, true, Duration::ZERO),
        Queue::Dead => (subjects::DEAD_ALL, false, stores.dead_letters_keep),
        Queue::Advisories => (subjects::ADVISORIES_MAX_DELIVERIES, false, stores.dead_letters_keep),
    };
    StreamConfig {
        name: queue.name().to_owned(),
        subjects: vec![subject.to_owned()],
        retention: if work_queue { RetentionPolicy::WorkQueue } else { RetentionPolicy::Limits },
        storage: StorageType::File,
        discard: if work_queue { DiscardPolicy::New } else { DiscardPolicy::Old },
        max_messages: MAX_MESSAGES,
        max_bytes: if matches!(queue, Queue::Async | Queue::Parts) { 2 << 30 } else { 256 << 20 },
        max_age: keep,
        duplicate_window: if keep.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(keep) },
        allow_direct: !work_queue,
        // Only so that what nobody can run any more does not stay: a job ends by its record.
        allow_message_ttl: queue == Queue::Async,
        num_replicas: stores.durability.replicas(),
        metadata: metadata(),
        ..Default::default()
    }
}

/// As the client makes a bucket, with one value per key, and with our metadata, which the client's own call cannot write.
pub fn bucket_config(bucket: Bucket, stores: &StoreArgs) -> StreamConfig {
    StreamConfig {
        name: bucket.stream(),
        subjects: vec![bucket.subjects()],
        max_messages_per_subject: 1,
        max_bytes: bucket.max_bytes(stores),
        max_age: bucket.keep(stores).unwrap_or_default(),
        deny_delete: true,
        ..store_config(stores)
    }
}

/// As the client makes an object store, with our metadata.
pub fn objects_config(objects: Objects, stores: &StoreArgs) -> StreamConfig {
    let name = objects.name();
    StreamConfig {
        name: format!("OBJ_{name}"),
        subjects: vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        max_bytes: objects.max_bytes(stores),
        max_age: objects.keep(stores),
        ..store_config(stores)
    }
}

/// On file in every mode: only the queues of synchronous jobs are worth nothing without the processes that wait for them,
/// and none of the stores is on the way of a request.
fn store_config(stores: &StoreArgs) -> StreamConfig {
    StreamConfig {
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        num_replicas: stores.durability.replicas(),
        metadata: metadata(),
        ..Default::default()
    }
}

/// Bytes that the broker reserves for everything above, with `models` models, by the bounds that they have unless settings say
/// otherwise: a stream reserves its bound when it is created.
pub fn reserved_bytes(models: usize) -> u64 {
    let stores = StoreArgs::default();
    let queues = Queue::ALL.map(|queue| queue_config(queue, &stores).max_bytes);
    let buckets = Bucket::ALL.map(|bucket| bucket_config(bucket, &stores).max_bytes);
    let objects = Objects::ALL.map(|objects| objects_config(objects, &stores).max_bytes);
    let fixed: i64 = queues.into_iter().chain(buckets).chain(objects).sum();
    fixed.unsigned_abs() + u64::from(stores.queue_max_bytes) * models as u64
}

fn metadata() -> HashMap<String, String> {
    let (version, reader) = (DEFINITIONS_VERSION.to_string(), OLDEST_READER.to_string());
    HashMap::from([(VERSION_KEY.to_owned(), version), (READER_KEY.to_owned(), reader)])
}
