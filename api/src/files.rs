//! OpenAI's Files API: files of a tenant, streamed in and out, never in memory.
//!
//! A file is a record in the bucket and one or several objects. An uploaded file is one object; what a batch produced is
//! the list of its parts' objects, in order. A record is made after the object is complete, so a file that can be found
//! can be read; an upload that ends before that leaves nothing but, after a kill, chunks that expire.

mod content;
mod objects;
mod upload;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::object_store::ObjectStore;
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::TenantName;
use forebay_shared::metrics::Counter;
use forebay_shared::model::slug;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

pub use content::Content;
pub use upload::Upload;

use crate::batches::part::Segment;
use crate::batches::records::{Records, StoreError, is_id};

/// A tenant's file. Kept as JSON; times in seconds since the Unix epoch, broker time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub id: String,
    pub tenant: TenantName,
    pub bytes: u64,
    pub created_at: u64,
    pub expires_at: u64,
    pub filename: String,
    pub purpose: String,
    stored: Stored,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    /// One object of this name.
    Object(String),
    /// Those that a record of its own lists, see [`segments_key`]: lists of files are read often, this rarely.
    Segments,
}

impl FileRecord {
    /// The object that holds it, unless it is made of several.
    pub(crate) fn object(&self) -> Option<&str> {
        match &self.stored {
            Stored::Object(name) => Some(name),
            Stored::Segments => None,
        }
    }
}

pub const PURPOSE_BATCH: &str = "batch";
pub const PURPOSE_BATCH_OUTPUT: &str = "batch_output";

fn file_key(tenant: &TenantName, id: &str) -> String {
    format!("file.{}.{id}", slug(tenant.as_str()))
}

/// Segments in one record: half of what a message of the broker carries.
const SEGMENTS_PER_RECORD: usize = 8_000;

/// Where the list of a file's segments is, in pieces that are all full but the last: the first has the key of its own.
fn segments_key(id: &str, piece: usize) -> String {
    if piece == 0 { format!("segments.{id}") } else { format!("segments.{id}.{piece}") }
}

/// All files, as one process sees them.
pub struct Files {
    records: Records,
    objects: ObjectStore,
    /// Of the connection that [`Self::objects`] came over.
    js: jetstream::Context,
    clock: BrokerClock,
    /// Counts objects that could not be written.
    failed: Counter,
    /// Largest upload.
    pub max_bytes: u64,
    keep: Duration,
}

impl Files {
    pub fn new(
        records: Records,
        objects: ObjectStore,
        js: jetstream::Context,
        clock: BrokerClock,
        failed: Counter,
        max_bytes: u64,
        keep: Duration,
    ) -> Self {
        Self { records, objects, js, clock, failed, max_bytes, keep }
    }

    fn now(&self) -> u64 {
        self.clock.now_us() / 1_000_000
    }

    fn record(
        &self,
        tenant: &TenantName,
        id: String,
        filename: String,
        purpose: &str,
        stored: Stored,
        keep_seconds: Option<u64>,
    ) -> FileRecord {
        let (now, keep) = (self.now(), self.keep.as_secs());
        FileRecord {
            id,
            tenant: tenant.clone(),
            bytes: 0,
            created_at: now,
            expires_at: now + keep_seconds.map_or(keep, |wanted| wanted.min(keep)),
            filename,
            purpose: purpose.to_owned(),
            stored,
        }
    }

