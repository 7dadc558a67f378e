//! Every stream, consumer and bucket, in one place, and the only code that may create them.
//!
//! Definitions are constants of the fleet, never a worker's flags, and carry a version in their metadata. A process
//! creates what is missing and refuses to start when what is there differs, naming the field: the client's own create
//! would silently overwrite it.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, IntoConsumerConfig};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};

use crate::ids::{Lane, ModelToken};
use crate::subjects;

/// Version of the definitions below.
pub const DEFINITIONS_VERSION: &str = "1";
const VERSION_KEY: &str = "forebay.version";

/// Alias → model record.
pub const MODELS_BUCKET: &str = "FOREBAY_MODELS";
/// The stream behind [`MODELS_BUCKET`]; always there, so it also answers for the broker's clock.
pub const MODELS_STREAM: &str = "KV_FOREBAY_MODELS";

/// A publish may be repeated with the same id for half of this.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(60);
/// A delivery that is neither acknowledged nor reported in progress for this long goes to somebody else.
pub const ACK_WAIT: Duration = Duration::from_secs(5);
/// Only a backstop: the answer to a poison job is decided by workers, not by counting deliveries.
pub const MAX_DELIVER: i64 = 20;
const MAX_ACK_PENDING: i64 = 20_000;
const MAX_WAITING: i64 = 8_192;
/// Backstops of one model's queue; admission at the apis is the working limit.
pub const MAX_MESSAGES: i64 = 1_000_000;
pub const MAX_BYTES: i64 = 1 << 30;

pub const JOBS_PREFIX: &str = "FOREBAY_JOBS_";

/// Name of the stream that holds a model's synchronous jobs.
pub fn jobs_stream(token: &ModelToken) -> String {
    format!("{JOBS_PREFIX}{token}")
}

/// Work queue on file: a message is there until it is acknowledged, and survives the broker's process.
pub fn jobs_stream_config(token: &ModelToken) -> StreamConfig {
    StreamConfig {
        name: jobs_stream(token),
        subjects: vec![subjects::jobs_model(token)],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: MAX_MESSAGES,
        max_bytes: MAX_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        allow_message_ttl: true,
        num_replicas: 1,
        metadata: version_metadata(),
        ..Default::default()
    }
}

/// One durable pull consumer per lane, shared by all workers of the model.
pub fn lane_consumer_config(token: &ModelToken, lane: Lane) -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some(lane.as_str().to_owned()),
        filter_subject: subjects::jobs_lane(token, lane),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: ACK_WAIT,
        max_deliver: MAX_DELIVER,
        max_ack_pending: MAX_ACK_PENDING,
        max_waiting: MAX_WAITING,
        metadata: version_metadata(),
        ..Default::default()
    }
}

fn version_metadata() -> HashMap<String, String> {
    HashMap::from([(VERSION_KEY.to_owned(), DEFINITIONS_VERSION.to_owned())])
}

#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    #[error(
        "{kind} {name} exists with {field} = {found}, this version needs {wanted}; \
             stop the fleet and delete it (it must be empty), or start the version that created it"
    )]
    Mismatch { kind: &'static str, name: String, field: &'static str, found: String, wanted: String },
    #[error("cannot create {kind} {name}: {cause}; check the broker's JetStream limits and disk")]
    Create { kind: &'static str, name: String, cause: String },
    #[error("JetStream does not answer: {0}; is it enabled on the broker?")]
    Unavailable(String),
}

/// Creates the model's stream and its consumers if they are missing, and verifies them if they are not.
///
/// # Errors
/// [`EnsureError::Mismatch`] names the first field that differs; nothing is changed then.
pub async fn ensure_jobs(js: &jetstream::Context, token: &ModelToken) -> Result<(), EnsureError> {
    let wanted = jobs_stream_config(token);
    let stream = match js.get_stream(&wanted.name).await {
        Ok(stream) => stream,
        Err(error) if is_not_found(&error) => create_stream(js, wanted.clone()).await?,
        Err(error) => return Err(EnsureError::Unavailable(error.to_string())),
    };
    let found = &stream.cached_info().config;
    check("stream", &wanted.name, &stream_fields(found), &stream_fields(&wanted))?;
    for lane in Lane::ALL {
        let wanted = lane_consumer_config(token, lane);
        let name = format!("{}/{}", jobs_stream(token), lane.as_str());
        // Creating a consumer that exists with another configuration is an error in this call, not an update.
        let consumer = stream.create_consumer_strict(wanted.clone()).await.map_err(|error| EnsureError::Create {
            kind: "consumer",
            name: name.clone(),
            cause: error.to_string(),
        });
        let found = match consumer {
            Ok(consumer) => consumer.cached_info().config.clone(),
            Err(error) => match stream.consumer_info(lane.as_str()).await {
                Ok(info) => info.config,
                Err(_) => return Err(error),
            },
        };
        let (found, wanted) = (consumer_fields(&found), consumer_fields(&wanted.into_consumer_config()));
        check("consumer", &name, &found, &wanted)?;
    }
    Ok(())
}

