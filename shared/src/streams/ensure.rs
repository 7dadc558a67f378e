//! Creates what is missing, verifies what is there.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Consumer, IntoConsumerConfig, pull};
use async_nats::jetstream::stream::{Config as StreamConfig, Info, Stream};
use async_nats::jetstream::{self, ErrorCode, kv, object_store};

use super::fields::{check, of_consumer, of_store, of_stream};
use super::{
    Bucket, DEFINITIONS_VERSION, Durable, Objects, Queue, bucket_config, jobs_stream_config, objects_config,
    queue_config,
};
use crate::ids::{Lane, ModelToken};
use crate::settings::StoreArgs;

#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    #[error(
        "{kind} {name} exists with {field} = {found}, this process needs {wanted}; give all processes the same settings, \
             or run `forebay migrate` to change it"
    )]
    Mismatch { kind: &'static str, name: String, field: &'static str, found: String, wanted: String },
    #[error(
        "{kind} {name} has definitions of version {found}, newer than this program's {DEFINITIONS_VERSION}, and not said to \
             be fit for it; start the version that made them"
    )]
    Newer { kind: &'static str, name: String, found: u32 },
    #[error(
        "cannot create {kind} {name}: {cause}; check the broker's JetStream limits, disk and this role's permissions"
    )]
    Create { kind: &'static str, name: String, cause: String },
    #[error("JetStream does not answer: {0}; is it enabled on the broker?")]
    Unavailable(String),
}

