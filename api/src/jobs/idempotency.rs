//! One effect per idempotency key, however often and wherever a request arrives.
//!
//! ```text
//! create ──▶ reserved ──(record and envelope are written)──▶ accepted
//!               │ older than 1 s: whoever comes by writes the same bytes again
//! ```
//! The reservation holds everything that the job is made of, so that a process which dies between reserving and
//! publishing leaves nothing undone. The same key with another body is refused. Keys of one tenant and route say nothing
//! about another's, and are kept as long as results.
//!
//! Semantics as of Stripe's API and the IETF draft `Idempotency-Key`, except that a second request waits for the first
//! instead of being refused with 409.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forebay_shared::async_jobs::{JobKey, Record};
use forebay_shared::error::JobError;
use forebay_shared::ids::{JobId, TenantName, hex};
use forebay_shared::metrics::StoreWrite;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::accept::unavailable;
use super::{Jobs, Prepared};
use crate::error::Failure;

pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// On an answer that an earlier request with this key has made.
pub const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

/// Longest key.
const MAX_KEY_BYTES: usize = 255;
/// A reservation older than this is taken over.
const RESERVED_FOR: Duration = Duration::from_secs(1);
/// A job without a record that was accepted longer ago than this is gone.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// A larger envelope is kept as an object.
const INLINE_ENVELOPE_BYTES: usize = 256 * 1024;

/// A client's key, in the scope in which it must be unique, and what it was used for.
#[derive(Debug, Clone)]
pub struct Key {
    digest: String,
    body: String,
}

impl Key {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    /// [`Failure`] for a key that is empty, too long or not plain text.
    pub fn read(
        headers: &HeaderMap,
        tenant: &TenantName,
        route: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Result<Option<Self>, Failure> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let usable = (1..=MAX_KEY_BYTES).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        if !usable {
            let message = format!("header Idempotency-Key must have 1 to {MAX_KEY_BYTES} visible ASCII characters");
            return Err(Failure::invalid("idempotency-key", message));
        }
        let digest = digest(&[tenant.as_str().as_bytes(), route.as_bytes(), value.as_bytes()]);
        let body = digest_of_body(query.unwrap_or_default(), body);
        Ok(Some(Self { digest, body }))
    }
}

fn digest_of_body(query: &str, body: &[u8]) -> String {
    digest(&[query.as_bytes(), body])
}

/// Lengths go in as well: no two lists of parts read the same.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// The value under a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reservation {
    /// Version of this format.
    v: u8,
    body: String,
    tenant: TenantName,
    job: JobId,
    /// Gone once the job is accepted.
    reserved: Option<Reserved>,
}

/// Whose reservation a value of the bucket is, and of which job; `None` for what is none.
pub(crate) fn owner_of_key(value: &[u8]) -> Option<(TenantName, JobId)> {
    serde_json::from_slice(value).ok().map(|Reservation { tenant, job, .. }| (tenant, job))
}

/// What the job is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reserved {
    record: Record,
    subject: String,
    envelope: EnvelopeRef,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EnvelopeRef {
    /// Base64.
    Inline(String),
    Object(String),
}

/// The job behind a key.
#[derive(Debug)]
pub struct Claimed {
    pub job: JobKey,
    pub id: JobId,
    /// An earlier request made it.
    pub replayed: bool,
}

impl Jobs {
    /// The job of this key: made by `draft` if there is none yet, or if the one that is there ended in a way that
    /// `again` says is worth nothing.
    ///
    /// # Errors
    /// [`Failure::IdempotencyConflict`] for another body; whatever `draft` refuses; why the job could not be accepted;
    /// [`JobError::DeadlineExceeded`] if somebody else's reservation did not come through until then.
    pub async fn once(
        &self,
        key: &Key,
        deadline: Instant,
        again: fn(&Record) -> bool,
        draft: impl FnOnce() -> Result<Prepared, Failure>,
    ) -> Result<Claimed, Failure> {
        let mut draft = Some(draft);
        let mut mine: Option<Prepared> = None;
        while Instant::now() < deadline {
            match self.reservation(key).await? {
                Some((entry, found)) => {
                    if found.body != key.body {
                        return Err(Failure::IdempotencyConflict);
                    }
                    if let Some(claimed) = self.join(key, &entry, found, again).await? {
                        return Ok(claimed);
                    }
                    tokio::time::sleep(LOOK).await;
                }
                None => {
                    if let Some(draft) = draft.take() {
                        mine = Some(draft()?);
                    }
                    let Some(prepared) = &mine else { return Err(JobError::Internal.into()) };
                    if let Some(revision) = self.reserve(key, prepared).await? {
                        return self.fulfil(key, prepared, revision, false).await;
                    }
                }
            }
        }
        Err(JobError::DeadlineExceeded.into())
    }

