//! A file on its way in: written piece by piece into an object that is kept only if all of it was wanted.

use bytes::Bytes;
use forebay_shared::ids::TenantName;
use tokio::io::{AsyncWriteExt, BufWriter, DuplexStream};
use tokio::sync::oneshot;

use super::{FileRecord, Files, Stored, file_key};
use crate::batches::records::{StoreError, new_id};

/// The size of an object's chunks.
const CHUNK_BYTES: usize = 128 * 1024;

/// An object that is being written. Dropped before it is finished, it is removed again.
pub struct Upload {
    id: String,
    writer: BufWriter<DuplexStream>,
    bytes: u64,
    stored: oneshot::Receiver<Result<(), StoreError>>,
    keep: oneshot::Sender<()>,
}

impl Files {
    /// Begins a new file.
    pub fn upload(&self) -> Upload {
        let id = new_id("file-", self.clock.now_us() / 1_000);
        let (writer, mut reader) = tokio::io::duplex(CHUNK_BYTES);
        let (told, stored) = oneshot::channel();
        let (keep, kept) = oneshot::channel();
        let (objects, name, failed) = (self.objects.clone(), id.clone(), self.failed.clone());
        // A task of its own: it must clean up after a client that went away.
        tokio::spawn(async move {
            let put = objects.put(name.as_str(), &mut reader).await.inspect_err(|_| failed.inc());
            let put = put.map(drop).map_err(StoreError::unavailable);
            let is_stored = put.is_ok();
            let _gone = told.send(put);
            // After a failure nobody reads: who still writes must hear of it.
            drop(reader);
            if kept.await.is_err()
                && is_stored
                && let Err(error) = objects.delete(&name).await
            {
                tracing::warn!(%error, "an unwanted upload stays until it expires");
            }
        });
        let writer = BufWriter::with_capacity(CHUNK_BYTES, writer);
        Upload { id, writer, bytes: 0, stored, keep }
    }

    /// Makes the file that was uploaded.
    ///
    /// # Errors
    /// The broker did not take all of it; nothing is kept.
    pub async fn finish(
        &self,
        mut upload: Upload,
        tenant: &TenantName,
        filename: String,
        purpose: &str,
        keep_seconds: Option<u64>,
    ) -> Result<FileRecord, StoreError> {
        if let Err(error) = upload.writer.shutdown().await {
            return Err(upload.why(error).await);
        }
        upload.stored.await.map_err(StoreError::unavailable)??;
        let object = Stored::Object(upload.id.clone());
        let mut file = self.record(tenant, upload.id, filename, purpose, object, keep_seconds);
        file.bytes = upload.bytes;
        self.records.create(&file_key(tenant, &file.id), &file).await?;
        let _the_task_waits = upload.keep.send(());
        Ok(file)
    }
}

impl Upload {
    /// Takes the next piece. How large a file may be is for who reads it to say.
    ///
    /// # Errors
    /// The broker does not take it; drop the upload then.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.bytes += piece.len() as u64;
        match self.writer.write_all(&piece).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why(error).await),
        }
    }

    /// What stands behind a pipe that nobody reads any more.
    async fn why(&mut self, error: std::io::Error) -> StoreError {
        match (&mut self.stored).await {
            Ok(Err(cause)) => cause,
            _ => StoreError::unavailable(error),
        }
    }
}
