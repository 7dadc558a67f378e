//! Envelopes on their way into the queue, the first time and again.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, object_store};
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::envelope::Envelope;
use super::record::{Event, Record, Refused, State};
use super::records::{ChangeError, JobKey, Records, StoreError};
use crate::codec;
use crate::ids::{JobId, TenantName};
use crate::streams::{EnsureError, Objects, Stores, is_full};

/// A message outlives its job by this: garbage collection only, a job that has not ended is expired by its record.
const LINGER: Duration = Duration::from_secs(300);
/// How long the broker is asked to take an envelope.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a message beside its payload: subject and headers.
const FRAME_BYTES: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    #[error("the queue is full")]
    Full,
    #[error("the input has {got} bytes, a job can carry {max}")]
    TooLarge { got: usize, max: usize },
    /// Whether the broker has it is unknown.
    #[error("the broker did not take the job: {0}")]
    Unavailable(String),
}

/// Most bytes of an envelope that this broker takes.
pub fn max_envelope_bytes(js: &jetstream::Context) -> usize {
    js.client().server_info().max_payload.saturating_sub(FRAME_BYTES)
}

/// Puts the bytes of an envelope into the queue and waits until the broker has them. Repeats with the same id are stored
/// once, so this may be called again with the same bytes.
///
/// # Errors
/// [`EnqueueError`]; after [`EnqueueError::Unavailable`] the message may be there all the same.
pub async fn publish(
    js: &jetstream::Context,
    subject: &str,
    message_id: &str,
    payload: Bytes,
    lives: Duration,
) -> Result<(), EnqueueError> {
    let max = max_envelope_bytes(js);
    if payload.len() > max {
        return Err(EnqueueError::TooLarge { got: payload.len(), max });
    }
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let message = PublishMessage::build()
            .payload(payload.clone())
            .message_id(message_id)
            .ttl(Duration::from_secs((lives + LINGER).as_secs()));
        let sent = match js.send_publish(subject.to_owned(), message).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let Err(error) = sent else { return Ok(()) };
        if is_full(&error) {
            return Err(EnqueueError::Full);
        }
        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
            return Err(EnqueueError::TooLarge { got: payload.len(), max });
        }
        if tokio::time::Instant::now() >= give_up {
            return Err(EnqueueError::Unavailable(error.to_string()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Last part of the name under which the envelope of a job is kept where it may be needed again.
pub const ENVELOPE_OBJECT: &str = "envelope";

/// Where the envelope of a job is kept once the job is dead.
pub fn envelope_object(job: &JobId) -> String {
    format!("{job}/{ENVELOPE_OBJECT}")
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("there is no asynchronous job {0}")]
    NotFound(JobId),
    #[error("{0}; only a job that is dead can be begun anew")]
    Refused(Refused),
    /// Its input is not kept any more.
    #[error("the input of this job is not kept any more")]
    NoEnvelope,
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stores(#[from] EnsureError),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}

/// Begins a dead job anew under the next generation, until `timeout` from `now_us` (broker time, microseconds). It may be
/// called again after any error: the message comes first, and is stored once.
///
/// # Errors
/// [`ReplayError`], in one line that says what stands in the way.
pub async fn enqueue_again(
    js: &jetstream::Context,
    stores: &Stores,
    tenant: &TenantName,
    job: &JobId,
    now_us: u64,
    timeout: Duration,
) -> Result<Record, ReplayError> {
    let records = Records::open(stores).await?;
    let key = JobKey::new(tenant, job);
    let Some((record, _)) = records.get(&key).await? else { return Err(ReplayError::NotFound(*job)) };
    if !matches!(record.state, State::Dead | State::Failed) {
        return Err(ReplayError::Refused(Refused::NotNow(record.state)));
    }
    let kept = read_object(&stores.objects(Objects::Results).await?, &envelope_object(job)).await;
    let kept: Envelope = codec::decode(&kept.ok_or(ReplayError::NoEnvelope)?)?;
    let deadline_us = now_us + timeout.as_micros() as u64;
    let anew = Envelope { generation: record.generation + 1, deadline_us, ..kept };
    let subject = crate::subjects::async_work(&anew.token, &anew.tenant);
    publish(js, &subject, &anew.message_id(), codec::encode(&anew)?, timeout).await?;
    let event = Event::Replay { deadline_ms: deadline_us / 1_000 };
    match records.change(&key, &event, now_us / 1_000).await {
        Ok(record) => Ok(record),
        Err(ChangeError::NotFound) => Err(ReplayError::NotFound(*job)),
        Err(ChangeError::Refused(refused, _)) => Err(ReplayError::Refused(refused)),
        Err(ChangeError::Store(error)) => Err(error.into()),
    }
}

async fn read_object(objects: &object_store::ObjectStore, name: &str) -> Option<Vec<u8>> {
    let mut object = objects.get(name).await.ok()?;
    let mut bytes = Vec::with_capacity(object.info().size);
    object.read_to_end(&mut bytes).await.ok()?;
    Some(bytes)
}