    async fn reservation(&self, key: &Key) -> Result<Option<(kv::Entry, Reservation)>, Failure> {
        let entry = self.keys.entry(key.digest.as_str()).await.map_err(|error| unavailable(&error))?;
        let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put) else { return Ok(None) };
        let found = serde_json::from_slice(&entry.value).map_err(|error| unavailable(&error))?;
        Ok(Some((entry, found)))
    }

    /// Somebody was here before: wait (`None`), take over, or use what they made.
    async fn join(
        &self,
        key: &Key,
        entry: &kv::Entry,
        found: Reservation,
        again: fn(&Record) -> bool,
    ) -> Result<Option<Claimed>, Failure> {
        let job = JobKey::new(&found.tenant, &found.job);
        let age_ms = self.now_ms().saturating_sub((entry.created.unix_timestamp_nanos() / 1_000_000) as u64);
        let Some(reserved) = found.reserved else {
            let record = self.records.get(&job).await.map_err(|error| unavailable(&error))?;
            return match record {
                Some((record, _)) if !again(&record) => Ok(Some(Claimed { job, id: found.job, replayed: true })),
                // A replica of the bucket may not have it yet.
                None if age_ms < UNKNOWN_FOR.as_millis() as u64 => Ok(None),
                // Nothing came of it, or nothing is known of it any more: the key is free again.
                _ => {
                    self.release(key, entry.revision).await;
                    Ok(None)
                }
            };
        };
        if age_ms < RESERVED_FOR.as_millis() as u64 {
            return Ok(None);
        }
        let payload = match reserved.envelope {
            EnvelopeRef::Inline(text) => STANDARD.decode(text).map_err(|_| JobError::Internal)?,
            EnvelopeRef::Object(name) => {
                let mut bytes = Vec::new();
                let mut object = self.results.get(name).await.map_err(|error| unavailable(&error))?;
                object.read_to_end(&mut bytes).await.map_err(|error| unavailable(&error))?;
                bytes
            }
        };
        let prepared = Prepared { record: reserved.record, subject: reserved.subject, payload: Bytes::from(payload) };
        tracing::debug!(job = %found.job, "taking over a reservation that was not fulfilled");
        self.fulfil(key, &prepared, entry.revision, true).await.map(Some)
    }

    /// `None` if somebody was faster.
    async fn reserve(&self, key: &Key, prepared: &Prepared) -> Result<Option<u64>, Failure> {
        let envelope = if prepared.payload.len() <= INLINE_ENVELOPE_BYTES {
            EnvelopeRef::Inline(STANDARD.encode(&prepared.payload))
        } else {
            let name = reserved_object(&prepared.record.id);
            self.keep_object(&name, &prepared.payload).await.map_err(|error| unavailable(&error))?;
            EnvelopeRef::Object(name)
        };
        let reserved = Reserved { record: prepared.record.clone(), subject: prepared.subject.clone(), envelope };
        match self.keys.create(key.digest.as_str(), encode(&reservation(key, prepared, Some(reserved)))?).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => {
                self.write_failed(StoreWrite::Kv);
                Err(unavailable(&error).into())
            }
        }
    }

    async fn fulfil(&self, key: &Key, prepared: &Prepared, revision: u64, replayed: bool) -> Result<Claimed, Failure> {
        if let Err(error) = self.accept(prepared, true).await {
            if !matches!(error, JobError::BrokerUnavailable) {
                // Refused for good, and nothing is left: the next try may have more luck.
                self.release(key, revision).await;
            }
            return Err(error.into());
        }
        // If this fails, the next to come by publishes the same bytes once more, which is harmless.
        let accepted = encode(&reservation(key, prepared, None))?;
        if let Err(error) = self.keys.update(key.digest.as_str(), accepted, revision).await {
            if error.kind() != kv::UpdateErrorKind::WrongLastRevision {
                self.write_failed(StoreWrite::Kv);
            }
            tracing::debug!(%error, "a reservation stays as it is");
        }
        if prepared.payload.len() > INLINE_ENVELOPE_BYTES {
            self.drop_object(&reserved_object(&prepared.record.id)).await;
        }
        Ok(Claimed { job: prepared.key(), id: prepared.record.id, replayed })
    }

    async fn release(&self, key: &Key, revision: u64) {
        if let Err(error) = self.keys.delete_expect_revision(key.digest.as_str(), Some(revision)).await {
            tracing::debug!(%error, "a reservation was not given up");
        }
    }
}

