//! From a validated request to an accepted job: the record first, then the envelope, then the 202.
//!
//! In this order a runner never meets an envelope without a record, unless the job was taken back; that one it drops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_shared::async_jobs::{self, AnswerForm, EnqueueError, Envelope, JobKey, Record, Webhook};
use forebay_shared::codec;
use forebay_shared::error::JobError;
use forebay_shared::ids::{Lane, TenantName};
use forebay_shared::job::{Input, Task};
use forebay_shared::metrics::{Refusal, StoreWrite};
use forebay_shared::model::ModelRecord;
use forebay_shared::streams::is_full;
use forebay_shared::subjects;
use forebay_shared::trace::TraceContext;

use super::Jobs;
use crate::error::Failure;

/// What a client was told when the queue is full.
const RETRY_AFTER_MS: u64 = 5_000;

/// A job that somebody asks for.
#[derive(Debug)]
pub struct Draft {
    pub tenant: TenantName,
    pub model: Arc<ModelRecord>,
    pub task: Task,
    pub form: AnswerForm,
    pub rows: Vec<Input>,
    pub lane: Lane,
    pub timeout: Duration,
    pub trace: TraceContext,
    pub webhook: Option<Webhook>,
    pub metadata: BTreeMap<String, String>,
    /// A synchronous request waits for it: it does not stand behind the others.
    pub express: bool,
}

/// A job as it will be written, byte for byte the same however often that is tried.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub record: Record,
    pub subject: String,
    pub payload: Bytes,
}

impl Prepared {
    pub fn key(&self) -> JobKey {
        JobKey::new(&self.record.tenant, &self.record.id)
    }

    fn message_id(&self) -> String {
        format!("{}:{}", self.record.id, self.record.generation)
    }
}

impl Jobs {
    /// # Errors
    /// [`Failure::TooLargeForQueue`] if one message cannot carry the input; [`Failure::RateLimited`] if its tenant has as many
    /// jobs waiting as it may.
    pub fn prepare(&self, draft: Draft) -> Result<Prepared, Failure> {
        let now_us = self.clock.now_us();
        let deadline_us = now_us + draft.timeout.min(self.longest_timeout()).as_micros() as u64;
        let id = async_jobs::new_job_id(now_us / 1_000);
        let Draft { tenant, model, task, form, rows, lane, trace, webhook, metadata, express, timeout: _ } = draft;
        let subject = if express { subjects::async_express } else { subjects::async_work }(&model.token, &tenant);
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let mut record = Record::new(
            id,
            tenant.clone(),
            model.name.clone(),
            model.token.clone(),
            task.as_str(),
            count,
            now_us / 1_000,
            deadline_us / 1_000,
        );
        record.webhook = webhook;
        record.metadata = metadata;
        let envelope = Envelope {
            job: id,
            generation: 0,
            tenant,
            model: model.name.clone(),
            token: model.token.clone(),
            lane,
            deadline_us,
            trace: Some(trace),
            task,
            form,
            rows,
        };
        let payload = codec::encode(&envelope).map_err(|_| JobError::Internal)?;
        let max = async_jobs::max_envelope_bytes(&self.js);
        if payload.len() > max {
            return Err(Failure::TooLargeForQueue { got: payload.len(), max });
        }
        (record.bytes, record.express) = (payload.len() as u64, express);
        // What a client waits for is bounded where it waits, and must not be refused for what it left for later.
        if !express {
            self.check_share(&record)?;
        }
        Ok(Prepared { record, subject, payload })
    }

    /// One tenant must not fill the queue for all. Other apis' jobs are known a moment later: a bound, not a count.
    fn check_share(&self, record: &Record) -> Result<(), Failure> {
        if record.tenant.as_str() == TenantName::DEFAULT {
            return Ok(());
        }
        let load = self.board.index.lock().load_of(&record.tenant);
        let over = |limit: String| Failure::RateLimited { limit, retry_after_ms: RETRY_AFTER_MS };
        let (jobs, bytes) = (self.args.tenant_max_waiting_jobs, self.args.tenant_max_waiting_bytes);
        if load.jobs >= jobs {
            return Err(over(format!("{jobs} asynchronous jobs that have not ended")));
        }
        if load.bytes + record.bytes > bytes {
            return Err(over(format!("{bytes} bytes of asynchronous jobs that have not ended")));
        }
        Ok(())
    }

    /// Writes both; once this returns the job reaches an end whatever dies.
    ///
    /// # Errors
    /// [`JobError::Overloaded`] if the queue or a store is full, and nothing of the job is left; [`JobError::BrokerUnavailable`] if the
    /// broker did not answer: a job that nobody was told of may run then, or expire.
    ///
    /// `reserved`: the same bytes are kept under an idempotency key and others may be publishing them, so without a clear answer
    /// nothing is taken back: whoever comes next goes on with it, and the sweeper ends what nobody came for.
    pub async fn accept(&self, prepared: &Prepared, reserved: bool) -> Result<(), JobError> {
        if !self.link.is_up() {
            return Err(JobError::BrokerUnavailable);
        }
        let record = &prepared.record;
        let rejected =
            || self.metrics.queue_rejected_total.with(&(record.model.clone(),)).inc_by(u64::from(record.rows));
        let no_room = || {
            rejected();
            self.metrics.admission_refused_total.with(&(record.model.clone(), Refusal::Store)).inc();
            JobError::Overloaded { retry_after_ms: RETRY_AFTER_MS }
        };
        if !self.has_room().await {
            return Err(no_room());
        }
        // False: an earlier try of the same job wrote it.
        let created = self.records.create(record).await;
        created.map_err(|error| if is_full(&error) { no_room() } else { unavailable(&error) })?;
        let lives = Duration::from_millis(record.deadline_ms.saturating_sub(self.now_ms()));
        let (subject, payload) = (&prepared.subject, prepared.payload.clone());
        match async_jobs::publish(&self.js, subject, &prepared.message_id(), payload, lives).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let unclear = matches!(error, EnqueueError::Unavailable(_));
                // Without its record nobody runs what may have arrived after all.
                if !(reserved && unclear)
                    && let Err(error) = self.records.forget(&prepared.key()).await
                {
                    tracing::debug!(%error, job = %record.id, "cannot take back the record of a job that was not accepted");
                }
                Err(match error {
                    EnqueueError::Full => {
                        rejected();
                        JobError::Overloaded { retry_after_ms: RETRY_AFTER_MS }
                    }
                    EnqueueError::TooLarge { max, .. } => JobError::PayloadTooLarge { max_bytes: max },
                    EnqueueError::Unavailable(_) => {
                        self.write_failed(StoreWrite::Publish);
                        unavailable(&error)
                    }
                })
            }
        }
    }
}

pub(super) fn unavailable(error: &dyn std::error::Error) -> JobError {
    tracing::warn!(%error, "the broker does not take an asynchronous job");
    JobError::BrokerUnavailable
}
