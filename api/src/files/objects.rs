//! Objects: what files are made of.

use async_nats::jetstream::object_store::InfoErrorKind;
use async_nats::jetstream::stream::Stream;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use forebay_shared::streams::{self, Level, Objects};

use super::Files;
use crate::batches::part::Segment;
use crate::batches::records::{StoreError, new_id};

fn stream_name() -> String {
    format!("OBJ_{}", Objects::Files.name())
}

impl Files {
    /// How full the store of files is.
    ///
    /// # Errors
    /// The broker does not answer.
    pub(crate) async fn level(&self) -> Result<Level, StoreError> {
        let level = streams::level(&self.js, &stream_name()).await;
        level.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Keeps `text` as an object with a name of its own, unless that makes the store fuller than this.
    ///
    /// # Errors
    /// [`StoreError::Full`], or the broker did not take all of it.
    pub(crate) async fn put_object(&self, text: &[u8], percent: u8) -> Result<Segment, StoreError> {
        // Looked at first: what the broker takes of an object before it is full stays until it expires.
        if !self.level().await?.takes(text.len() as u64, percent) {
            return Err(StoreError::Full(format!("{} bytes more are too many", text.len())));
        }
        let object = new_id("part-", self.clock.now_us() / 1_000);
        let mut rest = text;
        let stored = self.objects.put(object.as_str(), &mut rest).await.inspect_err(|_| self.failed.inc());
        let stored = stored.map_err(StoreError::unavailable)?;
        Ok(Segment { object, bytes: stored.size as u64 })
    }

    /// Removes an object; one that is gone already is no error.
    ///
    /// The client's own removal first writes that it removes, which a full store refuses.
    ///
    /// # Errors
    /// The broker does not answer; a second call goes on.
    pub(crate) async fn remove_object(&self, object: &str) -> Result<(), StoreError> {
        let info = match self.objects.info(object).await {
            Ok(info) => info,
            Err(error) if error.kind() == InfoErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::unavailable(error)),
        };
        let bucket = Objects::Files.name();
        let stream = self.js.get_stream_no_info(stream_name()).await.map_err(StoreError::unavailable)?;
        // What names the chunks goes last.
        purge(&stream, format!("$O.{bucket}.C.{}", info.nuid)).await?;
        purge(&stream, format!("$O.{bucket}.M.{}", BASE64_URL_SAFE.encode(object))).await
    }
}

async fn purge<I>(stream: &Stream<I>, subject: String) -> Result<(), StoreError> {
    stream.purge().filter(subject).await.map(drop).map_err(StoreError::unavailable)
}
