//! A dead letter goes back to work: as asynchronous work, because nobody waits on a connection any more.
//!
//! The job keeps the id that its caller was told, and gets the next generation, under which nothing is known against it.
//! The letter is removed last: a replay that was cut off can be repeated, and queues one message.

use std::time::Duration;

use serde::Serialize;

use super::{DeadError, DeadLetter, DeadLetters};
use crate::async_jobs::{
    AnswerForm, EnqueueError, Envelope, JobKey, Record, Records, ReplayError as AgainError, State, StoreError,
    enqueue_again, job_of_row, publish,
};
use crate::codec;
use crate::ids::{JobId, Lane};
use crate::streams::{EnsureError, Queue, Stores};
use crate::subjects;

/// What a replay led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The dead letter's.
    pub id: JobId,
    /// The asynchronous job whose state tells how it goes on: the same id.
    pub job: JobId,
    pub generation: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is being run, or was, since the letter was written.
    #[error("{0}")]
    Refused(String),
    #[error("the queue of asynchronous work is full; try again later")]
    Full,
    #[error("the job cannot be queued: {0}; is the broker up, and may this role write there?")]
    Queue(String),
    #[error(transparent)]
    Letter(#[from] DeadError),
    #[error(transparent)]
    Stores(#[from] EnsureError),
}

impl DeadLetters {
    /// Queues the job of `letter` anew, to be done within `timeout` from `now_us` (broker time), and removes the letter.
    ///
    /// # Errors
    /// [`ReplayError`]; the letter is still there then, and the call may be repeated.
    pub async fn replay(
        &self,
        stores: &Stores,
        letter: &DeadLetter,
        now_us: u64,
        timeout: Duration,
    ) -> Result<Replayed, ReplayError> {
        let job = job_of_row(&letter.job.id);
        stores.queue(Queue::Async).await?;
        let records = Records::open(stores).await?;
        let key = JobKey::new(&letter.job.tenant, &job);
        let found = records.get(&key).await?.map(|(record, _)| record);
        let (generation, whole) = match found {
            Some(record) if matches!(record.state, State::Dead | State::Failed) => {
                let again = enqueue_again(&self.js, stores, &letter.job.tenant, &job, now_us, timeout).await?;
                (again.generation, true)
            }
            found => {
                let record = anew(letter, found, job, now_us, timeout)?;
                records.create(&record).await?;
                let envelope = envelope(letter, &record);
                let payload = codec::encode(&envelope).map_err(|error| ReplayError::Queue(error.to_string()))?;
                let subject = subjects::async_work(&envelope.token, &envelope.tenant);
                publish(&self.js, &subject, &envelope.message_id(), payload, timeout).await?;
                (record.generation, false)
            }
        };
        // Not one of the new generation, which may be dead already; nor that of another row that is not begun anew.
        let is_done = |bytes: &[u8]| {
            let other = codec::decode::<DeadLetter>(bytes).map(|other| other.job);
            other.is_ok_and(|other| other.generation < generation && (whole || other.id == letter.job.id))
        };
        self.remove_where(&letter.job.id, is_done).await?;
        tracing::info!(job = %job, generation, "a dead job is begun anew");
        Ok(Replayed { id: job, job, generation })
    }
}

/// The record under which a job of a synchronous request begins anew: a new one, or the one that a replay left which was
/// cut off before its message was queued.
fn anew(
    letter: &DeadLetter,
    found: Option<Record>,
    job: JobId,
    now_us: u64,
    timeout: Duration,
) -> Result<Record, ReplayError> {
    let generation = letter.job.generation + 1;
    match found {
        None => {
            let (now_ms, timeout_ms) = (now_us / 1_000, timeout.as_millis() as u64);
            let (tenant, model, token) = (letter.job.tenant.clone(), letter.model.clone(), letter.token.clone());
            let task = letter.job.task.as_str();
            let record = Record::new(job, tenant, model, token, task, 1, now_ms, now_ms + timeout_ms);
            Ok(Record { generation, ..record })
        }
        Some(record) if record.state == State::Queued && record.generation == generation && record.rows == 1 => {
            Ok(record)
        }
        Some(record) => {
            let state = record.state.as_str();
            Err(ReplayError::Refused(format!(
                "job {job} is {state} in generation {}: nothing to begin",
                record.generation
            )))
        }
    }
}

/// The same bytes for every try at one record: repeats are stored once.
fn envelope(letter: &DeadLetter, record: &Record) -> Envelope {
    Envelope {
        job: record.id,
        generation: record.generation,
        tenant: record.tenant.clone(),
        model: record.model.clone(),
        token: record.token.clone(),
        lane: Lane::Low,
        deadline_us: record.deadline_ms * 1_000,
        trace: letter.job.trace,
        task: letter.job.task.clone(),
        form: AnswerForm::OpenAiFloat,
        rows: vec![letter.job.input.clone()],
    }
}

impl From<AgainError> for ReplayError {
    fn from(error: AgainError) -> Self {
        match error {
            AgainError::NotFound(_) | AgainError::Refused(_) | AgainError::NoEnvelope => {
                Self::Refused(error.to_string())
            }
            AgainError::Enqueue(error) => error.into(),
            AgainError::Stores(error) => error.into(),
            AgainError::Store(_) | AgainError::Codec(_) => Self::Queue(error.to_string()),
        }
    }
}

impl From<EnqueueError> for ReplayError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Full => Self::Full,
            EnqueueError::TooLarge { .. } => Self::Refused(error.to_string()),
            EnqueueError::Unavailable(_) => Self::Queue(error.to_string()),
        }
    }
}

impl From<StoreError> for ReplayError {
    fn from(error: StoreError) -> Self {
        Self::Queue(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::letter;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_synchronous_job_begins_anew_as_one_row_of_the_next_generation() {
        let letter = letter();
        let record = anew(&letter, None, job_of_row(&letter.job.id), 5_000_000, HOUR).unwrap();
        assert_eq!((record.generation, record.state, record.deadline_ms), (2, State::Queued, 3_605_000));
        let envelope = envelope(&letter, &record);
        assert_eq!((&envelope.rows, envelope.lane), (&vec![letter.job.input.clone()], Lane::Low));
        assert_ne!(envelope.message_id(), letter.message_id());
    }

    #[test]
    fn a_replay_that_was_cut_off_is_finished_and_one_that_runs_is_not_begun_again() {
        let letter = letter();
        let job = job_of_row(&letter.job.id);
        let first = anew(&letter, None, job, 5_000_000, HOUR).unwrap();
        assert_eq!(anew(&letter, Some(first.clone()), job, 9_000_000, HOUR).unwrap(), first, "the same bytes again");
        for state in [State::Running, State::Done, State::Cancelled] {
            let record = Record { state, ..first.clone() };
            assert!(matches!(anew(&letter, Some(record), job, 9_000_000, HOUR), Err(ReplayError::Refused(_))));
        }
    }
}
