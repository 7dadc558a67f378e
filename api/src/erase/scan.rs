//! Reading a stream from its beginning to its end, and deleting from it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{DeleteMessageErrorKind, Info, RawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{self, ErrorCode};
use forebay_shared::broker::REQUEST_TIMEOUT;
use forebay_shared::streams::JOBS_PREFIX;
use futures::{StreamExt, TryStreamExt};

use super::{EraseError, Store};

/// Deletions on their way at once. The broker overwrites one after the other.
const AT_ONCE: usize = 16;
const IN_A_ROW: usize = 1_024;
/// Filters of one reader.
const FILTERS: usize = 128;
/// After nothing for so long it is asked whether there is more.
const SILENCE: Duration = REQUEST_TIMEOUT;

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub stream: String,
    pub sequence: u64,
    pub subject: String,
}

/// A message of a stream, while it is shown.
pub(super) struct Kept<'a> {
    pub stream: &'a str,
    pub sequence: u64,
    pub subject: &'a str,
    pub headers: Option<&'a HeaderMap>,
    /// Empty if only headers were asked for.
    pub payload: &'a [u8],
}

fn failed(doing: &'static str, store: Store, cause: impl std::fmt::Display) -> EraseError {
    EraseError::Broker { doing, store: store.name(), cause: cause.to_string() }
}

/// A stream of a store; `None` if nothing has been kept there yet.
async fn open(
    js: &jetstream::Context,
    store: Store,
    name: &str,
    doing: &'static str,
) -> Result<Option<Stream>, EraseError> {
    let is_missing = |error: &GetStreamError| matches!(error.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND);
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(doing, store, error)),
    }
}

/// Shows `take` every message of a store whose subject fits one of `filters`.
pub(super) async fn each(
    js: &jetstream::Context,
    store: Store,
    filters: &[String],
    headers_only: bool,
    take: impl FnMut(Kept<'_>),
) -> Result<(), EraseError> {
    each_in(js, store, &store.stream(), filters, headers_only, take).await
}

/// The same for one stream of a store that has several.
pub(super) async fn each_in(
    js: &jetstream::Context,
    store: Store,
    stream: &str,
    filters: &[String],
    headers_only: bool,
    mut take: impl FnMut(Kept<'_>),
) -> Result<(), EraseError> {
    let Some(stream) = open(js, store, stream, "read").await? else { return Ok(()) };
    if stream.cached_info().config.retention == RetentionPolicy::WorkQueue {
        for filter in filters {
            each_queued(&stream, store, filter, &mut take).await?;
        }
        return Ok(());
    }
    for some in filters.chunks(FILTERS) {
        each_followed(&stream, store, some, headers_only, &mut take).await?;
    }
    Ok(())
}

/// One question per message: a work queue has no readers but those that take.
async fn each_queued(
    stream: &Stream,
    store: Store,
    filter: &str,
    take: &mut impl FnMut(Kept<'_>),
) -> Result<(), EraseError> {
    let mut from = 1;
    loop {
        let next = stream.raw_message_builder().sequence(from).next_by_subject(filter).send().await;
        let message = match next {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(failed("read", store, error)),
        };
        let (sequence, subject) = (message.sequence, message.subject.as_str());
        take(Kept {
            stream: &stream.cached_info().config.name,
            sequence,
            subject,
            headers: Some(&message.headers),
            payload: &message.payload,
        });
        from = sequence + 1;
    }
}

async fn each_followed(
    stream: &Stream<Info>,
    store: Store,
    filters: &[String],
    headers_only: bool,
    take: &mut impl FnMut(Kept<'_>),
) -> Result<(), EraseError> {
    let config = OrderedConfig { filter_subjects: filters.to_vec(), headers_only, ..OrderedConfig::default() };
    #[expect(
        clippy::disallowed_methods,
        reason = "a reader of its own that defines nothing and goes half a minute after its last question"
    )]
    let consumer = stream.create_consumer(config).await.map_err(|error| failed("read", store, error))?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut name = consumer.cached_info().name.clone();
    let mut messages = consumer.messages().await.map_err(|error| failed("read", store, error))?;
    loop {
        let Ok(next) = tokio::time::timeout(SILENCE, messages.next()).await else {
            // What was still to come can have gone meanwhile: expired, or erased by somebody else.
            let info = stream.consumer_info(&name).await.map_err(|error| failed("read", store, error))?;
            if info.num_pending == 0 {
                return Ok(());
            }
            return Err(failed("read", store, "it stopped sending"));
        };
        let Some(message) = next else { return Ok(()) };
        let message = message.map_err(|error| failed("read", store, error))?;
        let info = message.info().map_err(|error| failed("read", store, error))?;
        // The client makes another reader under another name when it has lost a message.
        if info.consumer != name {
            info.consumer.clone_into(&mut name);
        }
        let (sequence, left) = (info.stream_sequence, info.pending);
        let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
        take(Kept { stream: &stream.cached_info().config.name, sequence, subject, headers, payload: &message.payload });
        if left == 0 {
            return Ok(());
        }
    }
}

/// The queues of synchronous jobs: one per model.
pub(super) async fn jobs_streams(js: &jetstream::Context) -> Result<Vec<String>, EraseError> {
    let names: Result<Vec<String>, _> = js.stream_names().try_collect().await;
    let names = names.map_err(|error| failed("list", Store::Jobs, error))?;
    Ok(names.into_iter().filter(|name| name.starts_with(JOBS_PREFIX)).collect())
}

/// Deletes messages, and overwrites their bytes on the broker's disk where it can. One that is gone already is none.
pub(super) async fn remove(js: &jetstream::Context, store: Store, messages: &[Message]) -> Result<(), EraseError> {
    for of_one_stream in messages.chunk_by(|one, other| one.stream == other.stream) {
        let Some(stream) = open(js, store, &of_one_stream[0].stream, "erase from").await? else { continue };
        for some in of_one_stream.chunks(IN_A_ROW) {
            let removals: Vec<_> = some.iter().map(|message| remove_one(&stream, store, message)).collect();
            futures::stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        }
    }
    Ok(())
}

async fn remove_one(stream: &Stream, store: Store, message: &Message) -> Result<(), EraseError> {
    if stream.cached_info().config.deny_delete {
        let purged = stream.purge().filter(message.subject.as_str()).await;
        return purged.map(drop).map_err(|error| failed("erase from", store, error));
    }
    delete(stream, store, message.sequence).await
}

async fn delete(stream: &Stream, store: Store, sequence: u64) -> Result<(), EraseError> {
    let error = match stream.delete_message(sequence).await {
        Ok(true) => return Ok(()),
        Ok(false) => return Err(failed("erase from", store, "it refused")),
        Err(error) => error,
    };
    // The broker says the same of a message that is not there as of one that it cannot delete.
    if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_))
        && let Err(gone) = stream.get_raw_message(sequence).await
        && gone.kind() == RawMessageErrorKind::NoMessageFound
    {
        return Ok(());
    }
    Err(failed("erase from", store, error))
}
