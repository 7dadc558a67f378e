//! Records in their bucket: read, created, and changed by compare-and-swap.

use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::record::{Event, Record, Refused};
use crate::ids::{JobId, TenantName, hex};
use crate::metrics::Counter;
use crate::model::slug;
use crate::planted::Bug;
use crate::streams::{Bucket, EnsureError, Stores};

/// Tries of one change before the broker counts as unable.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Headers of messages that stand for a removed value.
const REMOVED: [&str; 2] = ["KV-Operation", "Nats-Marker-Reason"];

/// Whose job, and which: the key of its record. One tenant's keys say nothing about another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobKey(String);

impl JobKey {
    pub fn new(tenant: &TenantName, job: &JobId) -> Self {
        Self(format!("{}.{job}", tenant_token(tenant)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The job that a key of the bucket names.
    pub fn job_of(key: &str) -> Option<JobId> {
        key.rsplit_once('.')?.1.parse().ok()
    }
}

/// A tenant as one token of a key: readable where its name allows, never the same for two names.
pub fn tenant_token(tenant: &TenantName) -> String {
    let slug = slug(tenant.as_str());
    if slug == tenant.as_str() {
        return slug;
    }
    format!("{slug}-{}", &hex(&Sha256::digest(tenant.as_str()))[..16])
}

/// The broker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store of records does not answer: {0}")]
pub struct StoreError(pub String);

impl StoreError {
    fn new(cause: impl std::fmt::Display) -> Self {
        Self(cause.to_string())
    }
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no such job")]
    NotFound,
    /// The event came too late; beside it, what is there instead.
    #[error("{0}")]
    Refused(Refused, Box<Record>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bucket of records.
#[derive(Clone)]
pub struct Records {
    bucket: kv::Store,
    /// Counts writes that failed.
    failed: Option<Counter>,
}

impl Records {
    /// # Errors
    /// As [`Stores::bucket`].
    pub async fn open(stores: &Stores) -> Result<Self, EnsureError> {
        Ok(Self { bucket: stores.bucket(Bucket::Records).await?, failed: None })
    }

    /// Counts every write that fails, other than because somebody else wrote first.
    #[must_use]
    pub fn counting(self, failed: Counter) -> Self {
        Self { failed: Some(failed), ..self }
    }

    fn write_failed(&self, cause: impl std::fmt::Display) -> StoreError {
        if let Some(failed) = &self.failed {
            failed.inc();
        }
        StoreError::new(cause)
    }

    pub fn bucket(&self) -> &kv::Store {
        &self.bucket
    }

    /// Writes the record of a job that is about to be accepted; true if there was none.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was written is unknown.
    pub async fn create(&self, record: &Record) -> Result<bool, StoreError> {
        let key = JobKey::new(&record.tenant, &record.id);
        match self.bucket.create(key.as_str(), encode(record)?).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.write_failed(error)),
        }
    }

    /// The record and its revision, as the leader of its stream has them: the bucket's own reads are answered by any replica,
    /// and one that is behind would make a write of a moment ago look as if it had not happened.
    ///
    /// # Errors
    /// [`StoreError`], also for a record that cannot be read.
    pub async fn get(&self, key: &JobKey) -> Result<Option<(Record, u64)>, StoreError> {
        let subject = format!("$KV.{}.{}", self.bucket.name, key.as_str());
        match self.bucket.stream.get_last_raw_message_by_subject(&subject).await {
            // What a removal leaves behind is no record.
            Ok(message) if REMOVED.iter().any(|header| message.headers.get(*header).is_some()) => Ok(None),
            Ok(message) => Ok(Some((decode(&message.payload)?, message.sequence))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(StoreError::new(error)),
        }
    }

    /// Applies `event` to what is there, whoever else writes at the same time. A change that was written without an answer
    /// is seen at the next try, as refused or as done.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if the event is too late; [`ChangeError::Store`] when the broker did not answer for some
    /// seconds, and it is unknown whether the change was made.
    pub async fn change(&self, key: &JobKey, event: &Event, now_ms: u64) -> Result<Record, ChangeError> {
        let mut failed = StoreError("too many writers".to_owned());
        for _ in 0..TRIES {
            match self.get(key).await {
                Ok(None) => return Err(ChangeError::NotFound),
                Ok(Some((record, _)))
                    if Bug::NoDuplicateSuppression.is_planted()
                        && record.state.is_terminal()
                        && matches!(event, Event::Finish { .. }) =>
                {
                    let again = Record { ended_ms: Some(now_ms), ..record };
                    self.bucket.put(key.as_str(), encode(&again)?).await.map_err(StoreError::new)?;
                    return Ok(again);
                }
                Ok(Some((record, revision))) => {
                    let next = record
                        .apply(event.clone(), now_ms)
                        .map_err(|refused| ChangeError::Refused(refused, Box::new(record)))?;
                    match self.bucket.update(key.as_str(), encode(&next)?, revision).await {
                        Ok(_) => return Ok(next),
                        Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => continue,
                        Err(error) => failed = self.write_failed(error),
                    }
                }
                Err(error) => failed = error,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(failed.into())
    }

    /// Writes a record that has not ended once more as it is, so that the bucket keeps it for its full time again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(&self, key: &JobKey) -> Result<(), StoreError> {
        let Some((record, revision)) = self.get(key).await? else { return Ok(()) };
        if record.state.is_terminal() {
            return Ok(());
        }
        match self.bucket.update(key.as_str(), encode(&record)?, revision).await {
            // Somebody else wrote: that renews it as well.
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(()),
            Err(error) => Err(self.write_failed(error)),
            Ok(_) => Ok(()),
        }
    }

    /// Takes back the record of a job that was not accepted after all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, key: &JobKey) -> Result<(), StoreError> {
        self.bucket.purge(key.as_str()).await.map_err(|error| self.write_failed(error))
    }

    /// The ids of a tenant's jobs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ids_of(&self, tenant: &TenantName) -> Result<Vec<JobId>, StoreError> {
        use futures::TryStreamExt;
        let prefix = format!("$KV.{}.{}", Bucket::Records.name(), tenant_token(tenant));
        let info = self.bucket.stream.info_with_subjects(format!("{prefix}.*")).await.map_err(StoreError::new)?;
        let subjects: Vec<(String, usize)> = info.try_collect().await.map_err(StoreError::new)?;
        let mut ids: Vec<JobId> = subjects.iter().filter_map(|(subject, _)| JobKey::job_of(subject)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }
}

/// # Errors
/// [`StoreError`] for what is no record.
pub fn decode(value: &[u8]) -> Result<Record, StoreError> {
    serde_json::from_slice(value).map_err(StoreError::new)
}

fn encode(record: &Record) -> Result<Bytes, StoreError> {
    serde_json::to_vec(record).map(Bytes::from).map_err(StoreError::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tenants_never_share_a_key() {
        let job = JobId::from_bytes([1; 16]);
        let keys = ["a-b", "a.b", "A-b", "a-b-", "default", "a b"].map(|name| JobKey::new(&name.into(), &job));
        for (at, key) in keys.iter().enumerate() {
            assert!(keys[at + 1..].iter().all(|other| other != key), "{key:?}");
            assert_eq!(JobKey::job_of(key.as_str()), Some(job));
            assert_eq!(key.as_str().matches('.').count(), 1);
        }
    }
}
