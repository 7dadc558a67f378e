//! Asynchronous jobs: what is kept of one, what waits in the queue, and the only ways from one state to the next.
//!
//! A job is accepted with two writes: its [`Record`] (a value of the bucket `FOREBAY_RECORDS`) and its [`Envelope`] (a
//! message of the queue `FOREBAY_ASYNC`, which holds the input). Apis take envelopes from the queue, run them as an
//! ordinary client would, and write the end into the record by compare-and-swap, then acknowledge.
//!
//! ```text
//!                    Start                 Finish
//! create ──▶ queued ───────▶ running ──────────────▶ done | failed | dead
//!              │               │  ▲ Start (again, after a death)        │
//!              └── Cancel ─────┤  └──                                   │ Replay: generation + 1
//!                  Expire      ▼                                        ▼
//!                       cancelled | expired                           queued
//! ```
//!
//! Invariants, kept by [`Record::apply`] and its property test: of one generation the first terminal state wins and
//! nothing but its webhook changes afterwards; only a dead or failed job begins anew, under the next generation; attempts
//! never go down within a generation; an end has a time, and a job that is done has a result.
//!
//! Executions may repeat; effects happen once, because an end is a compare-and-swap on the record.
//!
//! **Identifiers.** A job's id is 6 bytes of time, 6 random bytes and 4 zero bytes, so that ids sort by age and the id of
//! each of its rows, which is what the synchronous queue and the attempts know, leads back to the job ([`row_id`],
//! [`job_of_row`]). Every row of a synchronous request is the row of a job of its own ([`lone_row`]): so a job that is put
//! aside and begun anew as an asynchronous one keeps the id that its caller was told. Callers are told the job's id only, and
//! that of any of its rows is accepted in its place.

mod call;
mod enqueue;
mod envelope;
mod record;
mod records;

pub use call::Call;
pub use enqueue::{
    ENVELOPE_OBJECT, EnqueueError, ReplayError, enqueue_again, envelope_object, max_envelope_bytes, publish,
};
pub use envelope::{AnswerForm, Envelope};
pub use record::{CallFailure, Ending, Event, Record, Refused, ResultRef, State, Webhook, WebhookState};
pub use records::{ChangeError, JobKey, Records, StoreError, tenant_token};

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::JobId;

/// Bytes of an id that tell its rows apart.
const ROW_BYTES: usize = 4;

/// An id for a job that is accepted at `now_ms` (Unix milliseconds).
pub fn new_job_id(now_ms: u64) -> JobId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    id[6..12].copy_from_slice(&scattered()[2..]);
    JobId::from_bytes(id)
}

/// The id under which a row of a synchronous request travels that is accepted at `now_ms` (Unix milliseconds).
pub fn lone_row(now_ms: u64) -> JobId {
    row_id(&new_job_id(now_ms), 0, 0)
}

/// 48 bits from a random beginning on in random steps. An odd step visits every value before it comes to one again, so no
/// two ids of one process are the same: two callers that wait for the same id would be given each other's answer. Plain
/// random numbers of this size would meet within a millisecond of heavy traffic every few years.
fn scattered() -> [u8; 8] {
    static BEGIN: LazyLock<(AtomicU64, u64)> =
        LazyLock::new(|| (AtomicU64::new(rand::random()), rand::random::<u64>() | 1));
    let (next, step) = &*BEGIN;
    next.fetch_add(*step, Ordering::Relaxed).to_be_bytes()
}

/// The id under which a row of `job` travels: the same for every attempt of a generation, so that a repeat is the same
/// jobs. `row` counts from 0; rows beyond 2^24 - 2 and generations beyond 255 would share ids.
pub fn row_id(job: &JobId, row: usize, generation: u32) -> JobId {
    let mut id = *job.as_bytes();
    let row = (row as u32 + 1).to_be_bytes();
    id[12..15].copy_from_slice(&row[1..]);
    id[15] = generation.to_le_bytes()[0];
    JobId::from_bytes(id)
}

/// The job that `row` belongs to, if it is the row of one: whether that exists, its record tells.
pub fn job_of_row(row: &JobId) -> JobId {
    let mut id = *row.as_bytes();
    id[16 - ROW_BYTES..].fill(0);
    JobId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_sort_by_age_and_rows_lead_back_to_their_job() {
        let (older, newer) = (new_job_id(1_800_000_000_000), new_job_id(1_800_000_000_001));
        assert!(older < newer);
        let rows: BTreeSet<_> = (0..300).flat_map(|row| [row_id(&older, row, 0), row_id(&older, row, 1)]).collect();
        assert_eq!(rows.len(), 600);
        assert!(rows.iter().all(|row| job_of_row(row) == older && *row != older));
    }

    #[test]
    fn no_two_ids_of_a_process_are_the_same_and_a_lone_row_is_shaped_like_any_other() {
        let ids: BTreeSet<_> = (0..10_000).map(|_| lone_row(1_800_000_000_000)).collect();
        assert_eq!(ids.len(), 10_000);
        let jobs: BTreeSet<_> = ids.iter().map(job_of_row).collect();
        assert_eq!(jobs.len(), 10_000, "each is a job of its own");
        assert!(ids.iter().all(|id| *id == row_id(&job_of_row(id), 0, 0)));
    }

    #[test]
    fn a_repeat_of_a_row_is_the_same_row() {
        let job = new_job_id(5);
        assert_eq!(row_id(&job, 7, 1), row_id(&job, 7, 1));
    }
}
