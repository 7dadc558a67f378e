//! Cancelling what has not ended before it is erased: what runs on would write again.

use std::time::Duration;

use forebay_shared::async_jobs::{ChangeError, Event, JobKey, Records};
use tokio::time::Instant;

use super::{EraseError, Eraser, Found};
use crate::batches::record::{Batch, Event as BatchEvent};
use crate::batches::{batch_key, records};
use forebay_shared::streams::Bucket;

/// How long the parts of a batch get to see that it was cancelled. Without an api nobody ends it: then it is erased as it is.
const WIND_DOWN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

impl Eraser {
    /// Cancels the jobs and batches that `found` says are running, and waits a little for the batches' parts.
    pub(super) async fn stop(&self, found: &Found) -> Result<(), EraseError> {
        let failed = |cause: String| EraseError::Cancel(cause);
        if !found.running_jobs.is_empty() {
            let jobs = Records::open(&self.stores).await.map_err(|error| failed(error.to_string()))?;
            for (tenant, job) in &found.running_jobs {
                match jobs.change(&JobKey::new(tenant, job), &Event::Cancel, self.clock.now_us() / 1_000).await {
                    Ok(_) | Err(ChangeError::NotFound | ChangeError::Refused(..)) => {}
                    Err(ChangeError::Store(error)) => return Err(failed(error.to_string())),
                }
            }
        }
        if found.running_batches.is_empty() {
            return Ok(());
        }
        let bucket = self.stores.bucket(Bucket::Batches).await.map_err(|error| failed(error.to_string()))?;
        let batches = records::Records::new(bucket);
        let mut winding_down = Vec::new();
        for (tenant, id) in &found.running_batches {
            let key = batch_key(tenant, id);
            self.cancel_batch(&batches, &key).await.map_err(|error| failed(error.to_string()))?;
            winding_down.push(key);
        }
        let give_up = Instant::now() + WIND_DOWN;
        while !winding_down.is_empty() && Instant::now() < give_up {
            tokio::time::sleep(LOOK).await;
            let mut still = Vec::new();
            for key in winding_down {
                let found = batches.get::<Batch>(&key).await.map_err(|error| failed(error.to_string()))?;
                if found.is_some_and(|found| !found.value.phase.is_over()) {
                    still.push(key);
                }
            }
            winding_down = still;
        }
        Ok(())
    }

    async fn cancel_batch(&self, batches: &records::Records, key: &str) -> Result<(), records::StoreError> {
        loop {
            let Some(found) = batches.get::<Batch>(key).await? else { return Ok(()) };
            let mut batch = found.value;
            // Refused: it is over.
            if !batch.apply(&BatchEvent::CancelAsked, self.clock.now_us() / 1_000_000).unwrap_or(false)
                || batches.replace(key, &batch, found.revision).await?
            {
                return Ok(());
            }
        }
    }
}
