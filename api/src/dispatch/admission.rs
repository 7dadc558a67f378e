//! The door: how much may wait here, how much of it one tenant may have, and what would be late anyway.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::{Lane, TenantName};
use forebay_shared::job::{EmbedParams, Input, Task};
use forebay_shared::metrics::{JobSource, Refusal};
use forebay_shared::model::ModelRecord;
use parking_lot::Mutex;

use super::fair::estimated_tokens;
use super::fair::flow::Flow;
use super::share::Shares;
use super::{Dispatch, LaneQueue, MAX_RETRY_AFTER, MIN_RETRY_AFTER, Shared};

/// What an api lets in.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Most jobs that may wait for an answer in this process.
    pub max_in_flight: usize,
    /// Most bytes of the vectors that these can be answered with.
    pub max_answer_bytes: u64,
    /// Refuse what cannot be answered before its deadline.
    pub by_deadline: bool,
}

/// What waits for an answer in this process.
#[derive(Debug, Default)]
pub(super) struct Room {
    rows: AtomicUsize,
    answer_bytes: AtomicU64,
    shares: Mutex<Shares>,
}

/// A part of it, given back on drop.
#[derive(Debug)]
#[must_use]
pub struct InFlight<'a> {
    room: &'a Room,
    rows: usize,
    answer_bytes: u64,
    /// Whose share it is taken from; `None` where there are no tenants.
    tenant: Option<TenantName>,
}

impl Room {
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// `answer_bytes`: of the largest answer that the rows can have.
    pub(super) fn admit(
        &self,
        most: &Admission,
        tenant: &TenantName,
        rows: usize,
        answer_bytes: u64,
    ) -> Result<InFlight<'_>, Refusal> {
        let before = self.rows.fetch_add(rows, Ordering::Relaxed);
        let bytes_before = self.answer_bytes.fetch_add(answer_bytes, Ordering::Relaxed);
        // Counted from here on, and out again if it is refused.
        let mut admitted = InFlight { room: self, rows, answer_bytes, tenant: None };
        let room = most.max_in_flight.saturating_sub(before);
        if rows > room {
            return Err(Refusal::Jobs);
        }
        if bytes_before.saturating_add(answer_bytes) > most.max_answer_bytes {
            return Err(Refusal::Bytes);
        }
        if tenant.as_str() != TenantName::DEFAULT {
            if !self.shares.lock().admit(tenant, rows, room) {
                return Err(Refusal::Jobs);
            }
            admitted.tenant = Some(tenant.clone());
        }
        Ok(admitted)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.room.rows.fetch_sub(self.rows, Ordering::Relaxed);
        self.room.answer_bytes.fetch_sub(self.answer_bytes, Ordering::Relaxed);
        if let Some(tenant) = &self.tenant {
            self.room.shares.lock().leave(tenant, self.rows);
        }
    }
}

impl Dispatch {
    /// Admits work that is waited for here, and that somebody will submit who takes it from a queue: what [`Self::submit`]
    /// would refuse is refused before it is written down. Counted until what is returned is dropped.
    ///
    /// # Errors
    /// As [`Self::submit`] before anything is published.
    pub fn admit_elsewhere(
        &self,
        model: &ModelRecord,
        tenant: &TenantName,
        lane: Lane,
        task: &Task,
        rows: &[Input],
        deadline: Instant,
    ) -> Result<InFlight<'_>, JobError> {
        let room = &self.shared.elsewhere;
        let admitted = self.admit(room, model, tenant, lane, task, rows, deadline, Instant::now());
        admitted
            .map(|(in_flight, _)| in_flight)
            .inspect_err(|error| self.shared.no_room_for(&model.name, JobSource::Request, rows.len(), error))
    }

    #[allow(clippy::too_many_arguments, reason = "each is a field of a submission, named by its type")]
    pub(super) fn admit<'a>(
        &'a self,
        room: &'a Room,
        model: &ModelRecord,
        tenant: &TenantName,
        lane: Lane,
        task: &Task,
        rows: &[Input],
        deadline: Instant,
        now: Instant,
    ) -> Result<(InFlight<'a>, LaneQueue), JobError> {
        self.check_reachable(model)?;
        let most = &self.shared.admission;
        let bytes_of_row = answer_bytes_of_row(model, task).max(1);
        // More than that never fits, however long the client waits.
        let max = most.max_in_flight.min(usize::try_from(most.max_answer_bytes / bytes_of_row).unwrap_or(usize::MAX));
        if rows.len() > max {
            return Err(JobError::TooManyInputs { got: rows.len(), max });
        }
        let in_flight = room.admit(most, tenant, rows.len(), bytes_of_row * rows.len() as u64).map_err(|reason| {
            self.shared.refused(&model.name, reason);
            self.shared.overloaded()
        })?;
        let queue = self.lane(model, lane);
        self.shared
            .check_deadline(&queue.flow, tenant, rows, deadline, now)
            .inspect_err(|_| self.shared.refused(&model.name, Refusal::Deadline))?;
        Ok((in_flight, queue))
    }
}

