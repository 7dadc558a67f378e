//! From the definitions that a broker has to those that this version wants: forward only, and never at the price of a
//! message. What is to be done is decided here, without a connection; `forebay migrate` shows it and does it.

use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{Config as AnyConsumerConfig, IntoConsumerConfig};
use async_nats::jetstream::stream::{Config as StreamConfig, State};

use super::fields::{Field, Metadata, Standing, of_consumer, of_store, of_stream, standing};
use super::{DEFINITIONS_VERSION, VERSION_KEY};

/// What has to happen to one stream, bucket, object store or consumer.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<C> {
    /// It is what it should be.
    Nothing,
    /// The broker can change it in place, with all that it holds.
    Update { config: C, changes: Vec<Change> },
    /// The broker cannot change this field; the thing is empty and can be made anew.
    Recreate { config: C, changes: Vec<Change> },
    /// It would lose messages, or go backward.
    Refuse { changes: Vec<Change>, why: String },
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub field: &'static str,
    pub from: String,
    pub to: String,
}

/// What is to be done with a stream whose definition should be `wanted`.
pub fn stream(found: &StreamConfig, state: &State, wanted: &StreamConfig) -> Step<StreamConfig> {
    decide(found, state, wanted.clone(), &of_stream(found), &of_stream(wanted))
}

/// The same for the stream behind a bucket or an object store, of which `wanted` holds only what is ours to choose.
pub fn store(found: &StreamConfig, state: &State, wanted: &StreamConfig) -> Step<StreamConfig> {
    let config = StreamConfig {
        storage: wanted.storage,
        num_replicas: wanted.num_replicas,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        metadata: found.metadata.clone().into_iter().chain(wanted.metadata.clone()).collect(),
        ..found.clone()
    };
    decide(found, state, config, &of_store(found), &of_store(wanted))
}

fn decide(
    found: &StreamConfig,
    state: &State,
    config: StreamConfig,
    has: &[Field],
    wants: &[Field],
) -> Step<StreamConfig> {
    let changes = changes(has, wants);
    if changes.is_empty() {
        return Step::Nothing;
    }
    if let Some(why) = backward(&found.metadata) {
        return Step::Refuse { changes, why };
    }
    let fixed = found.storage != config.storage || found.retention != config.retention;
    if fixed && state.messages > 0 {
        let why = format!(
            "storage and retention cannot be changed in place, and {} messages would be lost; drain it first: stop the apis \
             and wait until it is empty",
            state.messages
        );
        return Step::Refuse { changes, why };
    }
    if fixed {
        return Step::Recreate { config, changes };
    }
    if let Some(why) = loses(found, state, &config) {
        return Step::Refuse { changes, why };
    }
    Step::Update { config, changes }
}

/// Why the new limits would cost messages that are there, if they would.
fn loses(found: &StreamConfig, state: &State, wanted: &StreamConfig) -> Option<String> {
    if wanted.max_messages >= 0 && state.messages > wanted.max_messages as u64 {
        return Some(format!("it holds {} messages, more than max_msgs = {}", state.messages, wanted.max_messages));
    }
    if wanted.max_bytes >= 0 && state.bytes > wanted.max_bytes as u64 {
        return Some(format!("it holds {} bytes, more than max_bytes = {}", state.bytes, wanted.max_bytes));
    }
    let shorter = !wanted.max_age.is_zero() && (found.max_age.is_zero() || wanted.max_age < found.max_age);
    if shorter && state.messages > 0 {
        return Some(format!(
            "max_age would shrink to {:?} and what is older would be removed; erase it first, or wait until it is empty",
            wanted.max_age
        ));
    }
    None
}

/// What is to be done with a durable consumer.
pub fn consumer(found: &AnyConsumerConfig, wanted: &ConsumerConfig) -> Step<ConsumerConfig> {
    let changes = changes(&of_consumer(found), &of_consumer(&wanted.clone().into_consumer_config()));
    if changes.is_empty() {
        return Step::Nothing;
    }
    if let Some(why) = backward(&found.metadata) {
        return Step::Refuse { changes, why };
    }
    if changes.iter().any(|change| ["filter_subject", "ack_policy", "max_waiting"].contains(&change.field)) {
        let why =
            "this cannot be changed in place; stop the fleet, delete the consumer and start the new version".to_owned();
        return Step::Refuse { changes, why };
    }
    Step::Update { config: wanted.clone(), changes }
}

fn changes(has: &[Field], wants: &[Field]) -> Vec<Change> {
    let differing = has.iter().zip(wants).filter(|((_, from), (_, to))| from != to);
    differing.map(|((field, from), (_, to))| Change { field, from: from.clone(), to: to.clone() }).collect()
}

