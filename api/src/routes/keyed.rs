//! A synchronous request with an idempotency key: made a job once, however often it is sent, and waited for.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use forebay_shared::async_jobs::{Record, State};
use forebay_shared::error::JobError;

use super::json_bytes;
use crate::dialect::Dialect;
use crate::error::Failure;
use crate::http::instruments::InferenceTally;
use crate::jobs::{Draft, IDEMPOTENT_REPLAYED, Jobs, Key};

/// Waits for the job's end until `deadline`, and answers as the request itself would have been; true if an earlier request
/// has made that answer.
///
/// # Errors
/// As without a key, and [`Failure::IdempotencyConflict`].
pub async fn answer(
    jobs: &Arc<Jobs>,
    key: &Key,
    draft: Draft,
    deadline: Instant,
    dialect: Dialect,
    tally: &mut InferenceTally,
) -> Result<(Response<Body>, bool), Failure> {
    jobs.check_servable(&draft.model)?;
    let mut waiting = None;
    // Not asked of a repeat: what is there already only waits for its answer.
    let make = || {
        waiting = Some(jobs.admit(&draft, deadline)?);
        jobs.prepare(draft)
    };
    let claimed = jobs.once(key, deadline, nothing_came_of_it, make).await?;
    let record = jobs.wait(&claimed.job, deadline).await?.ok_or(JobError::Internal)?;
    drop(waiting);
    let mut response = match body(jobs, &record).await {
        Ok(body) => {
            // Rows and tokens are counted by who ran them.
            tally.succeed(0, 0);
            json_bytes(StatusCode::OK, body.into())
        }
        // An earlier request's failure is its answer, and is sent again as it was.
        Err(failure) if claimed.replayed && record.state == State::Failed => {
            tally.fail(&failure);
            failure.into_response(dialect)
        }
        Err(failure) => return Err(failure),
    };
    if claimed.replayed {
        mark_replayed(&mut response);
    }
    Ok((response, claimed.replayed))
}

/// Says that an earlier request with the same key has made this answer.
pub fn mark_replayed<T>(response: &mut Response<T>) {
    let name = HeaderName::from_static(IDEMPOTENT_REPLAYED);
    response.headers_mut().insert(name, HeaderValue::from_static("true"));
}

/// A repeat after these gets a chance of its own.
fn nothing_came_of_it(record: &Record) -> bool {
    match record.state {
        State::Expired | State::Cancelled => true,
        // Refused for want of time, as at the door.
        State::Failed => matches!(record.error, Some(JobError::DeadlineUnreachable { .. })),
        State::Queued | State::Running | State::Done | State::Dead => false,
    }
}

async fn body(jobs: &Jobs, record: &Record) -> Result<bytes::Bytes, Failure> {
    match record.state {
        State::Done => jobs.result(record).await,
        State::Queued | State::Running | State::Expired => Err(JobError::DeadlineExceeded.into()),
        State::Cancelled => Err(JobError::Cancelled.into()),
        State::Failed | State::Dead => Err(record.error.clone().unwrap_or(JobError::Internal).into()),
    }
}

#[cfg(test)]
mod tests {
    use forebay_shared::async_jobs::{Ending, Event, new_job_id};

    use super::*;

    #[test]
    fn a_key_is_free_again_after_what_only_came_too_late() {
        let id = new_job_id(1_000);
        let job = Record::new(id, "t".into(), "m".into(), "m-0123456789".into(), "embed", 1, 1_000, 9_000);
        let running = job.apply(Event::Start { generation: 0 }, 2_000).unwrap();
        let failed =
            |error| running.apply(Event::Finish { generation: 0, ending: Ending::Failed(error) }, 3_000).unwrap();
        let late = JobError::DeadlineUnreachable { estimate_ms: 5_000, retry_after_ms: 1_000 };
        assert!(nothing_came_of_it(&failed(late)) && nothing_came_of_it(&job.apply(Event::Cancel, 2_000).unwrap()));
        assert!(!nothing_came_of_it(&running) && !nothing_came_of_it(&failed(JobError::Internal)));
    }
}
