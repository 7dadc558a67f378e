//! Shows, and does, what [`migrate`] decides for everything that a broker has.

use std::fmt;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{Config as StreamConfig, Info, Stream};
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
    /// Changed in place, or made anew because it was empty; in a dry run: would be.
    Changed { anew: bool, changes: Vec<Change> },
    /// Left alone.
    Refused { changes: Vec<Change>, why: String },
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
                write!(f, "{kind} {name}: {}", if *anew { "made anew, it is empty" } else { "changed in place" })?;
                list(f, changes)
            }
            Verdict::Refused { changes, why } => {
                write!(f, "{kind} {name}: REFUSED, {why}")?;
                list(f, changes)
            }
        }
    }
}

impl Stores {
    /// Compares everything with its definition, and changes it if `apply`. All or nothing: if one change is refused, none is
    /// made, so that a fleet is never left between two settings.
    ///
    /// # Errors
    /// [`EnsureError`] if the broker does not answer or refuses a change; what was changed before stays changed.
    pub async fn migrate(&self, apply: bool) -> Result<Vec<Finding>, EnsureError> {
        let planned = self.pass(false).await?;
        let refused = planned.iter().any(|finding| matches!(finding.verdict, Verdict::Refused { .. }));
        if apply && !refused { self.pass(true).await } else { Ok(planned) }
    }

    async fn pass(&self, apply: bool) -> Result<Vec<Finding>, EnsureError> {
        let mut findings = Vec::new();
        for (kind, wanted) in self.definitions().await? {
            let stream = self.migrate_stream(kind, &wanted, apply).await?;
            // What is made anew gets its consumers anew.
            let has_consumers = !matches!(stream.verdict, Verdict::Missing | Verdict::Changed { anew: true, .. });
            findings.push(stream);
            if has_consumers {
                findings.extend(self.migrate_consumers(&wanted.name, apply).await?);
            }
        }
        Ok(findings)
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
        let decide = if kind == STREAM { migrate::stream } else { migrate::store };
        let name = wanted.name.clone();
        let info = match self.js.get_stream(&name).await {
            Ok(stream) => stream.cached_info().clone(),
            Err(error) if is_not_found(&error) => return Ok(Finding { kind, name, verdict: Verdict::Missing }),
            Err(error) => return Err(unavailable(error)),
        };
        let verdict = match decide(&info.config, &info.state, wanted) {
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
                    self.make_anew(config, info.config).await.map_err(|error| refused(kind, &name, error))?;
                }
                Verdict::Changed { anew: true, changes }
            }
        };
        Ok(Finding { kind, name, verdict })
    }

    /// With the consumers that it had, so that who takes from it goes on. If the broker does not take the new definition,
    /// an empty stream of the old one is there again.
    #[expect(clippy::disallowed_methods, reason = "the one place that changes definitions")]
    async fn make_anew(&self, wanted: StreamConfig, before: StreamConfig) -> Result<(), String> {
        let stream = self.js.get_stream(&wanted.name).await.map_err(|error| error.to_string())?;
        let had: Vec<String> = stream.consumer_names().try_collect().await.map_err(|error| error.to_string())?;
        self.js.delete_stream(&wanted.name).await.map_err(|error| error.to_string())?;
        let created = self.js.create_stream(wanted).await;
        let Err(error) = created else {
            for durable in had.iter().filter_map(|name| Durable::find(&before.name, name)) {
                let made: Result<consumer::PullConsumer, _> =
                    stream.create_consumer_strict(durable.config(&self.args)).await;
                made.map_err(|error| format!("its consumer {}: {error}", durable.name()))?;
            }
            return Ok(());
        };
        match self.js.create_stream(before).await {
            Ok(_) => Err(format!("{error}; it is as before")),
            Err(again) => {
                Err(format!("{error}; making the old one again failed too ({again}), workers create it at their start"))
            }
        }
    }

    /// Those that a stream should have, and of those that come with the models the ones that it has.
    async fn migrate_consumers(&self, stream: &str, apply: bool) -> Result<Vec<Finding>, EnsureError> {
        let stream = self.js.get_stream(stream).await.map_err(unavailable)?;
        let name = &stream.cached_info().config.name;
        let mut found: Vec<String> = stream.consumer_names().try_collect().await.map_err(unavailable)?;
        found.sort();
        let mut durables = Durable::always_on(name);
        let others = found.iter().filter_map(|found| Durable::find(name, found));
        let others: Vec<Durable> = others.filter(|durable| !durables.contains(durable)).collect();
        durables.extend(others);
        let mut findings = Vec::new();
        for durable in durables {
            let is_there = found.contains(&durable.name());
            findings.push(self.migrate_consumer(&stream, &durable, is_there, apply).await?);
        }
        Ok(findings)
    }

    async fn migrate_consumer(
        &self,
        stream: &Stream<Info>,
        durable: &Durable,
        is_there: bool,
        apply: bool,
    ) -> Result<Finding, EnsureError> {
        let (kind, name) = ("consumer", format!("{}/{}", durable.stream(), durable.name()));
        if !is_there {
            return Ok(Finding { kind, name, verdict: Verdict::Missing });
        }
        let found = stream.consumer_info(durable.name()).await.map_err(unavailable)?;
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

fn unavailable(error: impl fmt::Display) -> EnsureError {
    EnsureError::Unavailable(error.to_string())
}

fn refused(kind: &'static str, name: &str, error: impl fmt::Display) -> EnsureError {
    EnsureError::Create { kind, name: name.to_owned(), cause: error.to_string() }
}
