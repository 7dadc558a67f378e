//! Finds batches that nobody works on any more, and hands them to the queue again.
//!
//! A part is acknowledged only after its marker exists. So if a tenant has nothing on the queue, and a marker that is looked
//! for after that is not there, its part is lost: its batch would never end. Splitting it again publishes what has no
//! marker, and finishes a batch that has all. While the tenant has something on the queue nobody can tell, and a batch is
//! left alone until its completion window is over: from then on its lines are only written off, which may be asked for
//! more than once.

use std::time::Duration;

use forebay_shared::shutdown::Shutdown;
use forebay_shared::streams::Queue;
use forebay_shared::subjects;
use futures::TryStreamExt;
use rustc_hash::FxHashSet;

use super::Batches;
use super::record::{Batch, Phase};
use super::records::StoreError;

/// How often an api looks.
const EVERY: Duration = Duration::from_secs(60);
/// A batch that is still not validated, in seconds.
const SPLIT_AGAIN_AFTER: u64 = 60;
/// A batch is not doubted before, in seconds: a publish within the duplicate window would be none.
const DOUBTED_AFTER: u64 = 180;
/// How long after its window a batch has to end by itself, in seconds, and how often it is pushed afterwards.
const OVERDUE_AFTER: u64 = 60;
const OVERDUE_EVERY: u64 = 900;

/// What is known of a batch's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    /// Its tenant has none.
    Nothing,
    /// Its tenant has some, perhaps of this batch.
    Something,
}

/// Whether a batch should be split again at `now`, in seconds of the broker's clock.
pub(super) fn is_due(batch: &Batch, queued: Queued, now: u64) -> bool {
    let age = now.saturating_sub(batch.created_at);
    match batch.phase {
        phase if phase.is_over() => false,
        // Repeating it costs nothing but a second reading of the file.
        _ if batch.parts == 0 => age >= SPLIT_AGAIN_AFTER,
        Phase::InProgress | Phase::Finalizing | Phase::Cancelling if queued == Queued::Nothing => {
            let moved = [batch.in_progress_at, batch.cancelling_at, batch.finalizing_at].into_iter().flatten().max();
            now.saturating_sub(moved.unwrap_or(batch.created_at)) >= DOUBTED_AFTER
        }
        // One minute of so many: apis that look in the same one publish one step.
        _ => now
            .checked_sub(batch.expires_at + OVERDUE_AFTER)
            .is_some_and(|overdue| overdue % OVERDUE_EVERY < EVERY.as_secs()),
    }
}

impl Batches {
    /// Looks now and then, until `shutdown`.
    pub(super) async fn repair_now_and_then(&self, mut shutdown: Shutdown) {
        // Keys of batches that are over: they never change, so they are read once.
        let mut over = FxHashSet::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.8..1.0))) => {}
                () = shutdown.fired() => return,
            }
            tokio::select! {
                looked = self.repair_all(&mut over) => if let Err(error) = looked {
                    tracing::debug!(%error, "cannot look for batches that nobody works on");
                },
                () = shutdown.fired() => return,
            }
        }
    }

    async fn repair_all(&self, over: &mut FxHashSet<String>) -> Result<(), StoreError> {
        let keys = self.records.keys("batch.*.").await?;
        let mut still_over = FxHashSet::default();
        for key in keys {
            if !over.contains(&key) {
                match self.records.get::<Batch>(&key).await {
                    Ok(Some(found)) if found.value.phase.is_over() => {}
                    Ok(Some(found)) => {
                        self.repair(&found.value).await?;
                        continue;
                    }
                    Ok(None) => continue,
                    // One that nobody can read must not keep the others from being looked at.
                    Err(StoreError::Unreadable(what)) => tracing::warn!(what, "a batch cannot be read"),
                    Err(error) => return Err(error),
                }
            }
            still_over.insert(key);
        }
        *over = still_over;
        Ok(())
    }

    /// Publishes the step of a batch again if nobody seems to work on it.
    pub(super) async fn repair(&self, batch: &Batch) -> Result<(), StoreError> {
        // The common case asks the broker nothing.
        if !is_due(batch, Queued::Nothing, self.now()) {
            return Ok(());
        }
        let queued = if batch.parts == 0 { Queued::Something } else { self.queued(batch).await? };
        if is_due(batch, queued, self.now()) {
            tracing::info!(batch = batch.id, parts = batch.parts, "nobody seems to work on a batch; it is split again");
            self.publish_split(batch).await?;
        }
        Ok(())
    }

    async fn queued(&self, batch: &Batch) -> Result<Queued, StoreError> {
        let (step, part) = (subjects::batch_step(&batch.tenant), subjects::batch_part(&batch.tenant));
        let queue = self.queue.get_stream_no_info(Queue::Parts.name()).await.map_err(StoreError::unavailable)?;
        for subject in [step, part] {
            let messages = queue.info_with_subjects(subject).await.map_err(StoreError::unavailable)?;
            let counts: Vec<(String, usize)> = messages.try_collect().await.map_err(StoreError::unavailable)?;
            if counts.iter().any(|(_, count)| *count > 0) {
                return Ok(Queued::Something);
            }
        }
        Ok(Queued::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::record::Event;

    fn begun(now: u64) -> Batch {
        Batch::new("batch_1".to_owned(), "t".into(), "/v1/embeddings".to_owned(), "file-1".to_owned(), now)
    }

    #[test]
    fn a_batch_is_doubted_only_when_its_tenant_has_nothing_on_the_queue() {
        let mut batch = begun(1_000);
        assert!(!is_due(&batch, Queued::Something, 1_059) && is_due(&batch, Queued::Something, 1_060));
        batch.apply(&Event::Split { parts: 3, lines: 9 }, 2_000).unwrap();
        assert!(!is_due(&batch, Queued::Nothing, 2_179) && is_due(&batch, Queued::Nothing, 2_180));
        assert!(!is_due(&batch, Queued::Something, 2_180));
        batch.apply(&Event::CancelAsked, 3_000).unwrap();
        assert!(!is_due(&batch, Queued::Nothing, 3_100) && is_due(&batch, Queued::Nothing, 3_180));
    }

    #[test]
    fn after_its_window_a_batch_is_pushed_once_in_a_while_and_never_when_it_is_over() {
        let mut batch = begun(1_000);
        batch.apply(&Event::Split { parts: 3, lines: 9 }, 2_000).unwrap();
        let overdue = batch.expires_at + OVERDUE_AFTER;
        let pushes = |batch: &Batch| (0..60).filter(|n| is_due(batch, Queued::Something, overdue + 60 * n)).count();
        assert!(!is_due(&batch, Queued::Something, overdue - 1));
        assert_eq!(pushes(&batch), 4);
        batch.apply(&Event::Rejected { errors: Vec::new() }, overdue).unwrap();
        assert_eq!(pushes(&batch), 0);
        assert!(!is_due(&batch, Queued::Nothing, overdue));
    }
}
