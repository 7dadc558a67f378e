//! What waits in the broker, asked once a second: stream info and consumer info, nothing that reads a message.

mod ages;
mod depth;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::Info;
use async_nats::jetstream::{Context, ErrorCode};
use forebay_shared::ids::{Lane, ModelName, ModelToken};
use forebay_shared::metrics::{Fullness, MessageState, StoreKind, StreamName};
use forebay_shared::streams::{self, JOBS_PREFIX, Queue};
use forebay_shared::subjects;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::hub::Hub;
use ages::LaneAges;
pub use depth::{Consumer, LaneDepth, Reading, StreamDepth};

const POLL_EVERY: Duration = Duration::from_secs(1);
/// New models are noticed, and the account's use of the store is asked, this often.
const SURVEY_EVERY: Duration = Duration::from_secs(5);

/// The queues of all models as they were at the last poll, lanes by [`Lane::index`].
#[derive(Debug, Default, Clone)]
pub struct QueueView {
    pub models: BTreeMap<ModelName, StreamDepth>,
    pub broker_up: bool,
}

pub async fn run(hub: Arc<Hub>, js: Context) {
    let mut poller = Poller { hub, js, tokens: Vec::new(), surveyed: None, ages: HashMap::new() };
    let mut tick = interval(POLL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let up = match poller.poll().await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the broker did not tell how long its queues are");
                false
            }
        };
        poller.hub.queue().broker_up = up;
        poller.hub.metrics.broker_up.set(f64::from(u8::from(up)));
    }
}

struct Poller {
    hub: Arc<Hub>,
    js: Context,
    tokens: Vec<ModelToken>,
    surveyed: Option<Instant>,
    ages: HashMap<ModelToken, LaneAges>,
}

impl Poller {
    async fn poll(&mut self) -> anyhow::Result<()> {
        if self.surveyed.is_none_or(|at| at.elapsed() >= SURVEY_EVERY) {
            self.survey().await?;
            self.surveyed = Some(Instant::now());
        }
        let readings: Vec<_> = futures::stream::iter(self.tokens.clone())
            .map(|token| {
                let js = self.js.clone();
                async move { read(&js, &token).await.map(|reading| (token, reading)) }
            })
            .buffer_unordered(8)
            .try_collect()
            .await?;
        let names = self.hub.fleet().model_tokens();
        let mut models: BTreeMap<ModelName, StreamDepth> = BTreeMap::new();
        let now = self.hub.now();
        for (token, reading) in readings {
            let Some(reading) = reading else { continue };
            let mut depth = depth::depth(&reading);
            let ages = self.ages.entry(token.clone()).or_default().observe(&reading, &depth, now);
            for (lane, age) in depth.lanes.iter_mut().zip(ages) {
                lane.oldest_age_ms = age;
            }
            // While nobody who serves it is known, a token names itself.
            let name = names.get(&token).cloned().unwrap_or_else(|| ModelName::new(token.as_str()));
            models.entry(name).or_default().merge(depth);
        }
        self.publish(models);
        Ok(())
    }

    async fn survey(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.js.stream_names().try_collect().await?;
        self.tokens = names.iter().filter_map(|name| name.strip_prefix(JOBS_PREFIX)).map(ModelToken::from).collect();
        self.ages.retain(|token, _| self.tokens.contains(token));
        let streams: Vec<Info> = self.js.streams().try_collect().await?;
        let state = |name: &str| streams.iter().find(|info| info.config.name == name);
        match state(Queue::Dead.name()) {
            Some(dead) => self.hub.metrics.dead_letters.with(&()).set(dead.state.messages as f64),
            // Where nobody has ever had to put a job aside there may be no such stream.
            None if !names.iter().any(|name| name == Queue::Dead.name()) => {
                self.hub.metrics.dead_letters.with(&()).set(0.0)
            }
            // Its leader is being chosen: what was known still stands.
            None => {}
        }
        let bytes =
            streams::singles().filter_map(|(name, stream)| Some((name, state(&stream)?))).flat_map(|(name, info)| {
                let limit = Some(info.config.max_bytes).filter(|limit| *limit > 0).map(|limit| limit as f64);
                let used = (Fullness::Used, Some(info.state.bytes as f64));
                [used, (Fullness::Limit, limit)].map(move |(kind, bytes)| Some(((StreamName(name), kind), bytes?)))
            });
        self.hub.metrics.broker_stream_bytes.replace(bytes.flatten());
        let account = self.js.query_account().await?;
        let limit = |limit: Option<i64>| limit.filter(|limit| *limit > 0).map(|limit| limit as f64);
        let store = [
            (StoreKind::FileUsed, Some(account.storage as f64)),
            (StoreKind::FileReserved, Some(account.reserved_storage as f64)),
            (StoreKind::FileLimit, limit(account.limits.max_storage)),
            (StoreKind::MemoryUsed, Some(account.memory as f64)),
            (StoreKind::MemoryReserved, Some(account.reserved_memory as f64)),
            (StoreKind::MemoryLimit, limit(account.limits.max_memory)),
        ];
        let known = store.into_iter().filter_map(|(kind, bytes)| Some(((kind,), bytes?)));
        self.hub.metrics.broker_store_bytes.replace(known);
        Ok(())
    }

