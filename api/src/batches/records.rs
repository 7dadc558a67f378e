//! JSON records in a key-value bucket: read with their revision, changed by compare-and-swap.

use std::cmp::Reverse;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use forebay_shared::error::JobError;
use forebay_shared::metrics::Counter;
use forebay_shared::streams::is_full;
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::room::NoRoom;
use crate::error::Failure;

/// Headers of a message that says that a key was removed, by a client or by its age.
const REMOVED: [&str; 2] = ["KV-Operation", "Nats-Marker-Reason"];

/// More subjects than a stream has.
const BEHIND_THE_LAST: u32 = 1 << 30;

/// A bucket.
#[derive(Clone)]
pub struct Records {
    kv: kv::Store,
    /// Counts writes that failed.
    failed: Option<Counter>,
}

/// A record and what a change of it must name.
#[derive(Debug)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the broker's store does not answer: {0}")]
    Unavailable(String),
    /// Nothing fits until something is removed or expires.
    #[error("the broker's store is full: {0}")]
    Full(String),
    #[error("a record cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// From what a client of the broker said; that the store is full is told apart.
    pub(crate) fn unavailable(error: impl std::error::Error + 'static) -> Self {
        let said = error.to_string();
        if is_full(&error) { Self::Full(said) } else { Self::Unavailable(said) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request for a file or batch failed");
        match error {
            StoreError::Unavailable(_) => Self::Job(JobError::BrokerUnavailable),
            StoreError::Full(_) => Self::NoRoom(NoRoom::Store),
            StoreError::Unreadable(_) => Self::Job(JobError::Internal),
        }
    }
}

impl Records {
    pub fn new(kv: kv::Store) -> Self {
        Self { kv, failed: None }
    }

    /// Counts every write that fails, other than because somebody else wrote first.
    #[must_use]
    pub fn counting(self, failed: Counter) -> Self {
        Self { failed: Some(failed), ..self }
    }

    fn write_failed(&self, error: impl std::error::Error + 'static) -> StoreError {
        if let Some(failed) = &self.failed {
            failed.inc();
        }
        StoreError::unavailable(error)
    }

    /// From the stream's leader: the client's own read of a key is answered by any replica, and of one that lags "there is
    /// none" would be taken for the truth, and a message about it acknowledged.
    ///
    /// # Errors
    /// [`StoreError`]: no answer, or a record that is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, StoreError> {
        let subject = format!("$KV.{}.{key}", self.kv.name);
        let found = match self.kv.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(found) => found,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(StoreError::unavailable(error)),
        };
        // What is left of a key that was removed.
        if REMOVED.iter().any(|header| found.headers.get(*header).is_some()) {
            return Ok(None);
        }
        let value = serde_json::from_slice(&found.payload)
            .map_err(|error| StoreError::Unreadable(format!("{key}: {error}")))?;
        Ok(Some(Versioned { value, revision: found.sequence }))
    }

    /// False if there is one already, which after a failed attempt can be the one of that attempt.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it is unknown whether the record was made.
    pub async fn create<T: Serialize>(&self, key: &str, value: &T) -> Result<bool, StoreError> {
        match self.kv.create(key, encode(value)?).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.write_failed(error)),
        }
    }

    /// False if the record is not the one of `revision` any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it is unknown whether the record was changed.
    pub async fn replace<T: Serialize>(&self, key: &str, value: &T, revision: u64) -> Result<bool, StoreError> {
        match self.kv.update(key, encode(value)?, revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(self.write_failed(error)),
        }
    }

    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.kv.purge(key).await.map_err(|error| self.write_failed(error))
    }

    /// Removes every key that is `prefix` and one more token, without leaving traces.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn remove_all(&self, prefix: &str) -> Result<(), StoreError> {
        let purged = self.kv.stream.purge().filter(self.filter(prefix)).await;
        purged.map(drop).map_err(|error| self.write_failed(error))
    }

    /// Keys that are `prefix` and one more token, in no order: one question to the broker. Removed ones may be among them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let bucket = format!("$KV.{}.", self.kv.name);
        let subjects = self.kv.stream.info_with_subjects(self.filter(prefix)).await.map_err(StoreError::unavailable)?;
        subjects
            .map_ok(|(subject, _)| subject.strip_prefix(&bucket).unwrap_or(&subject).to_owned())
            .try_collect()
            .await
            .map_err(StoreError::unavailable)
    }

    /// How many keys [`Self::keys`] has. Asked for from behind the last, the broker says how many there are and lists none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count(&self, js: &jetstream::Context, prefix: &str) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Page {
            /// Left out if there is none.
            #[serde(default)]
            total: usize,
        }
        let request = serde_json::json!({ "subjects_filter": self.filter(prefix), "offset": BEHIND_THE_LAST });
        let subject = format!("STREAM.INFO.KV_{}", self.kv.name);
        let page: Response<Page> = js.request(subject, &request).await.map_err(StoreError::unavailable)?;
        match page {
            Response::Ok(page) => Ok(page.total),
            Response::Err { error } => Err(StoreError::unavailable(error)),
        }
    }

    /// Keys of [`Self::keys`] from the newest to the oldest, as ids begin with their time; those after the id `after`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn newest_first(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let mut keys = self.keys(prefix).await?;
        if let Some(after) = after {
            keys.retain(|key| key[prefix.len()..] < *after);
        }
        keys.sort_unstable_by(|a, b| Reverse(a).cmp(&Reverse(b)));
        Ok(keys)
    }

    fn filter(&self, prefix: &str) -> String {
        format!("$KV.{}.{prefix}*", self.kv.name)
    }
}

fn encode(value: &impl Serialize) -> Result<Bytes, StoreError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// A new id: 12 hexadecimal digits of the time in milliseconds, so that ids sort by age, and 20 random ones.
pub fn new_id(prefix: &str, now_ms: u64) -> String {
    id_of(prefix, now_ms, &rand::random::<[u8; 10]>())
}

/// The id that everybody derives from `parent`, which carries its time.
pub fn derived_id(prefix: &str, parent: &str, what: &str) -> String {
    let digest = Sha256::digest(format!("{parent}:{what}"));
    let now_ms = parent.rsplit(['_', '-']).next().and_then(|digits| u64::from_str_radix(digits.get(..12)?, 16).ok());
    id_of(prefix, now_ms.unwrap_or_default(), &digest[..10])
}

fn id_of(prefix: &str, now_ms: u64, rest: &[u8]) -> String {
    format!("{prefix}{now_ms:012x}{}", forebay_shared::ids::hex(rest))
}

/// Whether a client's text can be the id of a record: what is no part of a key finds nothing.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_age_and_a_derived_one_stands_beside_its_parent() {
        let (older, newer) = (new_id("batch_", 1_700_000_000_000), new_id("batch_", 1_700_000_000_001));
        assert!(older < newer);
        let output = derived_id("file-", &older, "output");
        assert_eq!(output[5..17], older[6..18]);
        assert_eq!(output, derived_id("file-", &older, "output"));
        assert_ne!(output, derived_id("file-", &older, "errors"));
    }

    #[test]
    fn what_could_leave_its_place_in_a_key_is_no_id() {
        assert!(is_id(&new_id("file-", 5)));
        for text in ["", "a.b", "*", ">", "a b", "../x", &"x".repeat(65)] {
            assert!(!is_id(text), "{text}");
        }
    }
}
