//! Every durable consumer. Who takes from one opens it by this table, and `forebay migrate` changes it by the same.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};

use super::{
    Bucket, JOBS_PREFIX, MAX_ACK_PENDING, MAX_DELIVER, MAX_MESSAGES, MAX_WAITING, Queue, TURN_KEPT, ack_wait,
    jobs_stream, metadata,
};
use crate::ids::{Lane, ModelToken, TenantName};
use crate::settings::StoreArgs;
use crate::subjects;

const OF_TENANT: char = '=';
const EXPRESS: &str = "-express";
/// A token ends in a dash and as many hexadecimal digits.
const TOKEN_DIGITS: usize = 10;

/// A durable pull consumer, shared by all processes that take from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durable {
    /// A model's jobs in one lane, for its workers.
    Lane(ModelToken, Lane),
    /// A model's asynchronous jobs of one tenant, see [`Self::turns`]. For apis, as everything below.
    Turns(ModelToken, TenantName),
    /// A model's asynchronous jobs that were accepted before tenants took turns.
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
    /// A tenant's asynchronous jobs for one model. There may be many of these, so the broker drops what nobody has pulled from
    /// for a while; its messages stay in the queue, and it is made again when they are wanted.
    pub fn turns(token: &ModelToken, tenant: &TenantName) -> Self {
        Self::Turns(token.clone(), subjects::tenant_in_subject(tenant).as_str().into())
    }

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
            // Neither part can hold the sign between them.
            if let Some((token, tenant)) = name.split_once(OF_TENANT) {
                return is_token(token).then(|| Self::Turns(token.into(), tenant.into()));
            }
            let express = name.strip_suffix(EXPRESS);
            let token = express.unwrap_or(name);
            return is_token(token).then(|| if express.is_some() { Self::Express } else { Self::Async }(token.into()));
        }
        Self::always_on(stream).into_iter().find(|durable| durable.name() == name)
    }

    /// Name of the stream that it delivers from.
    pub fn stream(&self) -> String {
        match self {
            Self::Lane(token, _) => jobs_stream(token),
            Self::Turns(..) | Self::Async(_) | Self::Express(_) => Queue::Async.name().to_owned(),
            Self::BatchParts | Self::BatchSteps => Queue::Parts.name().to_owned(),
            Self::WebhookCalls => Queue::Webhooks.name().to_owned(),
            Self::WebhookOutbox => Bucket::Records.stream(),
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Lane(_, lane) => lane.as_str().to_owned(),
            Self::Turns(token, tenant) => format!("{token}{OF_TENANT}{tenant}"),
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
            Self::Turns(token, tenant) => subjects::async_work(token, tenant),
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
            // A call that waits for its next try stays lent, so as many may be lent as the queue can hold: otherwise the calls of
            // one receiver that is dead would keep everybody's from being delivered.
            max_ack_pending: if matches!(self, Self::WebhookCalls) { MAX_MESSAGES } else { MAX_ACK_PENDING },
            inactive_threshold: if matches!(self, Self::Turns(..)) { TURN_KEPT } else { Duration::ZERO },
            max_waiting: MAX_WAITING,
            metadata: metadata(),
            ..Default::default()
        }
    }
}

fn is_token(text: &str) -> bool {
    let digits = text.rsplit_once('-').map_or("", |(_, digits)| digits);
    digits.len() == TOKEN_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::queue_config;

    #[test]
    fn calls_that_wait_for_their_next_try_leave_room_for_others() {
        let stores = StoreArgs::default();
        let config = Durable::WebhookCalls.config(&stores);
        assert!(config.max_ack_pending >= queue_config(Queue::Webhooks, &stores).max_messages);
    }

    fn all() -> Vec<Durable> {
        let token = ModelToken::from("m-0123456789");
        let lanes = Lane::ALL.map(|lane| Durable::Lane(token.clone(), lane));
        let turns = Durable::turns(&token, &"Tenant a-0123456789".into());
        let asynchronous = [turns, Durable::Async(token.clone()), Durable::Express(token)];
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
            "FOREBAY_ASYNC/m-0123456789=tenant-a-0123456789",
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