    fn publish(&self, mut models: BTreeMap<ModelName, StreamDepth>) {
        let metrics = &self.hub.metrics;
        let totals = {
            let now = self.hub.now();
            self.hub.fleet().totals(now)
        };
        // What waits in the apis is part of the queue; its messages are not the broker's yet.
        for (name, depth) in &mut models {
            metrics.register_model(name);
            let of_model = |labels: &[(String, String)]| labels.iter().any(|(l, v)| l == "model" && v == name.as_str());
            let unpublished = totals.sum_by("unpublished_jobs", "lane", of_model);
            for lane in Lane::ALL {
                let jobs = unpublished.get(lane.as_str()).copied().unwrap_or(0.0);
                depth.lanes[lane.index()].pending_jobs += jobs.max(0.0) as u64;
            }
        }
        let each = |value: fn(&LaneDepth) -> f64| {
            models.iter().flat_map(move |(name, depth)| {
                Lane::ALL.map(move |lane| ((name.clone(), lane), value(&depth.lanes[lane.index()])))
            })
        };
        metrics.queue_pending.replace(each(|lane| lane.pending_jobs as f64));
        metrics.queue_in_flight.replace(each(|lane| lane.in_flight_jobs as f64));
        metrics.queue_oldest_age_seconds.replace(each(|lane| lane.oldest_age_ms as f64 / 1000.0));
        let state = |state: MessageState, value: fn(&LaneDepth) -> f64| {
            each(value).map(move |((name, lane), value)| ((name, lane, state), value))
        };
        metrics.queue_messages.replace(
            state(MessageState::Pending, |lane| lane.pending_messages as f64)
                .chain(state(MessageState::InFlight, |lane| lane.in_flight_messages as f64)),
        );
        metrics.queue_bytes.replace(models.iter().map(|(name, depth)| ((name.clone(),), depth.bytes as f64)));
        metrics
            .queue_capacity
            .replace(models.iter().map(|(name, depth)| ((name.clone(),), depth.capacity_jobs as f64)));
        self.hub.queue().models = models;
    }
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamLimits,
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamLimits {
    max_msgs: i64,
    max_bytes: i64,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    /// RFC 3339.
    first_ts: String,
    last_seq: u64,
    /// Messages by subject; absent when there are none.
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

/// `None` if the stream is gone.
async fn read(js: &Context, token: &ModelToken) -> anyhow::Result<Option<Reading>> {
    let name = forebay_shared::streams::jobs_stream(token);
    let filter = serde_json::json!({ "subjects_filter": subjects::jobs_model(token) });
    let info = match js.request(format!("STREAM.INFO.{name}"), &filter).await? {
        Response::<StreamInfo>::Ok(info) => info,
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            return Ok(None);
        }
        Response::Err { error } => return Err(error.into()),
    };
    let mut consumers = [Consumer::default(); Lane::ALL.len()];
    for lane in Lane::ALL {
        let path = format!("CONSUMER.INFO.{name}.{}", lane.as_str());
        match js.request(path, &serde_json::json!({})).await? {
            Response::Ok(consumer) => consumers[lane.index()] = consumer,
            // Between the stream's creation and its consumers' nothing is delivered: zero is the truth.
            Response::Err { error } if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {}
            Response::Err { error } => return Err(error.into()),
        }
    }
    let state = info.state;
    let first = OffsetDateTime::parse(&state.first_ts, &Rfc3339)?;
    Ok(Some(Reading {
        messages: state.messages,
        bytes: state.bytes,
        max_messages: info.config.max_msgs,
        max_bytes: info.config.max_bytes,
        first_sequence: state.first_seq,
        first_ms: (first.unix_timestamp_nanos() / 1_000_000).max(0) as u64,
        last_sequence: state.last_seq,
        bundles: state
            .subjects
            .iter()
            .filter_map(|(subject, count)| subjects::parse_jobs(subject).map(|(lane, rows)| (lane, rows, *count)))
            .collect(),
        consumers,
    }))
}