/// Bytes of one row's vector, at most: what its request cuts it to, or what the model's record says.
fn answer_bytes_of_row(model: &ModelRecord, task: &Task) -> u64 {
    let Task::Embed(EmbedParams { dimensions, .. }) = task;
    u64::from(dimensions.unwrap_or(model.dimensions)) * size_of::<f32>() as u64
}

impl Shared {
    /// Refuses a request whose rows would not be answered before its deadline.
    pub(super) fn check_deadline(
        &self,
        flow: &Flow,
        tenant: &TenantName,
        rows: &[Input],
        deadline: Instant,
        now: Instant,
    ) -> Result<(), JobError> {
        if !self.admission.by_deadline || flow.held_rows() == 0 {
            return Ok(());
        }
        let cost = rows.iter().map(|row| estimated_tokens(row.len_bytes())).sum();
        flow.check(tenant, cost, deadline.saturating_duration_since(now), now).map_err(|late| {
            let retry_after = late.retry_after.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
            JobError::DeadlineUnreachable {
                estimate_ms: late.estimate.as_millis() as u64,
                retry_after_ms: retry_after.as_millis() as u64,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Admission = Admission { max_in_flight: 10, max_answer_bytes: 100, by_deadline: true };

    #[test]
    fn what_is_refused_or_leaves_is_counted_out_again() {
        let (room, tenant) = (Room::default(), TenantName::default());
        let first = room.admit(&MOST, &tenant, 6, 60).unwrap();
        assert_eq!(room.admit(&MOST, &tenant, 5, 1).unwrap_err(), Refusal::Jobs);
        let second = room.admit(&MOST, &tenant, 4, 40).unwrap();
        assert_eq!(room.rows(), 10);
        drop((first, second));
        assert_eq!(room.rows(), 0);
    }

    #[test]
    fn answers_that_would_not_fit_into_memory_are_refused() {
        let (room, tenant) = (Room::default(), TenantName::default());
        let first = room.admit(&MOST, &tenant, 1, 60).unwrap();
        assert_eq!(room.admit(&MOST, &tenant, 1, 41).unwrap_err(), Refusal::Bytes);
        assert!(room.admit(&MOST, &tenant, 1, 40).is_ok());
        drop(first);
        assert!(room.admit(&MOST, &tenant, 1, 100).is_ok());
    }

    #[test]
    fn a_row_is_answered_with_what_the_model_has_or_the_request_cuts() {
        let model: ModelRecord = serde_json::from_value(serde_json::json!({
            "name": "m", "token": "m-0123456789", "architecture": "bert", "dtype": "f32", "dimensions": 384,
            "max_tokens": 256, "pooling": "mean", "normalize": true, "created": 0,
        }))
        .unwrap();
        let task = |dimensions| Task::Embed(EmbedParams { dimensions, ..EmbedParams::default() });
        assert_eq!(answer_bytes_of_row(&model, &task(None)), 1_536);
        assert_eq!(answer_bytes_of_row(&model, &task(Some(64))), 256);
    }

    #[test]
    fn a_named_tenant_may_have_as_much_as_is_free() {
        let room = Room::default();
        let _five = room.admit(&MOST, &"a".into(), 5, 0).unwrap();
        assert_eq!(room.admit(&MOST, &"a".into(), 1, 0).unwrap_err(), Refusal::Jobs);
        assert!(room.admit(&MOST, &"b".into(), 5, 0).is_ok());
    }
}