    /// A tenant's file, if it exists and has not expired.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn find(&self, tenant: &TenantName, id: &str) -> Result<Option<FileRecord>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let found = self.records.get::<FileRecord>(&file_key(tenant, id)).await?;
        Ok(found.map(|found| found.value).filter(|file| self.is_visible(file, tenant)))
    }

    /// Two tenants' names can share a key; their files stay apart.
    fn is_visible(&self, file: &FileRecord, tenant: &TenantName) -> bool {
        file.tenant == *tenant && self.now() < file.expires_at
    }

    /// A tenant's files, newest first (or oldest), at most `limit` after the one called `after`; and whether there are more.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn list(
        &self,
        tenant: &TenantName,
        purpose: Option<&str>,
        after: Option<&str>,
        limit: usize,
        oldest_first: bool,
    ) -> Result<(Vec<FileRecord>, bool), StoreError> {
        let prefix = file_key(tenant, "");
        let mut keys = self.records.newest_first(&prefix, after.filter(|_| !oldest_first)).await?;
        if oldest_first {
            keys.reverse();
            keys.retain(|key| after.is_none_or(|after| key[prefix.len()..] > *after));
        }
        let mut read = self.read_all(keys, tenant);
        let mut page = Vec::new();
        while let Some(found) = read.next().await {
            let Some(file) = found? else { continue };
            if purpose.is_some_and(|purpose| purpose != file.purpose) {
                continue;
            }
            if page.len() == limit {
                return Ok((page, true));
            }
            page.push(file);
        }
        Ok((page, false))
    }

    /// Bytes of all of a tenant's files.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn used_by(&self, tenant: &TenantName) -> Result<u64, StoreError> {
        let keys = self.records.keys(&file_key(tenant, "")).await?;
        let files = self.read_all(keys, tenant);
        files.try_fold(0, |sum, file| async move { Ok(sum + file.map_or(0, |file| file.bytes)) }).await
    }

    /// Those of these records that are files of the tenant, in the same order.
    fn read_all(
        &self,
        keys: Vec<String>,
        tenant: &TenantName,
    ) -> impl futures::Stream<Item = Result<Option<FileRecord>, StoreError>> + Unpin {
        let read = keys.into_iter().map(|key| {
            let records = self.records.clone();
            async move { records.get::<FileRecord>(&key).await }
        });
        let visible = move |file: &FileRecord| self.is_visible(file, tenant);
        futures::stream::iter(read)
            .buffered(16)
            .map(move |found| Ok(found?.map(|found| found.value).filter(|file| visible(file))))
    }

    /// The bytes of a file, from the first to the last.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn open(&self, file: &FileRecord) -> Result<Content, StoreError> {
        Ok(Content::new(self.objects.clone(), self.segments(file).await?))
    }

    /// The objects that a file is made of, in order.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn segments(&self, file: &FileRecord) -> Result<Vec<Segment>, StoreError> {
        match &file.stored {
            Stored::Object(name) => Ok(vec![Segment { object: name.clone(), bytes: file.bytes }]),
            Stored::Segments => {
                let mut segments = Vec::new();
                for piece in 0.. {
                    let found = self.records.get::<Vec<Segment>>(&segments_key(&file.id, piece)).await?;
                    let found = found.map(|found| found.value).unwrap_or_default();
                    let is_last = found.len() < SEGMENTS_PER_RECORD;
                    segments.extend(found);
                    if is_last {
                        break;
                    }
                }
                Ok(segments)
            }
        }
    }

    /// Makes a file of objects that are there. A second call for the same id changes nothing.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn keep_segments(
        &self,
        tenant: &TenantName,
        id: &str,
        filename: String,
        segments: Vec<Segment>,
        keep_seconds: Option<u64>,
    ) -> Result<(), StoreError> {
        for (piece, segments) in segments.chunks(SEGMENTS_PER_RECORD).enumerate() {
            self.records.create(&segments_key(id, piece), &segments).await?;
        }
        let mut file =
            self.record(tenant, id.to_owned(), filename, PURPOSE_BATCH_OUTPUT, Stored::Segments, keep_seconds);
        file.bytes = segments.iter().map(|segment| segment.bytes).sum();
        self.records.create(&file_key(tenant, id), &file).await?;
        Ok(())
    }

    /// Removes a file: its bytes first, so that a second attempt can remove what a first left.
    ///
    /// # Errors
    /// The broker does not answer; the file may be gone in part.
    pub async fn remove(&self, file: &FileRecord) -> Result<(), StoreError> {
        let segments = self.segments(file).await?;
        let removals = segments.into_iter().map(|segment| async move { self.remove_object(&segment.object).await });
        let mut removals = futures::stream::iter(removals).buffer_unordered(8);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        drop(removals);
        if file.stored == Stored::Segments {
            // The first last: a second attempt begins there.
            self.records.remove_all(&format!("{}.", segments_key(&file.id, 0))).await?;
            self.records.remove(&segments_key(&file.id, 0)).await?;
        }
        self.records.remove(&file_key(&file.tenant, &file.id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They lie in the bucket for as long as files are kept: fields may be added, with a default.
    #[test]
    fn the_texts_of_records_are_frozen() {
        let uploaded = FileRecord {
            id: "file-1".to_owned(),
            tenant: "t".into(),
            bytes: 9,
            created_at: 100,
            expires_at: 200,
            filename: "in.jsonl".to_owned(),
            purpose: PURPOSE_BATCH.to_owned(),
            stored: Stored::Object("file-1".to_owned()),
        };
        let produced = FileRecord { stored: Stored::Segments, ..uploaded.clone() };
        let text = |stored: &str| {
            format!(
                r#"{{"id":"file-1","tenant":"t","bytes":9,"created_at":100,"expires_at":200,"filename":"in.jsonl","purpose":"batch","stored":{stored}}}"#
            )
        };
        for (record, text) in [(uploaded, text(r#"{"object":"file-1"}"#)), (produced, text(r#""segments""#))] {
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
            assert_eq!(serde_json::from_str::<FileRecord>(&text).unwrap(), record);
        }
        let segments = vec![Segment { object: "part-1".to_owned(), bytes: 9 }];
        assert_eq!(serde_json::to_string(&segments).unwrap(), r#"[{"object":"part-1","bytes":9}]"#);
    }
}
