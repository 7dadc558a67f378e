//! One attempt at one job: from its envelope to an end in its record.
//!
//! Order of writes: the result's object, then the record, then (by the caller) the acknowledgement. Whoever loses the
//! compare-and-swap deletes its object. The attempt is given up as soon as the record says that the job has ended
//! elsewhere: cancelled, expired, or finished by another api.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::async_jobs::{
    AnswerForm, ChangeError, Ending, Envelope, Event, JobKey, Record, Refused, ResultRef, State, StoreError,
    envelope_object, row_id,
};
use forebay_shared::codec::{self, CodecError};
use forebay_shared::error::JobError;
use forebay_shared::job::Output;
use forebay_shared::metrics::{JobSource, TokenKind};
use forebay_shared::planted::Bug;
use forebay_shared::telemetry::otlp;

use super::Jobs;
use super::board::Changes;
use crate::dialect::Dialect;
use crate::dispatch::{FixedIds, Submission};
use crate::routes::vectors;
use crate::validate::embed::Encoding;

/// What to do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its job has ended, or is not ours to run any more.
    Ended,
    /// Give it back, to be delivered again after this time.
    Later(Duration),
    /// There is no record: its acceptance was taken back, or a replica of the bucket does not have it yet.
    Missing,
}

/// Attempts after which a job has failed: a backstop against one that ends apis.
const MAX_ATTEMPTS: u32 = 100;
/// A message that this process cannot read is for a newer one.
const UNREADABLE: Verdict = Verdict::Later(Duration::from_secs(30));
/// The broker does not answer for records: somebody else may have more luck.
const STORE_DOWN: Verdict = Verdict::Later(Duration::from_secs(1));
/// The record is not there yet: a dead job is being begun anew.
const NOT_YET: Verdict = Verdict::Later(Duration::from_secs(1));
/// How long a submission is waited for before the same jobs are submitted anew, at first: what the synchronous queue holds may
/// be lost with a broker's memory or disk, and nobody else would notice. It doubles, so that a large job still ends.
const FIRST_PATIENCE: Duration = Duration::from_secs(120);
/// Pause before the end of a job is written again.
const HOLD_PAUSE: Duration = Duration::from_secs(1);
/// Bounds of the pause before work that found no capacity is submitted again.
const WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(2);

/// # Errors
/// What to do with a message that is no envelope: it may be from a newer process, and is never thrown away.
pub fn read(payload: &[u8]) -> Result<Envelope, Verdict> {
    codec::decode::<Envelope>(payload).map_err(|error| {
        match error {
            CodecError::Version(version) => tracing::debug!(version, "an asynchronous job is for a newer process"),
            error => tracing::warn!(%error, "an asynchronous job cannot be read"),
        }
        UNREADABLE
    })
}

impl Jobs {
    /// `express`: a client waits for it, and wants to hear at once what cannot be done in time; its request gives back what was
    /// charged for it if nothing comes of it.
    pub(super) async fn attempt(&self, envelope: Envelope, express: bool) -> Verdict {
        let key = JobKey::new(&envelope.tenant, &envelope.job);
        let changes = self.board.subscribe(&key);
        let record = match self.records.get(&key).await {
            Ok(Some((record, _))) => record,
            Ok(None) => return Verdict::Missing,
            Err(_) => return STORE_DOWN,
        };
        let generation = envelope.generation;
        let now_us = self.clock.now_us();
        if record.generation > generation || (record.generation == generation && record.state.is_terminal()) {
            return Verdict::Ended;
        }
        if record.generation < generation {
            return if now_us >= envelope.deadline_us { Verdict::Ended } else { NOT_YET };
        }
        if now_us >= envelope.deadline_us {
            return self.settle(&key, &envelope, express, &Event::Expire).await;
        }
        let attempt = match self.records.change(&key, &Event::Start { generation }, now_us / 1_000).await {
            Ok(record) => record.attempts,
            Err(ChangeError::Store(_)) => return STORE_DOWN,
            Err(ChangeError::Refused(_, record)) if !is_past(&record, generation) => return STORE_DOWN,
            Err(ChangeError::NotFound | ChangeError::Refused(..)) => return Verdict::Ended,
        };
        if attempt > MAX_ATTEMPTS {
            tracing::error!(job = %envelope.job, attempt, "a job was begun too often and is given up");
            let ending = Ending::Failed(JobError::Internal);
            return self.settle(&key, &envelope, express, &Event::Finish { generation, ending }).await;
        }
        tokio::select! {
            outcome = self.run(&envelope, express) => self.finish(&key, &envelope, express, attempt, outcome).await,
            () = ended_elsewhere(changes, generation), if !Bug::NoDuplicateSuppression.is_planted() => Verdict::Ended,
        }
    }