fn reservation(key: &Key, prepared: &Prepared, reserved: Option<Reserved>) -> Reservation {
    let Record { tenant, id, .. } = &prepared.record;
    Reservation { v: 1, body: key.body.clone(), tenant: tenant.clone(), job: *id, reserved }
}

fn reserved_object(job: &JobId) -> String {
    format!("{job}/reserved")
}

fn encode(reservation: &Reservation) -> Result<Bytes, Failure> {
    Ok(serde_json::to_vec(reservation).map_err(|_| JobError::Internal)?.into())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(tenant: &str, route: &str, key: &str, body: &str) -> Key {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).unwrap());
        Key::read(&headers, &tenant.into(), route, None, body.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_key_is_one_tenants_on_one_route() {
        let first = key("a", "/embed", "k", "{}");
        assert_eq!(first.digest, key("a", "/embed", "k", "other").digest);
        for other in [key("b", "/embed", "k", "{}"), key("a", "/v1/jobs", "k", "{}"), key("a", "/embed", "l", "{}")] {
            assert_ne!(first.digest, other.digest);
        }
        assert_ne!(first.body, key("a", "/embed", "k", "{ }").body);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(key("ab", "c", "k", "").digest, key("a", "bc", "k", "").digest);
    }

    #[test]
    fn an_unusable_key_is_refused_and_none_is_fine() {
        let mut headers = HeaderMap::new();
        let read = |headers: &HeaderMap| Key::read(headers, &"t".into(), "/", None, b"");
        assert!(read(&headers).unwrap().is_none());
        for bad in ["", "a\tb", &"x".repeat(256)] {
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(bad).unwrap());
            assert!(read(&headers).is_err(), "{bad:?}");
        }
    }

    /// They lie in the bucket for as long as results are kept: fields may be added, with a default.
    #[test]
    fn the_text_of_a_reservation_is_frozen() {
        let job = JobId::from_bytes([7; 16]);
        let record = Record::new(job, "t".into(), "m".into(), "m-0123456789".into(), "embed", 1, 1_000, 9_000);
        let reservation = |envelope| Reservation {
            v: 1,
            body: "digest".to_owned(),
            tenant: "t".into(),
            job,
            reserved: Some(Reserved { record: record.clone(), subject: "s".to_owned(), envelope }),
        };
        let accepted = Reservation { reserved: None, ..reservation(EnvelopeRef::Object(String::new())) };
        for (reservation, text) in [
            (reservation(EnvelopeRef::Inline("AQI=".to_owned())), INLINE),
            (reservation(EnvelopeRef::Object("o".to_owned())), OBJECT),
            (accepted, ACCEPTED),
        ] {
            assert_eq!(serde_json::to_string(&reservation).unwrap(), text);
            let read: Reservation = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    const INLINE: &str = r#"{"v":1,"body":"digest","tenant":"t","job":"07070707070707070707070707070707","reserved":{"record":{"v":1,"id":"07070707070707070707070707070707","generation":0,"tenant":"t","model":"m","token":"m-0123456789","task":"embed","rows":1,"state":"queued","attempts":0,"created_ms":1000,"started_ms":null,"ended_ms":null,"deadline_ms":9000,"result":null,"error":null,"webhook":null},"subject":"s","envelope":{"inline":"AQI="}}}"#;
    const OBJECT: &str = r#"{"v":1,"body":"digest","tenant":"t","job":"07070707070707070707070707070707","reserved":{"record":{"v":1,"id":"07070707070707070707070707070707","generation":0,"tenant":"t","model":"m","token":"m-0123456789","task":"embed","rows":1,"state":"queued","attempts":0,"created_ms":1000,"started_ms":null,"ended_ms":null,"deadline_ms":9000,"result":null,"error":null,"webhook":null},"subject":"s","envelope":{"object":"o"}}}"#;
    const ACCEPTED: &str =
        r#"{"v":1,"body":"digest","tenant":"t","job":"07070707070707070707070707070707","reserved":null}"#;
}