/// Why these definitions are not ours to change, if they are a newer version's, whether or not we can work with them.
fn backward(found: &Metadata) -> Option<String> {
    let version = found.get(VERSION_KEY)?;
    (standing(found, DEFINITIONS_VERSION) != Standing::Comparable)
        .then(|| format!("its definitions are of version {version}, newer than this program's {DEFINITIONS_VERSION}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::{Lane, ModelToken};
    use crate::settings::{Durability, StoreArgs};
    use crate::streams::{Bucket, Durable, READER_KEY, bucket_config, jobs_stream_config};

    fn token() -> ModelToken {
        ModelToken::from("m-0123456789")
    }

    fn config(stores: &StoreArgs) -> StreamConfig {
        jobs_stream_config(&token(), stores)
    }

    fn holding(messages: u64) -> State {
        let json = serde_json::json!({
            "messages": messages, "bytes": messages * 100, "first_seq": 1, "last_seq": messages, "consumer_count": 3,
            "first_ts": "2026-01-01T00:00:00Z", "last_ts": "2026-01-01T00:00:00Z"
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn more_replicas_and_higher_limits_are_changed_in_place() {
        let found = config(&StoreArgs::default());
        let stores =
            StoreArgs { durability: Durability::Replicated, queue_max_messages: 2_000_000, ..StoreArgs::default() };
        let Step::Update { changes, .. } = stream(&found, &holding(10), &config(&stores)) else { panic!("in place") };
        assert_eq!(changes.iter().map(|change| change.field).collect::<Vec<_>>(), ["num_replicas", "max_msgs"]);
    }

    #[test]
    fn what_it_is_already_needs_nothing() {
        let found = config(&StoreArgs::default());
        assert_eq!(stream(&found, &holding(10), &found), Step::Nothing);
    }

    #[test]
    fn another_storage_is_made_anew_when_empty_and_refused_otherwise() {
        let found = config(&StoreArgs { durability: Durability::Memory, ..StoreArgs::default() });
        let wanted = config(&StoreArgs::default());
        assert!(matches!(stream(&found, &holding(0), &wanted), Step::Recreate { .. }));
        let Step::Refuse { why, .. } = stream(&found, &holding(3), &wanted) else { panic!("it holds messages") };
        assert!(why.contains("3 messages would be lost"), "{why}");
    }

    /// Otherwise it could never be changed: there is always a model, and always a counter.
    #[test]
    fn the_storage_of_a_bucket_does_not_follow_the_durability() {
        let memory = StoreArgs { durability: Durability::Memory, ..StoreArgs::default() };
        for bucket in Bucket::ALL {
            let found = bucket_config(bucket, &StoreArgs::default());
            assert_eq!(store(&found, &holding(3), &bucket_config(bucket, &memory)), Step::Nothing);
        }
    }

    #[test]
    fn limits_below_what_is_there_are_refused() {
        let found = config(&StoreArgs::default());
        let lower = |queue_max_messages| config(&StoreArgs { queue_max_messages, ..StoreArgs::default() });
        assert!(matches!(stream(&found, &holding(5), &lower(4)), Step::Refuse { .. }));
        assert!(matches!(stream(&found, &holding(5), &lower(5)), Step::Update { .. }));
        let mut shorter = found.clone();
        shorter.max_age = Duration::from_secs(60);
        assert!(matches!(store(&found, &holding(5), &shorter), Step::Refuse { .. }));
        assert!(matches!(store(&found, &holding(0), &shorter), Step::Update { .. }));
    }

    #[test]
    fn a_newer_versions_definitions_are_left_alone() {
        let mut found = config(&StoreArgs::default());
        found.metadata.insert(VERSION_KEY.to_owned(), "99".to_owned());
        let Step::Refuse { why, .. } = stream(&found, &holding(0), &config(&StoreArgs::default())) else {
            panic!("it is newer")
        };
        assert!(why.contains("99"), "{why}");
        found.metadata.insert(READER_KEY.to_owned(), "1".to_owned());
        let step = stream(&found, &holding(0), &config(&StoreArgs::default()));
        assert!(matches!(step, Step::Refuse { .. }), "that we could work with it does not make it ours");
        let ours = bucket_config(Bucket::Stats, &StoreArgs::default());
        let newer = StreamConfig { metadata: found.metadata, ..ours.clone() };
        assert!(matches!(store(&newer, &holding(0), &ours), Step::Refuse { .. }));
        let from_before_stores_had_one = StreamConfig { metadata: Metadata::new(), ..ours.clone() };
        assert_eq!(store(&from_before_stores_had_one, &holding(0), &ours), Step::Nothing);
    }

    #[test]
    fn a_consumers_waiting_time_is_changed_in_place_but_not_what_it_delivers() {
        let of = |durability| {
            let stores = StoreArgs { durability, ..StoreArgs::default() };
            Durable::Lane(token(), Lane::High).config(&stores)
        };
        let found = of(Durability::File).into_consumer_config();
        let Step::Update { changes, .. } = consumer(&found, &of(Durability::Replicated)) else { panic!("in place") };
        assert_eq!(changes.iter().map(|change| change.field).collect::<Vec<_>>(), ["ack_wait"]);
        let mut other = of(Durability::File);
        other.filter_subject = "forebay.jobs.other.high.*".to_owned();
        assert!(matches!(consumer(&found, &other), Step::Refuse { .. }));
    }
}
