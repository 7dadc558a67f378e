//! The stream of dead letters, read and written.

use std::collections::VecDeque;
use std::sync::Arc;

use async_nats::jetstream;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, RawMessageErrorKind, Stream};
use tokio::sync::Mutex;

use super::reading::each_message;
use super::{DeadLetter, SUMMARY_HEADER, Summary};
use crate::async_jobs::job_of_row;
use crate::broker::REQUEST_TIMEOUT;
use crate::codec::{self, CodecError};
use crate::ids::{JobId, TenantName};
use crate::streams::{EnsureError, Queue, Stores};
use crate::subjects;

#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    #[error(transparent)]
    Open(#[from] EnsureError),
    #[error("the broker did not {doing} dead letters: {cause}; is it up, and may this role do that?")]
    Broker { doing: &'static str, cause: String },
    #[error("the dead letter {id} cannot be read here: {cause}; use the version of forebay that wrote it")]
    Unreadable { id: JobId, cause: CodecError },
    /// A list reads the headers of all letters, so there is one at a time.
    #[error("too many lists of dead letters are asked for at once; retry later")]
    Busy,
}

/// Which letters to list.
#[derive(Debug, Clone)]
pub struct Filter {
    /// `None` = everybody's: for operators only.
    pub tenant: Option<TenantName>,
    /// At most so many, the newest.
    pub limit: usize,
}

/// The dead letters of a fleet. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    pub(super) js: jetstream::Context,
    stream: Stream<Info>,
    listing: Arc<Mutex<()>>,
}

impl DeadLetters {
    /// Opens the stream, creating it where it is missing.
    ///
    /// # Errors
    /// As [`Stores::queue`].
    pub async fn open(stores: &Stores, js: jetstream::Context) -> Result<Self, DeadError> {
        Ok(Self { js, stream: stores.queue(Queue::Dead).await?, listing: Arc::default() })
    }

    /// Writes a letter and waits until the broker has it. A repeat within the duplicate window changes nothing.
    ///
    /// # Errors
    /// [`DeadError::Broker`]: the letter may not be there, and the job must not be answered as dead.
    pub async fn write(&self, letter: &DeadLetter) -> Result<(), DeadError> {
        let failed = |cause: String| DeadError::Broker { doing: "take", cause };
        let payload = codec::encode(letter).map_err(|error| failed(error.to_string()))?;
        let summary = serde_json::to_string(&ascii(letter.summary())).map_err(|error| failed(error.to_string()))?;
        let message = PublishMessage::build()
            .payload(payload)
            .message_id(letter.message_id())
            .header(SUMMARY_HEADER, summary.as_str());
        let sent = self.js.send_publish(subjects::dead(&letter.token, &job_of_row(&letter.job.id)), message).await;
        sent.map_err(|error| failed(error.to_string()))?.await.map_err(|error| failed(error.to_string()))?;
        Ok(())
    }

    /// The newest letters that `filter` lets through, newest first. Reads headers only. One list at a time of all clones: each
    /// is a consumer on the broker, and who asks for many has no more of them for it.
    ///
    /// # Errors
    /// [`DeadError::Broker`] if the stream cannot be read, [`DeadError::Busy`] if others are listed for too long.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, DeadError> {
        let turn = tokio::time::timeout(REQUEST_TIMEOUT, self.listing.lock()).await;
        let _turn = turn.map_err(|_| DeadError::Busy)?;
        let mut found = VecDeque::new();
        each_message(&self.stream, true, "list", |message| {
            let summary = message.headers.as_ref().and_then(|headers| headers.get(SUMMARY_HEADER));
            let Some(summary) = summary.and_then(|text| serde_json::from_str::<Summary>(text.as_str()).ok()) else {
                return tracing::warn!(subject = %message.subject, "a dead letter without a readable summary");
            };
            if filter.tenant.as_ref().is_none_or(|tenant| *tenant == summary.tenant) {
                found.push_back(summary);
                if found.len() > filter.limit {
                    found.pop_front();
                }
            }
        })
        .await?;
        Ok(found.into_iter().rev().collect())
    }

    /// The newest letter of the job that has this id, or one of whose rows has it; `None` if there is none, or it is not `tenant`'s.
    ///
    /// # Errors
    /// [`DeadError::Broker`] if the stream cannot be read, [`DeadError::Unreadable`] if the letter cannot.
    pub async fn find(&self, id: &JobId, tenant: Option<&TenantName>) -> Result<Option<DeadLetter>, DeadError> {
        let Some(message) = self.newest(id).await? else { return Ok(None) };
        let letter: DeadLetter =
            codec::decode(&message.payload).map_err(|cause| DeadError::Unreadable { id: *id, cause })?;
        Ok(Some(letter).filter(|letter| tenant.is_none_or(|tenant| *tenant == letter.job.tenant)))
    }

    /// Erases every letter of a job, the bytes on the broker's disk too; false if there was none.
    ///
    /// # Errors
    /// [`DeadError::Broker`] if the broker does not erase it.
    pub async fn remove(&self, id: &JobId) -> Result<bool, DeadError> {
        self.remove_where(id, |_| true).await
    }

    /// The same for those letters of a job that are meant, by their bytes.
    pub(super) async fn remove_where(&self, id: &JobId, is_meant: impl Fn(&[u8]) -> bool) -> Result<bool, DeadError> {
        let failed = |cause: String| DeadError::Broker { doing: "erase", cause };
        let mut any = false;
        for subject in filed_under(id) {
            let mut from = 1;
            loop {
                let message = match self.stream.get_first_raw_message_by_subject(&subject, from).await {
                    Ok(message) => message,
                    Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                    Err(error) => return Err(failed(error.to_string())),
                };
                from = message.sequence + 1;
                if !is_meant(&message.payload) {
                    continue;
                }
                let erased = self.stream.delete_message(message.sequence).await;
                if !erased.map_err(|error| failed(error.to_string()))? {
                    return Err(failed("it refused".to_owned()));
                }
                any = true;
            }
        }
        Ok(any)
    }

    async fn newest(&self, id: &JobId) -> Result<Option<StreamMessage>, DeadError> {
        for subject in filed_under(id) {
            match self.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => return Ok(Some(message)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(DeadError::Broker { doing: "find", cause: error.to_string() }),
            }
        }
        Ok(None)
    }
}

/// Where the letters of a job are: under its own id, or under that of a row, where earlier versions put them.
fn filed_under(id: &JobId) -> Vec<String> {
    let job = job_of_row(id);
    let mut subjects = vec![subjects::dead_job(&job)];
    if job != *id {
        subjects.push(subjects::dead_job(id));
    }
    subjects
}

/// Names in a header must be printable: what is not is replaced there. The letter itself keeps them as they are.
fn ascii(mut summary: Summary) -> Summary {
    let printable = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
    };
    summary.model = printable(summary.model.as_str()).as_str().into();
    for start in &mut summary.starts {
        start.process = printable(start.process.as_str()).as_str().into();
    }
    summary
}
