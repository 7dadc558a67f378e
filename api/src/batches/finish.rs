//! The end of a batch, by whoever comes first; a second one does the same and changes nothing.

use forebay_shared::ids::TenantName;
use rustc_hash::FxHashSet;

use super::part::{Marker, Part, Segment};
use super::record::{Batch, Event};
use super::records::{StoreError, derived_id};
use super::{BatchError, Batches, marker_key, markers_of, starts_of};

impl Batches {
    /// Makes the output files of a batch all of whose parts have ended, and ends it. Nothing happens if one has not.
    pub(super) async fn finish(&self, tenant: &TenantName, id: &str) -> Result<(), BatchError> {
        let Some(found) = self.find(tenant, id).await? else { return Ok(()) };
        let batch = found.value;
        if batch.phase.is_over() {
            self.sweep(&batch).await?;
        } else {
            let markers = self.markers(id, (0..batch.parts).collect()).await?;
            if batch.parts == 0 || markers.len() < batch.parts as usize {
                return Ok(());
            }
            self.end(&batch, &markers).await?;
        }
        self.progress.invalidate(id);
        // Every object is in one of the files now. Markers are of no use any more; a part that is run late finds that its batch is over.
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

    /// Removes what the parts of a batch that is over have left: objects that are in none of its files, then what names them.
    pub(super) async fn sweep(&self, batch: &Batch) -> Result<(), StoreError> {
        let keys = self.records.keys(&markers_of(&batch.id)).await?;
        if !keys.is_empty() {
            let listed = self.listed(batch).await?;
            for key in keys {
                let marker = self.records.get::<Marker>(&key).await?;
                for segment in marker.iter().flat_map(|marker| marker.value.segments()) {
                    if !listed.contains(&segment.object) {
                        self.files.remove_object(&segment.object).await?;
                    }
                }
            }
            self.records.remove_all(&markers_of(&batch.id)).await?;
        }
        self.records.remove_all(&starts_of(&batch.id)).await
    }

    /// Names of the objects that the files of a batch are made of.
    async fn listed(&self, batch: &Batch) -> Result<FxHashSet<String>, StoreError> {
        let mut listed = FxHashSet::default();
        for id in batch.output_file_id.iter().chain(&batch.error_file_id) {
            if let Some(file) = self.files.find(&batch.tenant, id).await? {
                listed.extend(self.files.segments(&file).await?.into_iter().map(|segment| segment.object));
            }
        }
        Ok(listed)
    }

    /// Counts a part that was marked a moment ago; if its batch was over before, nobody has counted or listed it and nobody
    /// will: what it wrote is removed.
    pub(super) async fn count_or_drop(&self, part: &Part, marker: &Marker) -> Result<(), StoreError> {
        let found = self.find(&part.tenant, &part.batch).await?.map(|found| found.value);
        let is_in_time = match &found {
            None => false,
            Some(batch) if batch.phase.is_over() => {
                let listed = self.listed(batch).await?;
                marker.segments().all(|segment| listed.contains(&segment.object))
            }
            Some(_) => true,
        };
        if is_in_time {
            self.count_lines(marker);
            return Ok(());
        }
        for segment in marker.segments() {
            self.files.remove_object(&segment.object).await?;
        }
        self.records.remove(&marker_key(&part.batch, part.number)).await
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
