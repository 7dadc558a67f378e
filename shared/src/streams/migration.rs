//! Shows, and does, what [`migrate`] decides for everything that a broker has.

use std::fmt;

use async_nats::jetstream::stream::{Config as StreamConfig, Info, Stream};
use async_nats::jetstream::{self, consumer};
use futures::TryStreamExt;

use super::ensure::is_not_found;
use super::migrate::{self, Change, Step};
use super::{
    Bucket, EnsureError, JOBS_PREFIX, Objects, Queue, Stores, bucket_config, jobs_stream_config, lane_consumer_config,
    objects_config, queue_config,
};
use crate::ids::{Lane, ModelToken};

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
        for queue in Queue::ALL {
            let wanted = queue_config(queue, &self.args);
            findings.push(self.migrate_stream("stream", &wanted, migrate::stream, apply).await?);
        }
        for bucket in Bucket::ALL {
            let wanted = bucket_config(bucket, &self.args);
            findings.push(self.migrate_stream("bucket", &wanted, migrate::store, apply).await?);
        }
        for objects in Objects::ALL {
            let wanted = objects_config(objects, &self.args);
            findings.push(self.migrate_stream("object store", &wanted, migrate::store, apply).await?);
        }
        let names: Vec<String> = self.js.stream_names().try_collect().await.map_err(unavailable)?;
        for token in names.iter().filter_map(|name| name.strip_prefix(JOBS_PREFIX)).map(ModelToken::from) {
            let wanted = jobs_stream_config(&token, &self.args);
            findings.push(self.migrate_stream("stream", &wanted, migrate::stream, apply).await?);
            let stream = self.js.get_stream(&wanted.name).await.map_err(unavailable)?;
            for lane in Lane::ALL {
                findings.push(self.migrate_lane(&stream, &token, lane, apply).await?);
            }
        }
        Ok(findings)
    }

    async fn migrate_stream(
        &self,
        kind: &'static str,
        wanted: &StreamConfig,
        decide: fn(&StreamConfig, &jetstream::stream::State, &StreamConfig) -> Step<StreamConfig>,
        apply: bool,
    ) -> Result<Finding, EnsureError> {
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

    /// If the broker does not take the new definition, an empty stream of the old one is there again.
    #[expect(clippy::disallowed_methods, reason = "the one place that changes definitions")]
    async fn make_anew(&self, wanted: StreamConfig, before: StreamConfig) -> Result<(), String> {
        self.js.delete_stream(&wanted.name).await.map_err(|error| error.to_string())?;
        let Err(error) = self.js.create_stream(wanted).await else { return Ok(()) };
        match self.js.create_stream(before).await {
            Ok(_) => Err(format!("{error}; it is as before")),
            Err(again) => {
                Err(format!("{error}; making the old one again failed too ({again}), workers create it at their start"))
            }
        }
    }

    async fn migrate_lane(
        &self,
        stream: &Stream<Info>,
        token: &ModelToken,
        lane: Lane,
        apply: bool,
    ) -> Result<Finding, EnsureError> {
        let (kind, name) = ("consumer", format!("{}/{}", stream.cached_info().config.name, lane.as_str()));
        let wanted = lane_consumer_config(token, lane, &self.args);
        let Ok(found) = stream.consumer_info(lane.as_str()).await else {
            return Ok(Finding { kind, name, verdict: Verdict::Missing });
        };
        let verdict = match migrate::consumer(&found.config, &wanted) {
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
