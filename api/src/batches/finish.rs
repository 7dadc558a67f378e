//! The end of a batch, by whoever comes first; a second one does the same and changes nothing.

use forebay_shared::ids::TenantName;

use super::part::{Marker, Segment};
use super::record::{Batch, Event};
use super::records::{StoreError, derived_id};
use super::{BatchError, Batches, markers_of, starts_of};

impl Batches {
    /// Makes the output files of a batch all of whose parts have ended, and ends it. Nothing happens if one has not.
    pub(super) async fn finish(&self, tenant: &TenantName, id: &str) -> Result<(), BatchError> {
        let Some(found) = self.find(tenant, id).await? else { return Ok(()) };
        let batch = found.value;
        if !batch.phase.is_over() {
            let markers = self.markers(id, (0..batch.parts).collect()).await?;
            if batch.parts == 0 || markers.len() < batch.parts as usize {
                return Ok(());
            }
            self.end(&batch, &markers).await?;
        }
        self.progress.invalidate(id);
        // Markers are of no use any more; a part that is run late finds that its batch is over.
        self.records.remove_all(&markers_of(id)).await?;
        Ok(self.records.remove_all(&starts_of(id)).await?)
    }

    async fn end(&self, batch: &Batch, markers: &[(u32, Marker)]) -> Result<(), BatchError> {
        match self.apply(&batch.tenant, &batch.id, &Event::PartsDone).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(BatchError::Refused(phase)) if phase.0.is_over() => return Ok(()),
            Err(error) => return Err(error),
        }
        let segments = |of: fn(&Marker) -> Option<&Segment>| -> Vec<Segment> {
            markers.iter().filter_map(|(_, marker)| of(marker).cloned()).collect()
        };
        let output_file_id = self.keep_file(batch, "output", segments(|marker| marker.output.as_ref())).await?;
        let error_file_id = self.keep_file(batch, "errors", segments(|marker| marker.errors.as_ref())).await?;
        let sum = |of: fn(&Marker) -> u32| markers.iter().map(|(_, marker)| u64::from(of(marker))).sum();
        let event = Event::Finished {
            completed: sum(|marker| marker.completed),
            failed: sum(|marker| marker.failed),
            output_file_id,
            error_file_id,
            expired: markers.iter().any(|(_, marker)| marker.expired),
        };
        match self.apply(&batch.tenant, &batch.id, &event).await {
            Ok(_) => Ok(()),
            Err(BatchError::Refused(phase)) if phase.0.is_over() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn keep_file(&self, batch: &Batch, what: &str, segments: Vec<Segment>) -> Result<Option<String>, StoreError> {
        if segments.is_empty() {
            return Ok(None);
        }
        let id = derived_id("file-", &batch.id, what);
        let name = format!("{}_{what}.jsonl", batch.id);
        self.files.keep_segments(&batch.tenant, &id, name, segments, batch.output_keep_seconds).await?;
        Ok(Some(id))
    }
}
