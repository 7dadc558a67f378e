//! What the batcher promises, tested with a simulated clock: `sentences` one promise at a time, `sequences` all of
//! them over random histories against a `model`, `starvation` under more work than the device can take.

mod model;
mod sentences;
mod sequences;
mod starvation;

use std::time::{Duration, Instant};

use forebay_sched::{Batch, BatchLimits, Batcher, Lane, QueuedJob};

const MS: Duration = Duration::from_millis(1);

/// Payloads are numbers that tell jobs apart.
type Id = u32;

fn limits() -> BatchLimits {
    BatchLimits { max_tokens: 100, max_rows: 4, ..BatchLimits::default() }
}

/// A job of 10 tokens in the normal lane, with a deadline far away.
fn job(id: Id, queued_at: Instant) -> QueuedJob<Id> {
    QueuedJob {
        payload: id,
        lane: Lane::Normal,
        tokens: 10,
        queued_at,
        deadline: queued_at + Duration::from_secs(30),
        isolated: false,
    }
}

fn batcher(limits: BatchLimits, jobs: impl IntoIterator<Item = QueuedJob<Id>>) -> Batcher<Id> {
    let mut batcher = Batcher::new(limits);
    for job in jobs {
        batcher.push(job).expect("fits a batch");
    }
    batcher
}

fn poll(batcher: &mut Batcher<Id>, now: Instant) -> Batch<Id> {
    batcher.poll(now).expect("a batch is due")
}

fn ids<'a>(jobs: impl IntoIterator<Item = &'a QueuedJob<Id>>) -> Vec<Id> {
    jobs.into_iter().map(|job| job.payload).collect()
}