async fn create_stream(
    js: &jetstream::Context,
    config: StreamConfig,
) -> Result<jetstream::stream::Stream<jetstream::stream::Info>, EnsureError> {
    let name = config.name.clone();
    #[expect(clippy::disallowed_methods, reason = "the one place that creates streams")]
    let created = js.create_stream(config).await;
    match created {
        Ok(stream) => Ok(stream),
        // Another process may have been faster.
        Err(error) => match js.get_stream(&name).await {
            Ok(stream) => Ok(stream),
            Err(_) => Err(EnsureError::Create { kind: "stream", name, cause: error.to_string() }),
        },
    }
}

/// Opens a key-value bucket with one value per key, creating it if it is missing.
///
/// # Errors
/// [`EnsureError::Create`] if the broker refuses, [`EnsureError::Unavailable`] if it does not answer.
pub async fn ensure_bucket(js: &jetstream::Context, bucket: &str) -> Result<kv::Store, EnsureError> {
    if let Ok(store) = js.get_key_value(bucket).await {
        return Ok(store);
    }
    let config = kv::Config {
        bucket: bucket.to_owned(),
        history: 1,
        storage: StorageType::File,
        max_bytes: 256 << 20,
        num_replicas: 1,
        ..Default::default()
    };
    match js.create_key_value(config).await {
        Ok(store) => Ok(store),
        Err(error) => js.get_key_value(bucket).await.map_err(|_| EnsureError::Create {
            kind: "bucket",
            name: bucket.to_owned(),
            cause: error.to_string(),
        }),
    }
}

fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

type Field = (&'static str, String);

fn stream_fields(config: &StreamConfig) -> Vec<Field> {
    vec![
        ("definitions version", config.metadata.get(VERSION_KEY).cloned().unwrap_or_else(|| "none".to_owned())),
        ("subjects", config.subjects.join(" ")),
        ("retention", format!("{:?}", config.retention)),
        ("storage", format!("{:?}", config.storage)),
        ("discard", format!("{:?}", config.discard)),
        ("max_msgs", config.max_messages.to_string()),
        ("max_bytes", config.max_bytes.to_string()),
        ("max_age", format!("{:?}", config.max_age)),
        ("duplicate_window", format!("{:?}", config.duplicate_window)),
        ("allow_msg_ttl", config.allow_message_ttl.to_string()),
    ]
}

fn consumer_fields(config: &consumer::Config) -> Vec<Field> {
    vec![
        ("definitions version", config.metadata.get(VERSION_KEY).cloned().unwrap_or_else(|| "none".to_owned())),
        ("filter_subject", config.filter_subject.clone()),
        ("ack_policy", format!("{:?}", config.ack_policy)),
        ("ack_wait", format!("{:?}", config.ack_wait)),
        ("backoff", format!("{:?}", config.backoff)),
        ("max_deliver", config.max_deliver.to_string()),
        ("max_ack_pending", config.max_ack_pending.to_string()),
        ("max_waiting", config.max_waiting.to_string()),
    ]
}

fn check(kind: &'static str, name: &str, found: &[Field], wanted: &[Field]) -> Result<(), EnsureError> {
    for ((field, found), (_, wanted)) in found.iter().zip(wanted) {
        if found != wanted {
            let (found, wanted) = (found.clone(), wanted.clone());
            return Err(EnsureError::Mismatch { kind, name: name.to_owned(), field, found, wanted });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_by_its_field() {
        let token = ModelToken::from("m-0123456789");
        let wanted = jobs_stream_config(&token);
        let mut found = wanted.clone();
        found.max_bytes = 5;
        let error = check("stream", "s", &stream_fields(&found), &stream_fields(&wanted)).unwrap_err();
        assert!(error.to_string().contains("max_bytes = 5"), "{error}");
    }

    #[test]
    fn a_definition_without_a_version_is_refused() {
        let wanted = jobs_stream_config(&ModelToken::from("m-0123456789"));
        let mut found = wanted.clone();
        found.metadata.clear();
        assert!(check("stream", "s", &stream_fields(&found), &stream_fields(&wanted)).is_err());
    }
}
