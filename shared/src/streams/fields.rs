//! What is compared between a definition and what the broker has.

use std::collections::HashMap;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::Config as StreamConfig;

use super::{DEFINITIONS_VERSION, EnsureError, READER_KEY, VERSION_KEY};

pub(super) type Field = (&'static str, String);
pub(super) type Metadata = HashMap<String, String>;

const VERSION: &str = "definitions version";

pub(super) fn of_stream(config: &StreamConfig) -> Vec<Field> {
    vec![
        (VERSION, version(&config.metadata, "none")),
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

/// The part of a bucket's or object store's stream that is ours to choose. One without a version was made before these
/// carried one, to the first definitions.
pub(super) fn of_store(config: &StreamConfig) -> Vec<Field> {
    vec![
        (VERSION, version(&config.metadata, "1")),
        ("storage", format!("{:?}", config.storage)),
        ("num_replicas", config.num_replicas.to_string()),
        ("max_bytes", config.max_bytes.to_string()),
        ("max_age", format!("{:?}", config.max_age)),
    ]
}

pub(super) fn of_consumer(config: &consumer::Config) -> Vec<Field> {
    vec![
        (VERSION, version(&config.metadata, "none")),
        ("filter_subject", config.filter_subject.clone()),
        ("ack_policy", format!("{:?}", config.ack_policy)),
        ("ack_wait", format!("{:?}", config.ack_wait)),
        ("backoff", format!("{:?}", config.backoff)),
        ("max_deliver", config.max_deliver.to_string()),
        ("max_ack_pending", config.max_ack_pending.to_string()),
        ("max_waiting", config.max_waiting.to_string()),
    ]
}

fn version(metadata: &Metadata, without: &str) -> String {
    metadata.get(VERSION_KEY).map_or(without, String::as_str).to_owned()
}

/// What a process of our version makes of definitions with this metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Of our version or an older one: every field is compared.
    Comparable,
    /// Newer, and said to be fit for us: whatever differs is meant to.
    NewerAndReadable,
    Newer(u32),
}

pub(super) fn standing(metadata: &Metadata, ours: u32) -> Standing {
    let number = |key| metadata.get(key).and_then(|text| text.parse::<u32>().ok());
    match (number(VERSION_KEY), number(READER_KEY)) {
        (Some(found), Some(oldest)) if found > ours && oldest <= ours => Standing::NewerAndReadable,
        (Some(found), _) if found > ours => Standing::Newer(found),
        _ => Standing::Comparable,
    }
}

/// `metadata`: of what was found.
pub(super) fn check(
    kind: &'static str,
    name: &str,
    metadata: &Metadata,
    found: &[Field],
    wanted: &[Field],
) -> Result<(), EnsureError> {
    match standing(metadata, DEFINITIONS_VERSION) {
        Standing::NewerAndReadable => return Ok(()),
        Standing::Newer(found) => return Err(EnsureError::Newer { kind, name: name.to_owned(), found }),
        Standing::Comparable => {}
    }
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

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn newer_definitions_are_worked_with_if_they_say_so() {
        let standing = |pairs: &[(&str, &str)]| standing(&metadata(pairs), 2);
        assert_eq!(standing(&[(VERSION_KEY, "3"), (READER_KEY, "2")]), Standing::NewerAndReadable);
        assert_eq!(standing(&[(VERSION_KEY, "4"), (READER_KEY, "3")]), Standing::Newer(4));
        assert_eq!(standing(&[(VERSION_KEY, "3")]), Standing::Newer(3));
        for comparable in [&[] as &[_], &[(VERSION_KEY, "2"), (READER_KEY, "2")], &[(VERSION_KEY, "1")]] {
            assert_eq!(standing(comparable), Standing::Comparable);
        }
    }

    #[test]
    fn a_newer_definition_that_is_not_for_us_is_refused_as_such() {
        let newer = (DEFINITIONS_VERSION + 1).to_string();
        let refused = check("stream", "s", &metadata(&[(VERSION_KEY, &newer)]), &[], &[]).unwrap_err();
        assert!(refused.to_string().contains("newer than this program's"), "{refused}");
        let ours = DEFINITIONS_VERSION.to_string();
        let readable = metadata(&[(VERSION_KEY, &newer), (READER_KEY, &ours)]);
        let differs = [("max_bytes", "1".to_owned())];
        assert!(check("stream", "s", &readable, &differs, &[("max_bytes", "2".to_owned())]).is_ok());
    }
}