    /// Submits until it is answered, waiting while there is no capacity. A repeat is the same jobs.
    async fn run(&self, envelope: &Envelope, express: bool) -> Result<Vec<Output>, JobError> {
        let deadline = self.clock.instant(envelope.deadline_us);
        let ids = (0..envelope.rows.len()).map(|row| row_id(&envelope.job, row, envelope.generation)).collect();
        let fixed = FixedIds { jobs: ids, generation: envelope.generation };
        let mut patience = FIRST_PATIENCE;
        loop {
            let model = self.registry.find_token(&envelope.token);
            let until = deadline.min(Instant::now() + patience);
            let error = match model {
                None => JobError::NoWorker { model: envelope.model.to_string() },
                Some(model) => {
                    let submission = Submission {
                        model,
                        tenant: envelope.tenant.clone(),
                        lane: envelope.lane,
                        task: envelope.task.clone(),
                        source: if express { JobSource::Request } else { JobSource::Stored },
                        rows: envelope.rows.clone(),
                        fixed: Some(fixed.clone()),
                        deadline: until,
                        trace: envelope.trace.unwrap_or_else(otlp::root),
                    };
                    match Box::pin(self.dispatch.submit(submission)).await {
                        Ok(outputs) => return Ok(outputs),
                        Err(JobError::DeadlineExceeded) if Instant::now() < deadline => {
                            patience *= 2;
                            continue;
                        }
                        // It would hold the credit of others who wait until its deadline.
                        Err(error @ JobError::DeadlineUnreachable { .. }) if express && until == deadline => {
                            return Err(error);
                        }
                        Err(error) => error,
                    }
                }
            };
            let Some(pause) = pause_before_another(&error) else { return Err(error) };
            if Instant::now() + pause >= deadline {
                tokio::time::sleep_until(deadline.into()).await;
                return Err(JobError::DeadlineExceeded);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn finish(
        &self,
        key: &JobKey,
        envelope: &Envelope,
        express: bool,
        attempt: u32,
        outcome: Result<Vec<Output>, JobError>,
    ) -> Verdict {
        let generation = envelope.generation;
        let name = format!("{}/{generation}/{attempt}", envelope.job);
        let answered = match &outcome {
            Ok(outputs) => {
                let (dialect, encoding) = form(envelope.form);
                vectors::body(outputs, envelope.model.as_str(), dialect, encoding).await
            }
            Err(error) => Err(error.clone()),
        };
        let ending = match answered {
            Ok(text) => loop {
                // What was computed is not computed again because there is no room for it at the moment.
                match self.keep(name.clone(), text.clone()).await {
                    Ok(result) => break Ending::Done(result),
                    Err(error) => match self.hold(key, envelope, &error).await {
                        Ok(()) => {}
                        Err(verdict) => return verdict,
                    },
                }
            },
            Err(JobError::DeadlineExceeded) => return self.settle(key, envelope, express, &Event::Expire).await,
            Err(error @ JobError::DeadLettered { .. }) => {
                // Kept, so that it can be begun anew: its message leaves the queue.
                let Ok(bytes) = codec::encode(envelope) else { return UNREADABLE };
                if self.keep_object(&envelope_object(&envelope.job), &bytes).await.is_err() {
                    return STORE_DOWN;
                }
                Ending::Dead(error)
            }
            Err(error) => Ending::Failed(error),
        };
        let ours = matches!(&ending, Ending::Done(ResultRef::Object { .. }));
        let is_dead = matches!(&ending, Ending::Dead(_));
        let event = Event::Finish { generation, ending };
        let changed = loop {
            match self.records.change(key, &event, self.now_ms()).await {
                Err(ChangeError::Store(error)) if self.hold(key, envelope, &error).await != Err(STORE_DOWN) => {}
                changed => break changed,
            }
        };
        match changed {
            Ok(record) => {
                let outputs = outcome.as_deref().unwrap_or_default();
                self.count(&record, outputs);
                self.correct_charge(envelope, express, &record, outputs);
                Verdict::Ended
            }
            Err(ChangeError::Store(_)) => STORE_DOWN,
            Err(ChangeError::NotFound) => {
                // Erased meanwhile: nothing of it stays.
                self.drop_lost(ours, &name, None).await;
                if is_dead {
                    self.drop_object(&envelope_object(&envelope.job)).await;
                }
                Verdict::Ended
            }
            // Nobody has ended it: it is not seen as it is. Never acknowledged on that.
            Err(ChangeError::Refused(_, record)) if !is_past(&record, generation) => STORE_DOWN,
            Err(ChangeError::Refused(_, record)) => {
                self.drop_lost(ours, &name, record.result.as_ref()).await;
                Verdict::Ended
            }
        }
    }

    /// Waits before a write that failed is tried again.
    ///
    /// # Errors
    /// What to do instead: the job's time is over, or its record says that it has ended.
    async fn hold(&self, key: &JobKey, envelope: &Envelope, error: &StoreError) -> Result<(), Verdict> {
        tracing::warn!(%error, job = %envelope.job, "the end of a job cannot be written; it is held and tried again");
        if self.clock.now_us() >= envelope.deadline_us {
            return Err(STORE_DOWN);
        }
        tokio::time::sleep(HOLD_PAUSE).await;
        match self.records.get(key).await {
            Ok(None) => Err(Verdict::Ended),
            Ok(Some((record, _))) if is_past(&record, envelope.generation) => Err(Verdict::Ended),
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    /// The record points at somebody else's result, or at none; unless a write of ours was only never answered for.
    async fn drop_lost(&self, ours: bool, name: &str, winner: Option<&ResultRef>) {
        let won = matches!(winner, Some(ResultRef::Object { name: kept, .. }) if kept == name);
        if ours && !won {
            self.drop_object(name).await;
        }
    }

    async fn settle(&self, key: &JobKey, envelope: &Envelope, express: bool, event: &Event) -> Verdict {
        match self.records.change(key, event, self.now_ms()).await {
            Err(ChangeError::Store(_)) => STORE_DOWN,
            // By the record it is not over: our clock is early, or the record is not seen as it is.
            Err(ChangeError::Refused(Refused::NotNow(_), _)) => NOT_YET,
            Ok(record) => {
                self.correct_charge(envelope, express, &record, &[]);
                Verdict::Ended
            }
            Err(ChangeError::NotFound | ChangeError::Refused(..)) => Verdict::Ended,
        }
    }

    /// The tenant was charged an estimate when the job was accepted: now what it used, or nothing if it failed. Once, by who
    /// ended the job. A job that was begun anew after it had been given up was given back then, and has not been charged
    /// since.
    fn correct_charge(&self, envelope: &Envelope, express: bool, record: &Record, outputs: &[Output]) {
        let Some(tenants) = &self.tenants else { return };
        let (rows, accepted_ms) = match envelope.generation {
            0 => (envelope.rows.as_slice(), record.created_ms),
            _ => (&[][..], self.now_ms()),
        };
        let charge = tenants.charged(&envelope.tenant, rows, accepted_ms);
        if record.state == State::Done {
            charge.settle(outputs);
        } else if !express {
            charge.refund();
        }
    }

    /// Rows and tokens count once, for who ended the job.
    fn count(&self, record: &Record, outputs: &[Output]) {
        let model = record.model.clone();
        let task = forebay_shared::metrics::Task::Embed;
        self.metrics.predictions_total.with(&(model.clone(), task)).inc_by(outputs.len() as u64);
        self.metrics.tokens_total.with(&(model, TokenKind::Prompt)).inc_by(vectors::tokens(outputs));
    }
}

/// Whether this generation is over, whoever ended it.
fn is_past(record: &Record, generation: u32) -> bool {
    record.generation > generation || (record.generation == generation && record.state.is_terminal())
}

/// How long to wait before the same work is submitted again; `None` if that cannot help.
fn pause_before_another(error: &JobError) -> Option<Duration> {
    match error {
        JobError::Overloaded { retry_after_ms } | JobError::DeadlineUnreachable { retry_after_ms, .. } => {
            Some(Duration::from_millis(*retry_after_ms).clamp(*WAIT.start(), *WAIT.end()))
        }
        JobError::NoWorker { .. } | JobError::BrokerUnavailable => Some(Duration::from_millis(500)),
        JobError::InvalidInput { .. }
        | JobError::InputTooLong { .. }
        | JobError::ModelNotFound { .. }
        | JobError::PayloadTooLarge { .. }
        | JobError::TooManyInputs { .. }
        | JobError::DeadlineExceeded
        | JobError::Cancelled
        | JobError::BadOutput { .. }
        | JobError::DeadLettered { .. }
        | JobError::Internal => None,
    }
}

const fn form(form: AnswerForm) -> (Dialect, Encoding) {
    match form {
        AnswerForm::OpenAiFloat => (Dialect::OpenAi, Encoding::Float),
        AnswerForm::OpenAiBase64 => (Dialect::OpenAi, Encoding::Base64),
        AnswerForm::Tei => (Dialect::Tei, Encoding::Float),
    }
}

/// Resolves once the record says that this generation has ended.
async fn ended_elsewhere(mut changes: Changes, generation: u32) {
    let over = |record: &Option<Arc<Record>>| {
        record.as_ref().is_some_and(|record| {
            record.generation > generation || (record.generation == generation && record.state.is_terminal())
        })
    };
    if changes.wait_for(over).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_time_can_mend_is_tried_again() {
        assert_eq!(pause_before_another(&JobError::Overloaded { retry_after_ms: 0 }), Some(*WAIT.start()));
        assert_eq!(pause_before_another(&JobError::Overloaded { retry_after_ms: 60_000 }), Some(*WAIT.end()));
        assert!(pause_before_another(&JobError::NoWorker { model: "m".to_owned() }).is_some());
        for error in [JobError::Internal, JobError::DeadlineExceeded, JobError::InputTooLong { got: 2, max: 1 }] {
            assert_eq!(pause_before_another(&error), None);
        }
    }

    #[test]
    fn what_is_no_envelope_goes_back() {
        assert_eq!(read(&[9, 1, 2]), Err(UNREADABLE));
        assert_eq!(read(b""), Err(UNREADABLE));
    }
}
