//! What a job's record says to who asks: now, or once it has ended.

use std::time::Instant;

use axum::body::Bytes;
use forebay_shared::async_jobs::{ChangeError, Event, JobKey, Record, ResultRef, StoreError, job_of_row};
use forebay_shared::error::JobError;
use forebay_shared::ids::{JobId, TenantName};
use forebay_shared::metrics::StoreWrite;
use tokio::io::AsyncReadExt;

use super::accept::unavailable;
use super::{INLINE_BYTES, Jobs};
use crate::error::Failure;

impl Jobs {
    /// The record of a job of this tenant.
    ///
    /// # Errors
    /// [`Failure::NotFound`], also for another tenant's.
    pub async fn find(&self, tenant: &TenantName, id: &str) -> Result<Record, Failure> {
        let missing = || Failure::NotFound { kind: "job", id: id.chars().take(64).collect() };
        let job: JobId = id.parse().map_err(|_| missing())?;
        let found = self.records.get(&JobKey::new(tenant, &job_of_row(&job))).await;
        match found.map_err(|error| unavailable(&error))? {
            Some((record, _)) if record.tenant == *tenant => Ok(record),
            _ => Err(missing()),
        }
    }

    /// The record of a job that was accepted.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if it is not kept any more.
    pub async fn record(&self, key: &JobKey) -> Result<Record, Failure> {
        let missing =
            || Failure::NotFound { kind: "job", id: key.as_str().rsplit('.').next().unwrap_or_default().to_owned() };
        let found = self.records.get(key).await.map_err(|error| unavailable(&error))?;
        found.map(|(record, _)| record).ok_or_else(missing)
    }

    /// Waits until the job has ended, `until` or the process is asked to stop; returns the record as it is then.
    ///
    /// # Errors
    /// [`JobError::BrokerUnavailable`]; `None` if there is no record.
    pub async fn wait(&self, key: &JobKey, until: Instant) -> Result<Option<Record>, JobError> {
        let mut changes = self.board.subscribe(key);
        let current = self.records.get(key).await.map_err(|error| unavailable(&error))?;
        let Some((mut record, _)) = current else { return Ok(None) };
        let mut shutdown = self.shutdown.clone();
        while !record.state.is_terminal() {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() { break }
                    if let Some(seen) = changes.borrow_and_update().as_deref() {
                        record = seen.clone();
                    }
                }
                () = tokio::time::sleep_until(until.into()) => break,
                () = shutdown.fired(), if self.shutdown_hurries(until) => break,
            }
        }
        Ok(Some(record))
    }

    /// A wait of seconds is finished, a longer one is not worth holding up the process for.
    fn shutdown_hurries(&self, until: Instant) -> bool {
        until.saturating_duration_since(Instant::now()).as_secs() > 25
    }

    /// The body of a finished job's answer.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if the result is not kept any more.
    pub async fn result(&self, record: &Record) -> Result<Bytes, Failure> {
        match &record.result {
            Some(ResultRef::Inline(text)) => Ok(Bytes::from(text.clone())),
            Some(ResultRef::Object { name, bytes }) => {
                let gone = || Failure::NotFound { kind: "result of job", id: record.id.to_string() };
                let mut object = self.results.get(name.as_str()).await.map_err(|_| gone())?;
                let mut text = Vec::with_capacity(usize::try_from(*bytes).unwrap_or_default());
                object.read_to_end(&mut text).await.map_err(|_| JobError::BrokerUnavailable)?;
                Ok(text.into())
            }
            None => Err(Failure::NotFound { kind: "result of job", id: record.id.to_string() }),
        }
    }

    /// Cancels a job of this tenant.
    ///
    /// # Errors
    /// [`Failure::Conflict`] if it has ended, [`Failure::NotFound`].
    pub async fn cancel(&self, record: &Record) -> Result<Record, Failure> {
        let key = JobKey::new(&record.tenant, &record.id);
        match self.records.change(&key, &Event::Cancel, self.now_ms()).await {
            Ok(record) => Ok(record),
            Err(ChangeError::NotFound) => Err(Failure::NotFound { kind: "job", id: record.id.to_string() }),
            Err(ChangeError::Refused(refused, _)) => Err(Failure::Conflict(refused.to_string())),
            Err(ChangeError::Store(error)) => Err(unavailable(&error).into()),
        }
    }

    /// Makes the call of a job's webhook again, with all its tries.
    ///
    /// # Errors
    /// [`Failure::Conflict`] if it has none, has not ended, or is being called; [`Failure::NotFound`].
    pub async fn call_again(&self, record: &Record) -> Result<Record, Failure> {
        if record.webhook.is_none() {
            return Err(Failure::Conflict("this job has no webhook".to_owned()));
        }
        match self.records.change(&JobKey::new(&record.tenant, &record.id), &Event::CallAgain, self.now_ms()).await {
            Ok(record) => Ok(record),
            Err(ChangeError::NotFound) => Err(Failure::NotFound { kind: "job", id: record.id.to_string() }),
            Err(ChangeError::Refused(..)) => {
                let why = "the job has not ended, or its webhook is being called: there is nothing to call again yet";
                Err(Failure::Conflict(why.to_owned()))
            }
            Err(ChangeError::Store(error)) => Err(unavailable(&error).into()),
        }
    }

    /// Writes a result down where its size says. `name` is its own if it needs one.
    ///
    /// # Errors
    /// [`StoreError`] if the broker does not take it.
    pub(super) async fn keep(&self, name: String, text: Vec<u8>) -> Result<ResultRef, StoreError> {
        let text = match String::from_utf8(text) {
            Ok(text) if text.len() < INLINE_BYTES => return Ok(ResultRef::Inline(text)),
            Ok(text) => text.into_bytes(),
            Err(error) => error.into_bytes(),
        };
        let bytes = text.len() as u64;
        self.keep_object(&name, &text).await?;
        Ok(ResultRef::Object { name, bytes })
    }

    pub(super) async fn keep_object(&self, name: &str, mut bytes: &[u8]) -> Result<(), StoreError> {
        if !self.takes_result(bytes.len()).await {
            return Err(StoreError(format!("no room for a result of {} bytes", bytes.len())));
        }
        let kept = self.results.put(name, &mut bytes).await.inspect_err(|_| self.write_failed(StoreWrite::Object));
        kept.map(drop).map_err(|error| StoreError(error.to_string()))
    }

    pub(super) async fn drop_object(&self, name: &str) {
        if let Err(error) = self.results.delete(name).await {
            tracing::debug!(%error, "a result that nobody needs stays until its time is over");
        }
    }
}
