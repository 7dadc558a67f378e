//! Shows, and does, what [`migrate`] decides for everything that a broker has.

use std::fmt;

use async_nats::jetstream::consumer;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, Info, Stream};
use futures::TryStreamExt;

use super::ensure::is_not_found;
use super::migrate::{self, Change, Step};
use super::{
    Bucket, Durable, EnsureError, JOBS_PREFIX, Objects, Queue, Stores, bucket_config, jobs_stream_config,
    objects_config, queue_config,
};
use crate::ids::ModelToken;

const STREAM: &str = "stream";

/// What was found out about one stream, bucket, object store or consumer, and what was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub kind: &'static str,
    pub name: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// As it should be.
    Current,
    /// A process creates it when it first needs it.
    Missing,
    /// Changed in place, or made anew; in a dry run: would be.
    Changed { anew: bool, changes: Vec<Change> },
    /// Left alone.
    Refused { changes: Vec<Change>, why: String },
}

impl Verdict {
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, verdict } = self;
        let list = |f: &mut fmt::Formatter<'_>, changes: &[Change]| {
            changes.iter().try_for_each(|Change { field, from, to }| write!(f, "\n    {field}: {from} → {to}"))
        };
        match verdict {
            Verdict::Current => write!(f, "{kind} {name}: current"),
            Verdict::Missing => write!(f, "{kind} {name}: not there yet"),
            Verdict::Changed { anew, changes } => {
                write!(f, "{kind} {name}: {}", if *anew { "made anew, empty" } else { "changed in place" })?;
                list(f, changes)
            }
            Verdict::Refused { changes, why } => {
                write!(f, "{kind} {name}: REFUSED, {why}")?;
                list(f, changes)
            }
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Migration {
    /// Of everything, or up to where it stopped.
    pub findings: Vec<Finding>,
    /// Changes that it found to make.
    pub planned: usize,
    /// Whether it has begun to make them. If not, `findings` is the plan.
    pub begun: bool,
    /// Why it stopped in between, if for an error: what it says it changed stays changed.
    pub error: Option<EnsureError>,
}

enum Removal {
    /// With the consumers that it had.
    Done {
        consumers: Vec<Durable>,
    },
    Holds {
        messages: u64,
    },
}

impl Stores {
    /// Compares everything with its definition, and changes it if `apply`. If one change is refused, none is begun,
    /// so that a fleet is not left between two settings. What changes on the broker meanwhile can still stop it in between;
    /// it says so, and can be run again.
    ///
    /// # Errors
    /// [`EnsureError`] if the broker cannot be read; nothing was changed.
    pub async fn migrate(&self, apply: bool) -> Result<Migration, EnsureError> {
        let mut plan = Vec::new();
        self.pass(false, &mut plan).await?;
        let count = |is: fn(&Verdict) -> bool| plan.iter().filter(|finding: &&Finding| is(&finding.verdict)).count();
        let planned = count(|verdict| matches!(verdict, Verdict::Changed { .. }));
        if !apply || count(Verdict::is_refused) > 0 {
            return Ok(Migration { findings: plan, planned, begun: false, error: None });
        }
        let mut findings = Vec::new();
        let error = self.pass(true, &mut findings).await.err();
        Ok(Migration { findings, planned, begun: true, error })
    }

    /// Stops at the first refusal if it makes the changes: it was none when they were planned.
    async fn pass(&self, apply: bool, findings: &mut Vec<Finding>) -> Result<(), EnsureError> {
        for (kind, wanted) in self.definitions().await? {
            let stream = self.migrate_stream(kind, &wanted, apply).await?;
            // What is made anew gets its consumers anew.
            let has_consumers = !matches!(stream.verdict, Verdict::Missing | Verdict::Changed { anew: true, .. });
            findings.push(stream);
            if has_consumers {
                self.migrate_consumers(&wanted.name, apply, findings).await?;
            }
            if apply && findings.iter().any(|finding| finding.verdict.is_refused()) {
                break;
            }
        }
        Ok(())
    }

    /// Every stream that there should be, and those of the models that there are.
    async fn definitions(&self) -> Result<Vec<(&'static str, StreamConfig)>, EnsureError> {
        let names: Vec<String> = self.js.stream_names().try_collect().await.map_err(unavailable)?;
        let tokens = names.iter().filter_map(|name| name.strip_prefix(JOBS_PREFIX)).map(ModelToken::from);
        let queues = Queue::ALL.map(|queue| (STREAM, queue_config(queue, &self.args)));
        let buckets = Bucket::ALL.map(|bucket| ("bucket", bucket_config(bucket, &self.args)));
        let objects = Objects::ALL.map(|objects| ("object store", objects_config(objects, &self.args)));
        let jobs = tokens.map(|token| (STREAM, jobs_stream_config(&token, &self.args)));
        Ok(queues.into_iter().chain(buckets).chain(objects).chain(jobs).collect())
    }

    async fn migrate_stream(
        &self,
        kind: &'static str,
        wanted: &StreamConfig,
        apply: bool,
    ) -> Result<Finding, EnsureError> {
        let name = wanted.name.clone();
        let info = match self.js.get_stream(&name).await {
            Ok(stream) => stream.cached_info().clone(),
            Err(error) if is_not_found(&error) => return Ok(Finding { kind, name, verdict: Verdict::Missing }),
            Err(error) => return Err(unavailable(error)),
        };
        let step = match kind {
            STREAM => migrate::stream(&info.config, &info.state, wanted),
            _ => migrate::store(&info.config, &info.state, wanted),
        };
        let verdict = match step {
            Step::Nothing => Verdict::Current,
            Step::Refuse { changes, why } => Verdict::Refused { changes, why },
            Step::Update { config, changes } => {
                if apply {
                    #[expect(clippy::disallowed_methods, reason = "the one place that changes definitions")]
                    self.js.update_stream(config).await.map_err(|error| refused(kind, &name, error))?;
                }
                Verdict::Changed { anew: false, changes }
            }
            Step::Recreate { config, changes } => {
                if apply {
                    let made = self.make_anew(config, info.config).await;
                    let messages = made.map_err(|error| refused(kind, &name, error))?;
                    if messages > 0 {
                        let why = format!("{messages} messages came meanwhile, and would be lost");
                        return Ok(Finding { kind, name, verdict: Verdict::Refused { changes, why } });
                    }
                }
                Verdict::Changed { anew: true, changes }
            }
        };
        Ok(Finding { kind, name, verdict })
    }

    /// With the consumers that it had, so that who takes from it goes on. If the broker does not take the new definition,
    /// an empty stream of the old one is there again. The answer is how many messages stand in the way: none, if it was done.
    #[expect(clippy::disallowed_methods, reason = "the one place that changes definitions")]
    async fn make_anew(&self, wanted: StreamConfig, before: StreamConfig) -> Result<u64, String> {
        let stream = self.js.get_stream(&wanted.name).await.map_err(text)?;
        // Nothing may come between the look and the end: a stream that is full refuses what is published.
        let full = StreamConfig { max_bytes: 1, discard: DiscardPolicy::New, ..before.clone() };
        self.js.update_stream(full).await.map_err(text)?;
        let had = match self.remove_if_empty(&stream).await {
            Ok(Removal::Done { consumers }) => consumers,
            not => {
                self.js.update_stream(before).await.map_err(|error| format!("it takes nothing now: {error}"))?;
                return not.map(|removal| if let Removal::Holds { messages } = removal { messages } else { 0 });
            }
        };
        let Err(error) = self.js.create_stream(wanted).await else {
            for durable in had {
                let made: Result<consumer::PullConsumer, _> =
                    stream.create_consumer_strict(durable.config(&self.args)).await;
                made.map_err(|error| format!("its consumer {}: {error}", durable.name()))?;
            }
            return Ok(0);
        };
        match self.js.create_stream(before).await {
            Ok(_) => Err(format!("{error}; it is as before")),
            Err(again) => {
                Err(format!("{error}; making the old one again failed too ({again}), workers create it at their start"))
            }
        }
    }

    async fn remove_if_empty(&self, stream: &Stream<Info>) -> Result<Removal, String> {
        let Info { config, state, .. } = stream.get_info().await.map_err(text)?;
        if state.messages > 0 {
            return Ok(Removal::Holds { messages: state.messages });
        }
        let names: Vec<String> = stream.consumer_names().try_collect().await.map_err(text)?;
        self.js.delete_stream(&config.name).await.map_err(text)?;
        Ok(Removal::Done { consumers: names.iter().filter_map(|name| Durable::find(&config.name, name)).collect() })
    }

    /// Those that a stream should have, and of those that come with the models the ones that it has.
    async fn migrate_consumers(
        &self,
        stream: &str,
        apply: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<(), EnsureError> {
        let stream = self.js.get_stream(stream).await.map_err(unavailable)?;
        let name = &stream.cached_info().config.name;
        let mut found: Vec<String> = stream.consumer_names().try_collect().await.map_err(unavailable)?;
        found.sort();
        let mut durables = Durable::always_on(name);
        let others = found.iter().filter_map(|found| Durable::find(name, found));
        let others: Vec<Durable> = others.filter(|durable| !durables.contains(durable)).collect();
        durables.extend(others);
        for durable in durables {
            findings.push(self.migrate_consumer(&stream, &durable, apply).await?);
        }
        Ok(())
    }

    async fn migrate_consumer(
        &self,
        stream: &Stream<Info>,
        durable: &Durable,
        apply: bool,
    ) -> Result<Finding, EnsureError> {
        let (kind, name) = ("consumer", format!("{}/{}", durable.stream(), durable.name()));
        let found = match stream.consumer_info(durable.name()).await {
            Ok(found) => found,
            // Those of tenants also go by themselves.
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
                return Ok(Finding { kind, name, verdict: Verdict::Missing });
            }
            Err(error) => return Err(unavailable(error)),
        };
        let verdict = match migrate::consumer(&found.config, &durable.config(&self.args)) {
            Step::Nothing => Verdict::Current,
            Step::Refuse { changes, why } => Verdict::Refused { changes, why },
            Step::Update { config, changes } | Step::Recreate { config, changes } => {
                if apply {
                    let updated: Result<consumer::PullConsumer, _> = stream.update_consumer(config).await;
                    updated.map_err(|error| refused(kind, &name, error))?;
                }
                Verdict::Changed { anew: false, changes }
            }
        };
        Ok(Finding { kind, name, verdict })
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn unavailable(error: impl fmt::Display) -> EnsureError {
    EnsureError::Unavailable(error.to_string())
}

fn refused(kind: &'static str, name: &str, error: impl fmt::Display) -> EnsureError {
    EnsureError::Create { kind, name: name.to_owned(), cause: error.to_string() }
}