/// How often a broker that does not answer is asked again before a process gives up.
const LOOKS: u32 = 4;
const LEADER_LOOKS: u32 = 20;
/// Several times as long as a cluster takes to choose a leader.
const ELECTION: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// Tries until it succeeds, or for as long as a cluster may take to choose a leader: for what a process reads or writes
/// once, at its start.
///
/// # Errors
/// That of the last try.
pub async fn through_an_election<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let end = Instant::now() + ELECTION;
    loop {
        match Box::pin(attempt()).await {
            Err(error) if Instant::now() < end => tracing::debug!(%error, what, "tried again"),
            done => return done,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The fleet's streams, buckets and object stores, as one process opens them.
#[derive(Clone)]
pub struct Stores {
    pub(super) js: jetstream::Context,
    pub(super) args: StoreArgs,
}

impl Stores {
    pub fn new(js: jetstream::Context, args: &StoreArgs) -> Self {
        Self { js, args: args.clone() }
    }

    pub fn args(&self) -> &StoreArgs {
        &self.args
    }

    /// A cluster that chooses a leader neither shows nor makes anything for some seconds: a process that starts meanwhile does
    /// not give up.
    async fn patiently<T, F: Future<Output = Result<T, EnsureError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, EnsureError> {
        let end = Instant::now() + ELECTION;
        loop {
            // Boxed: what opens a store is large, and most who call this keep it in a future of their own.
            match Box::pin(attempt()).await {
                Err(EnsureError::Create { .. } | EnsureError::Unavailable(_))
                    if self.args.durability.replicas() > 1 && Instant::now() < end =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Creates the model's stream and its consumers if they are missing, and verifies them if they are not.
    ///
    /// # Errors
    /// [`EnsureError::Mismatch`] names the first field that differs; nothing is changed then.
    pub async fn jobs(&self, token: &ModelToken) -> Result<(), EnsureError> {
        let stream = self.stream(jobs_stream_config(token, &self.args)).await?;
        for lane in Lane::ALL {
            self.consumer(&stream, &Durable::Lane(token.clone(), lane)).await?;
        }
        Ok(())
    }

    /// Opens a stream that there is one of.
    ///
    /// # Errors
    /// As [`Self::jobs`].
    pub async fn queue(&self, queue: Queue) -> Result<Stream<Info>, EnsureError> {
        self.stream(queue_config(queue, &self.args)).await
    }

    async fn stream(&self, wanted: StreamConfig) -> Result<Stream<Info>, EnsureError> {
        self.patiently(|| self.stream_now(wanted.clone())).await
    }

    async fn stream_now(&self, wanted: StreamConfig) -> Result<Stream<Info>, EnsureError> {
        let mut patience = LOOKS;
        let stream = loop {
            match self.js.get_stream(&wanted.name).await {
                Ok(stream) => break stream,
                Err(error) if is_not_found(&error) => break create_stream("stream", &self.js, wanted.clone()).await?,
                // A cluster that chooses a leader does not answer for some seconds.
                Err(_) if patience > 0 => patience -= 1,
                Err(error) => return Err(EnsureError::Unavailable(error.to_string())),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let found = &stream.cached_info().config;
        check("stream", &wanted.name, &found.metadata, &of_stream(found), &of_stream(&wanted))?;
        Ok(stream)
    }

    /// Opens a durable consumer of `stream`, which is its own.
    ///
    /// # Errors
    /// As [`Self::jobs`].
    pub async fn consumer(
        &self,
        stream: &Stream<Info>,
        durable: &Durable,
    ) -> Result<Consumer<pull::Config>, EnsureError> {
        self.patiently(|| self.consumer_now(stream, durable)).await
    }

    async fn consumer_now(
        &self,
        stream: &Stream<Info>,
        durable: &Durable,
    ) -> Result<Consumer<pull::Config>, EnsureError> {
        let (name, wanted) = (format!("{}/{}", durable.stream(), durable.name()), durable.config(&self.args));
        // Creating a consumer that exists with another configuration is an error in this call, not an update.
        let created = stream.create_consumer_strict(wanted.clone()).await;
        let consumer = match created {
            Ok(consumer) => consumer,
            Err(error) => {
                let existing = stream.get_consumer(&durable.name()).await;
                let cause = error.to_string();
                existing.map_err(|_| EnsureError::Create { kind: "consumer", name: name.clone(), cause })?
            }
        };
        let found = &consumer.cached_info().config;
        let wanted = of_consumer(&wanted.into_consumer_config());
        check("consumer", &name, &found.metadata, &of_consumer(found), &wanted)?;
        Ok(consumer)
    }

    /// Opens a key-value bucket with one value per key, creating it if it is missing.
    ///
    /// # Errors
    /// [`EnsureError::Create`] if the broker refuses, [`EnsureError::Mismatch`] if the bucket is kept differently.
    pub async fn bucket(&self, bucket: Bucket) -> Result<kv::Store, EnsureError> {
        self.patiently(|| self.bucket_now(bucket)).await
    }

    async fn bucket_now(&self, bucket: Bucket) -> Result<kv::Store, EnsureError> {
        let name = bucket.name().to_owned();
        let wanted = bucket_config(bucket, &self.args);
        let store = match self.js.get_key_value(&name).await {
            Ok(store) => store,
            Err(_) => {
                create_stream("bucket", &self.js, wanted.clone()).await?;
                let opened = self.js.get_key_value(&name).await;
                opened.map_err(|error| EnsureError::Unavailable(error.to_string()))?
            }
        };
        let found = &store.stream.cached_info().config;
        check("bucket", &name, &found.metadata, &of_store(found), &of_store(&wanted))?;
        // A replicated bucket that was made a moment ago answers once its replicas have chosen a leader and caught up.
        for _ in 0..LEADER_LOOKS {
            if self.args.durability.replicas() == 1 || store.get("is-there-a-leader").await.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(store)
    }

    /// Opens an object store, creating it if it is missing.
    ///
    /// # Errors
    /// As [`Self::bucket`].
    pub async fn objects(&self, objects: Objects) -> Result<object_store::ObjectStore, EnsureError> {
        self.patiently(|| self.objects_now(objects)).await
    }

    async fn objects_now(&self, objects: Objects) -> Result<object_store::ObjectStore, EnsureError> {
        let name = objects.name().to_owned();
        let wanted = objects_config(objects, &self.args);
        if self.js.get_object_store(&name).await.is_err() {
            create_stream("object store", &self.js, wanted.clone()).await?;
        }
        let unavailable = |error: String| EnsureError::Unavailable(error);
        let stream = self.js.get_stream(&wanted.name).await.map_err(|error| unavailable(error.to_string()))?;
        let found = &stream.cached_info().config;
        check("object store", &name, &found.metadata, &of_store(found), &of_store(&wanted))?;
        self.js.get_object_store(&name).await.map_err(|error| unavailable(error.to_string()))
    }
}

async fn create_stream(
    kind: &'static str,
    js: &jetstream::Context,
    config: StreamConfig,
) -> Result<Stream<Info>, EnsureError> {
    let name = config.name.clone();
    #[expect(clippy::disallowed_methods, reason = "the one place that creates streams")]
    let created = js.create_stream(config).await;
    match created {
        Ok(stream) => Ok(stream),
        // Another process may have been faster.
        Err(error) => match js.get_stream(&name).await {
            Ok(stream) => Ok(stream),
            Err(_) => Err(EnsureError::Create { kind, name, cause: error.to_string() }),
        },
    }
}

pub(super) fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_by_its_field() {
        let token = ModelToken::from("m-0123456789");
        let wanted = jobs_stream_config(&token, &StoreArgs::default());
        let mut found = wanted.clone();
        found.max_bytes = 5;
        let error = check("stream", "s", &found.metadata, &of_stream(&found), &of_stream(&wanted)).unwrap_err();
        assert!(error.to_string().contains("max_bytes = 5"), "{error}");
    }

    #[test]
    fn a_definition_without_a_version_is_refused() {
        let wanted = jobs_stream_config(&ModelToken::from("m-0123456789"), &StoreArgs::default());
        let mut found = wanted.clone();
        found.metadata.clear();
        assert!(check("stream", "s", &found.metadata, &of_stream(&found), &of_stream(&wanted)).is_err());
    }
}
