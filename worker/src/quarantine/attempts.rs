//! The record of a suspect's starts, read and written by compare-and-swap.
//!
//! A start is there before its job runs: [`Attempts::begin`] returns when the broker has it. An end is sent over the same
//! connection before the next start and read by the broker in that order, so the start of the next suspect cannot be
//! there without the end of the one before, although nobody waits for it.
//!
//! A write that nobody confirmed may be there all the same, or come later. Its job does not run, and [`Attempts::end`]
//! takes the start out: a start that stayed would count as a death of the job's doing.

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use bytes::Bytes;
use forebay_shared::dead::{Start, attempts_key};
use forebay_shared::ids::JobId;

use super::policy::{Decision, Record};

/// Several workers with the same job are rare, and each of them moves on.
const MAX_TRIES: usize = 5;

/// What could not be read or written: the job must not run.
#[derive(Debug, thiserror::Error)]
#[error("the record of attempts cannot be {doing}: {cause}")]
pub(super) struct RecordError {
    doing: &'static str,
    cause: String,
}

/// A start that was written, or may have been.
#[derive(Debug, Clone)]
pub(super) struct Started {
    key: String,
    /// The value as written, and where; the revision before, if it is not known whether it was written.
    record: Record,
    revision: u64,
    start: Start,
}

/// What came of asking to start.
pub(super) enum Begun {
    Run(Started),
    Dead(Started),
    /// Nobody knows whether the start is recorded: the job must not run, and the start must be ended.
    Unknown(Started, RecordError),
}

impl Started {
    pub(super) fn starts(&self) -> &[Start] {
        &self.record.starts
    }

    /// Whether the dead letter was written before.
    pub(super) fn is_dead(&self) -> bool {
        self.record.dead
    }
}

#[derive(Clone)]
pub(super) struct Attempts(pub(super) kv::Store);

impl Attempts {
    /// Writes `start` unless the job is to be put aside.
    pub(super) async fn begin(&self, job: &JobId, generation: u32, start: Start) -> Result<Begun, RecordError> {
        let key = attempts_key(job, generation);
        // Mostly nothing is known of a suspect: one round trip.
        let (mut record, mut revision) = (Record::default(), 0);
        for _ in 0..MAX_TRIES {
            match record.decide(start.clone()) {
                Decision::Dead(record) => return Ok(Begun::Dead(Started { key, record, revision, start })),
                Decision::Run(next) => match self.0.update(&key, encoded(&next)?, revision).await {
                    Ok(revision) => return Ok(Begun::Run(Started { key, record: next, revision, start })),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                        (record, revision) = self.read(&key).await?;
                    }
                    Err(error) => {
                        let started = Started { key, record: next, revision, start };
                        return Ok(Begun::Unknown(started, failed("written")(error)));
                    }
                },
            }
        }
        Err(failed("written")("others write it all the time"))
    }

    /// Takes the start out of the record. Where it is not known whether it is in there, what was there before is written
    /// anew at its revision: then it cannot be written any more.
    pub(super) async fn end(&self, started: &Started) -> Result<(), RecordError> {
        let Started { key, record, revision, start } = started;
        let (mut record, mut revision) = (record.clone(), *revision);
        for _ in 0..MAX_TRIES {
            let left = record.after(start);
            let written = if left.is_empty() {
                self.0.delete_expect_revision(key, Some(revision)).await.map_err(|error| error.to_string())
            } else {
                self.0.update(key, encoded(&left)?, revision).await.map(drop).map_err(|error| error.to_string())
            };
            let Err(cause) = written else { return Ok(()) };
            let (now, at) = self.read(key).await?;
            if at == revision {
                return Err(failed("written")(cause));
            }
            if !now.holds(start) {
                return Ok(());
            }
            (record, revision) = (now, at);
        }
        Err(failed("written")("others write it all the time"))
    }

    /// Notes that the dead letter is written, for whoever is handed the job again.
    pub(super) async fn mark_dead(&self, started: &Started) -> Result<(), RecordError> {
        let record = Record { dead: true, ..started.record.clone() };
        self.0.update(&started.key, encoded(&record)?, started.revision).await.map(drop).map_err(failed("written"))
    }

    /// The record and its revision, whether it was removed or not.
    async fn read(&self, key: &str) -> Result<(Record, u64), RecordError> {
        match self.0.entry(key).await.map_err(failed("read"))? {
            None => Ok((Record::default(), 0)),
            Some(entry) if entry.operation != Operation::Put => Ok((Record::default(), entry.revision)),
            Some(entry) => match serde_json::from_slice(&entry.value) {
                Ok(record) => Ok((record, entry.revision)),
                Err(error) => Err(failed("read")(error)),
            },
        }
    }
}

fn encoded(record: &Record) -> Result<Bytes, RecordError> {
    serde_json::to_vec(record).map(Bytes::from).map_err(failed("encoded"))
}

fn failed<E: ToString>(doing: &'static str) -> impl Fn(E) -> RecordError {
    move |cause| RecordError { doing, cause: cause.to_string() }
}
