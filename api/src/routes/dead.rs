//! `GET /v1/dead`, `GET /v1/dead/{id}`, `POST /v1/dead/{id}/replay` and `DELETE /v1/dead/{id}`: a caller's own dead
//! letters.
//!
//! Another tenant's letter is no letter: its id is answered like one that does not exist. Inputs are never sent back.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use forebay_shared::clock::BrokerClock;
use forebay_shared::dead::{DeadError, DeadLetter, DeadLetters, Filter, ReplayError, Replayed, Summary};
use forebay_shared::error::JobError;
use forebay_shared::ids::JobId;
use forebay_shared::streams::Stores;
use serde::{Deserialize, Serialize};

use super::{json, query};
use crate::error::Failure;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
/// How long a job that is begun anew may take.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What the routes work with.
pub struct DeadDesk {
    pub letters: DeadLetters,
    pub stores: Stores,
    pub clock: BrokerClock,
}

#[derive(Deserialize)]
struct Page {
    limit: Option<String>,
}

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Summary>,
}

#[derive(Serialize)]
struct Queued<'a> {
    #[serde(flatten)]
    replayed: &'a Replayed,
    status: &'static str,
}

#[derive(Serialize)]
struct Deleted {
    id: JobId,
    deleted: bool,
}

pub async fn list<B: Backend>(call: Call<B>) -> Answer {
    let Page { limit } = query::read(&call.parts, "limit")?;
    let limit = query::limit(limit.as_deref(), DEFAULT_LIMIT, MAX_LIMIT)?;
    let filter = Filter { tenant: Some(call.caller.tenant.clone()), limit };
    let data = desk(&call)?.letters.list(&filter).await.map_err(unavailable)?;
    json(StatusCode::OK, &List { object: "list", data })
}

pub async fn show<B: Backend>(mut call: Call<B>) -> Answer {
    let letter = find(&mut call).await?;
    json(StatusCode::OK, &letter.summary())
}

pub async fn replay<B: Backend>(mut call: Call<B>) -> Answer {
    let letter = find(&mut call).await?;
    let desk = desk(&call)?;
    match desk.letters.replay(&desk.stores, &letter, desk.clock.now_us(), REPLAY_TIMEOUT).await {
        Ok(replayed) => json(StatusCode::ACCEPTED, &Queued { replayed: &replayed, status: "queued" }),
        Err(ReplayError::Refused(why)) => Err(Failure::Conflict(why)),
        Err(ReplayError::Full) => Err(JobError::Overloaded { retry_after_ms: 5_000 }.into()),
        Err(error) => {
            tracing::warn!(job = %letter.job.id, %error, "a dead letter could not be replayed");
            Err(JobError::BrokerUnavailable.into())
        }
    }
}

pub async fn delete<B: Backend>(mut call: Call<B>) -> Answer {
    let letter = find(&mut call).await?;
    desk(&call)?.letters.remove(&letter.job.id).await.map_err(unavailable)?;
    json(StatusCode::OK, &Deleted { id: letter.summary().id, deleted: true })
}

/// The letter that the path names, if it is the caller's.
async fn find<B: Backend>(call: &mut Call<B>) -> Result<DeadLetter, Failure> {
    let path = Path::<String>::from_request_parts(&mut call.parts, &()).await;
    let text = path.map_or_else(|_| String::new(), |Path(text)| text);
    let missing = || Failure::NotFound { kind: "dead letter", id: text.chars().take(64).collect() };
    let id: JobId = text.parse().map_err(|_| missing())?;
    let found = desk(call)?.letters.find(&id, Some(&call.caller.tenant)).await.map_err(unavailable)?;
    found.ok_or_else(missing)
}

fn desk<B: Backend>(call: &Call<B>) -> Result<&DeadDesk, Failure> {
    call.state.dead.as_ref().ok_or_else(|| JobError::BrokerUnavailable.into())
}

fn unavailable(error: DeadError) -> Failure {
    tracing::warn!(%error, "dead letters cannot be read");
    match error {
        DeadError::Unreadable { .. } => JobError::Internal.into(),
        DeadError::Busy => JobError::Overloaded { retry_after_ms: 1_000 }.into(),
        DeadError::Open(_) | DeadError::Broker { .. } => JobError::BrokerUnavailable.into(),
    }
}
