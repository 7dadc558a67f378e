//! What is compared between a definition and what the broker has.

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::Config as StreamConfig;

use super::{EnsureError, VERSION_KEY};

pub(super) type Field = (&'static str, String);

pub(super) fn of_stream(config: &StreamConfig) -> Vec<Field> {
    vec![
        ("definitions version", config.metadata.get(VERSION_KEY).cloned().unwrap_or_else(|| "none".to_owned())),
        ("subjects", config.subjects.join(" ")),
        ("retention", format!("{:?}", config.retention)),
        ("storage", format!("{:?}", config.storage)),
        ("num_replicas", config.num_replicas.to_string()),
        ("discard", format!("{:?}", config.discard)),
        ("max_msgs", config.max_messages.to_string()),
        ("max_bytes", config.max_bytes.to_string()),
        ("max_age", format!("{:?}", config.max_age)),
        ("duplicate_window", format!("{:?}", config.duplicate_window)),
        ("allow_msg_ttl", config.allow_message_ttl.to_string()),
    ]
}

/// The part of a bucket's or object store's stream that is ours to choose.
pub(super) fn of_store(config: &StreamConfig) -> Vec<Field> {
    vec![
        ("storage", format!("{:?}", config.storage)),
        ("num_replicas", config.num_replicas.to_string()),
        ("max_bytes", config.max_bytes.to_string()),
        ("max_age", format!("{:?}", config.max_age)),
    ]
}

pub(super) fn of_consumer(config: &consumer::Config) -> Vec<Field> {
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

pub(super) fn check(kind: &'static str, name: &str, found: &[Field], wanted: &[Field]) -> Result<(), EnsureError> {
    for ((field, found), (_, wanted)) in found.iter().zip(wanted) {
        if found != wanted {
            let (found, wanted) = (found.clone(), wanted.clone());
            return Err(EnsureError::Mismatch { kind, name: name.to_owned(), field, found, wanted });
        }
    }
    Ok(())
}
