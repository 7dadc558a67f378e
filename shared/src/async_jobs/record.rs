//! The state of one job, and the transition function. See the module above for the states.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::JobError;
use crate::ids::{JobId, ModelName, ModelToken, TenantName};

/// Version of the JSON below. Readers ignore fields that they do not know.
const VERSION: u8 = 1;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Running,
    Done,
    Failed,
    /// It ended its worker more than once and was put aside.
    Dead,
    Cancelled,
    Expired,
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Dead, Self::Cancelled, Self::Expired];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Where the answer is: the body of the synchronous answer, JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultRef {
    /// Here.
    Inline(String),
    /// In the object store of results, under this name.
    Object { name: String, bytes: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// To be called once the job has ended.
    Pending,
    Delivered,
    /// Given up.
    Failed,
}

impl WebhookState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// Whom to call when the job has ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub url: String,
    /// `whsec_…`; `None` = the fleet's. Never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub state: WebhookState,
    /// How often its calls were begun again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u64,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<CallFailure>,
}

impl Webhook {
    /// One that was not called yet.
    pub const fn new(url: String, secret: Option<String>) -> Self {
        Self { url, secret, state: WebhookState::Pending, round: 0, failure: None }
    }
}

/// What is kept of calls that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFailure {
    pub at_ms: u64,
    pub tries: u32,
    /// Of the last try. Without the address: it may carry a token.
    pub why: String,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An address may carry a token in its query: neither it nor the secret belongs into a log.
        f.debug_struct("Webhook").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What is kept of a job, as JSON. Its input is not: that stands in the queue's message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub v: u8,
    pub id: JobId,
    /// 0, and one more with each replay.
    pub generation: u32,
    pub tenant: TenantName,
    pub model: ModelName,
    pub token: ModelToken,
    /// [`crate::job::Task::as_str`].
    pub task: String,
    /// Rows of input.
    pub rows: u32,
    /// Bytes that it takes in the queue; 0 where they were not counted yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// A client waits for it: it stands in no tenant's line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub express: bool,
    pub state: State,
    /// How often somebody took it up, in this generation.
    pub attempts: u32,
    /// Broker time, Unix milliseconds, as all times here.
    pub created_ms: u64,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    pub deadline_ms: u64,
    pub result: Option<ResultRef>,
    pub error: Option<JobError>,
    pub webhook: Option<Webhook>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

const fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    Done(ResultRef),
    Failed(JobError),
    Dead(JobError),
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An api takes up the envelope of this generation.
    Start { generation: u32 },
    /// An attempt at this generation ended.
    Finish { generation: u32, ending: Ending },
    /// Its owner does not want it any more.
    Cancel,
    /// Its deadline has passed.
    Expire,
    /// It is begun anew, until another deadline.
    Replay { deadline_ms: u64 },
    /// The call that its owner asked for was made, or given up.
    Called { generation: u32, state: WebhookState, failure: Option<CallFailure> },
    /// It is to be made again, although it was made or given up.
    CallAgain,
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the job has ended already: {}", .0.as_str())]
    Ended(State),
    #[error("the job has been begun anew")]
    OtherGeneration,
    #[error("a job that is {} cannot do this", .0.as_str())]
    NotNow(State),
}

impl Record {
    /// A job that was just accepted.
    #[allow(clippy::too_many_arguments, reason = "each is a field, named by its type")]
    pub fn new(
        id: JobId,
        tenant: TenantName,
        model: ModelName,
        token: ModelToken,
        task: &str,
        rows: u32,
        created_ms: u64,
        deadline_ms: u64,
    ) -> Self {
        Self {
            v: VERSION,
            id,
            generation: 0,
            tenant,
            model,
            token,
            task: task.to_owned(),
            rows,
            bytes: 0,
            express: false,
            state: State::Queued,
            attempts: 0,
            created_ms,
            started_ms: None,
            ended_ms: None,
            deadline_ms,
            result: None,
            error: None,
            webhook: None,
            metadata: BTreeMap::new(),
        }
    }

    /// The record after `event` at `now_ms`. Pure: the caller writes it by compare-and-swap.
    ///
    /// # Errors
    /// [`Refused`] if the event is too late, or of another generation; the record stays as it is.
    pub fn apply(&self, event: Event, now_ms: u64) -> Result<Self, Refused> {
        if let Event::Start { generation } | Event::Finish { generation, .. } | Event::Called { generation, .. } = event
            && generation != self.generation
        {
            return Err(Refused::OtherGeneration);
        }
        match (event, self.state) {
            (Event::Start { .. }, State::Queued | State::Running) => Ok(Self {
                state: State::Running,
                attempts: self.attempts.saturating_add(1),
                started_ms: self.started_ms.or(Some(now_ms)),
                ..self.clone()
            }),
            (Event::Finish { ending, .. }, State::Running) => Ok(self.ended(ending, now_ms)),
            (Event::Finish { .. }, State::Queued) => Err(Refused::NotNow(State::Queued)),
            (Event::Cancel, State::Queued | State::Running) => {
                Ok(Self { state: State::Cancelled, ended_ms: Some(now_ms), ..self.clone() })
            }
            // Begun anew since whoever says so has looked.
            (Event::Expire, State::Queued | State::Running) if now_ms < self.deadline_ms => {
                Err(Refused::NotNow(self.state))
            }
            (Event::Expire, State::Queued | State::Running) => {
                let error = Some(JobError::DeadlineExceeded);
                Ok(Self { state: State::Expired, ended_ms: Some(now_ms), error, ..self.clone() })
            }
            (Event::Replay { deadline_ms }, State::Dead | State::Failed) => Ok(self.begun_anew(deadline_ms)),
            (Event::Replay { .. }, state) => Err(Refused::NotNow(state)),
            (Event::Called { .. }, State::Queued | State::Running) => Err(Refused::NotNow(self.state)),
            (Event::Called { state, failure, .. }, ended) => match &self.webhook {
                Some(webhook) if webhook.state == WebhookState::Pending => {
                    Ok(Self { webhook: Some(Webhook { state, failure, ..webhook.clone() }), ..self.clone() })
                }
                _ => Err(Refused::NotNow(ended)),
            },
            (Event::CallAgain, State::Queued | State::Running) => Err(Refused::NotNow(self.state)),
            (Event::CallAgain, ended) => match &self.webhook {
                Some(webhook) if webhook.state != WebhookState::Pending => {
                    let again = Webhook::new(webhook.url.clone(), webhook.secret.clone());
                    Ok(Self { webhook: Some(Webhook { round: webhook.round + 1, ..again }), ..self.clone() })
                }
                _ => Err(Refused::NotNow(ended)),
            },
            (Event::Start { .. } | Event::Finish { .. } | Event::Cancel | Event::Expire, ended) => {
                Err(Refused::Ended(ended))
            }
        }
    }

    fn ended(&self, ending: Ending, now_ms: u64) -> Self {
        let (state, result, error) = match ending {
            Ending::Done(result) => (State::Done, Some(result), None),
            Ending::Failed(error) => (State::Failed, None, Some(error)),
            Ending::Dead(error) => (State::Dead, None, Some(error)),
        };
        Self { state, result, error, ended_ms: Some(now_ms), ..self.clone() }
    }

    fn begun_anew(&self, deadline_ms: u64) -> Self {
        let webhook = self.webhook.clone().map(|webhook| Webhook::new(webhook.url, webhook.secret));
        Self {
            generation: self.generation + 1,
            state: State::Queued,
            attempts: 0,
            started_ms: None,
            ended_ms: None,
            deadline_ms,
            result: None,
            error: None,
            webhook,
            ..self.clone()
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
