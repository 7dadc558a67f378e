//! Every durable consumer. Who takes from one opens it by this table, and `forebay migrate` changes it by the same.

use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};

use super::{Bucket, JOBS_PREFIX, MAX_ACK_PENDING, MAX_DELIVER, MAX_WAITING, Queue, ack_wait, jobs_stream, metadata};
use crate::ids::{Lane, ModelToken};
use crate::settings::StoreArgs;
use crate::subjects;

const EXPRESS: &str = "-express";
/// A token ends in a dash and as many hexadecimal digits.
const TOKEN_DIGITS: usize = 10;

/// A durable pull consumer, shared by all processes that take from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durable {
    /// A model's jobs in one lane, for its workers.
    Lane(ModelToken, Lane),
    /// A model's asynchronous jobs. For apis, as everything below.
    Async(ModelToken),
    /// Those that a synchronous request waits for.
    Express(ModelToken),
    BatchParts,
    /// Steps of batches as a whole, which do not wait behind parts.
    BatchSteps,
    /// Calls to make when a job has ended.
    WebhookCalls,
    /// Changes of jobs' records, of which calls are made.
    WebhookOutbox,
}

impl Durable {
    /// Those that there is one of.
    const FIXED: [Self; 4] = [Self::BatchParts, Self::BatchSteps, Self::WebhookCalls, Self::WebhookOutbox];

    /// Those that a stream has in any case, once the processes that take from it have started.
    pub fn always_on(stream: &str) -> Vec<Self> {
        match stream.strip_prefix(JOBS_PREFIX) {
            Some(token) => Lane::ALL.map(|lane| Self::Lane(token.into(), lane)).into(),
            None => Self::FIXED.into_iter().filter(|durable| durable.stream() == stream).collect(),
        }
    }

    /// The one of this name; `None` for what is not ours.
    pub fn find(stream: &str, name: &str) -> Option<Self> {
        if stream == Queue::Async.name() {
            let express = name.strip_suffix(EXPRESS);
            let token = express.unwrap_or(name);
            let (_, digits) = token.rsplit_once('-')?;
            let is_token = digits.len() == TOKEN_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            return is_token.then(|| if express.is_some() { Self::Express } else { Self::Async }(token.into()));
        }
        Self::always_on(stream).into_iter().find(|durable| durable.name() == name)
    }

    /// Name of the stream that it delivers from.
    pub fn stream(&self) -> String {
        match self {
            Self::Lane(token, _) => jobs_stream(token),
            Self::Async(_) | Self::Express(_) => Queue::Async.name().to_owned(),
            Self::BatchParts | Self::BatchSteps => Queue::Parts.name().to_owned(),
            Self::WebhookCalls => Queue::Webhooks.name().to_owned(),
            Self::WebhookOutbox => Bucket::Records.stream(),
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Lane(_, lane) => lane.as_str().to_owned(),
            Self::Async(token) => token.to_string(),
            Self::Express(token) => format!("{token}{EXPRESS}"),
            Self::BatchParts => "run".to_owned(),
            Self::BatchSteps => "step".to_owned(),
            Self::WebhookCalls => "deliveries".to_owned(),
            Self::WebhookOutbox => "webhooks".to_owned(),
        }
    }

    fn filter_subject(&self) -> String {
        match self {
            Self::Lane(token, lane) => subjects::jobs_lane(token, *lane),
            Self::Async(token) => subjects::async_model(token),
            Self::Express(token) => subjects::async_express_model(token),
            Self::BatchParts => subjects::BATCH_PARTS.to_owned(),
            Self::BatchSteps => subjects::BATCH_STEPS.to_owned(),
            Self::WebhookCalls => subjects::WEBHOOKS_ALL.to_owned(),
            Self::WebhookOutbox => Bucket::Records.subjects(),
        }
    }

    /// Explicit acknowledgements, everything from the first message on.
    pub fn config(&self, stores: &StoreArgs) -> ConsumerConfig {
        ConsumerConfig {
            durable_name: Some(self.name()),
            filter_subject: self.filter_subject(),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: ack_wait(stores.durability),
            // Outside the lanes a message is delivered until acknowledged: who takes it counts the attempts in a record.
            max_deliver: if matches!(self, Self::Lane(..)) { MAX_DELIVER } else { -1 },
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            metadata: metadata(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Durable> {
        let token = ModelToken::from("m-0123456789");
        let lanes = Lane::ALL.map(|lane| Durable::Lane(token.clone(), lane));
        let asynchronous = [Durable::Async(token.clone()), Durable::Express(token)];
        lanes.into_iter().chain(asynchronous).chain(Durable::FIXED).collect()
    }

    #[test]
    fn each_is_found_by_the_name_that_it_has_on_the_broker() {
        for durable in all() {
            assert_eq!(Durable::find(&durable.stream(), &durable.name()), Some(durable));
        }
    }

    /// They are on brokers under these names: another would begin at the first message again.
    #[test]
    fn names_are_frozen() {
        let names: Vec<String> =
            all().iter().map(|durable| format!("{}/{}", durable.stream(), durable.name())).collect();
        let expected = [
            "FOREBAY_JOBS_m-0123456789/high",
            "FOREBAY_JOBS_m-0123456789/normal",
            "FOREBAY_JOBS_m-0123456789/low",
            "FOREBAY_ASYNC/m-0123456789",
            "FOREBAY_ASYNC/m-0123456789-express",
            "FOREBAY_PARTS/run",
            "FOREBAY_PARTS/step",
            "FOREBAY_WEBHOOKS/deliveries",
            "KV_FOREBAY_RECORDS/webhooks",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_somebody_else_made_is_not_ours() {
        for (stream, name) in [
            ("FOREBAY_ASYNC", "debug"),
            ("FOREBAY_ASYNC", "a-debugger"),
            ("FOREBAY_PARTS", "other"),
            ("FOREBAY_JOBS_m-0123456789", "Zb3k1QpX"),
            ("KV_FOREBAY_MODELS", "webhooks"),
        ] {
            assert_eq!(Durable::find(stream, name), None, "{stream}/{name}");
        }
    }
}
