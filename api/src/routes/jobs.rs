//! `/v1/jobs`: work that is accepted now and done later.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/jobs` | 202 with the job, once the broker has its record and its input |
//! | `GET /v1/jobs?state=&webhook=&limit=&after=` | the caller's jobs, newest first |
//! | `GET /v1/jobs/{id}?wait=10s` | the job, its place in the queue, its result; with `wait` as soon as it has ended |
//! | `DELETE /v1/jobs/{id}` | the job, cancelled; 409 if it has ended |
//! | `POST /v1/jobs/{id}/webhook` | 202 with the job, whose webhook is called again; 409 if that is not over |
//! | `GET /v1/jobs/{id}/events` | its states as server-sent events ([`events`]) |
//!
//! Another tenant's job does not exist.

mod body;
pub mod events;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Path};
use axum::http::{HeaderValue, StatusCode, header};
use forebay_shared::async_jobs::{JobKey, Record, State, WebhookState};
use forebay_shared::error::JobError;
use forebay_shared::ids::JobId;
use forebay_shared::job::Task;
use forebay_shared::metrics::Check;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::inference::{answer_form, validate};
use super::keyed::mark_replayed;
use super::{inference, json, query};
use crate::dialect::Dialect;
use crate::error::Failure;
use crate::http::context::parse_timeout;
use crate::http::endpoint::{Answer, Call};
use crate::http::{AppState, Backend, body as http_body, media};
use crate::jobs::view::View;
use crate::jobs::{Draft, Jobs, Key};

/// How long a request waits for somebody else's reservation of its idempotency key.
const RESERVATION_LIMIT: Duration = Duration::from_secs(10);
/// Longest `?wait=`.
const MAX_WAIT: Duration = Duration::from_secs(60);
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// Most records that one page looks at when it filters.
const MAX_SCAN: usize = 1_000;
/// Records read at the same time.
const READ_AHEAD: usize = 16;

pub async fn create<B: Backend>(call: Call<B>) -> Answer {
    let Call { state, context, caller, parts, body } = call;
    let jobs = layer(&state)?;
    media::json(&parts.headers)?;
    let urgency = context.urgency(&state.limits)?;
    let by = urgency.deadline.min(context.started + state.limits.body_timeout);
    let read = http_body::read(&parts.headers, body, state.limits.max_body_bytes, by).await;
    let bytes = state.instruments.checked(Check::BodySize, read)?;
    let order = body::Order::read(&bytes, jobs)?;
    let work = match order.task {
        body::TaskName::Embed => validate(&state, &caller, Dialect::OpenAi, &parts, &bytes, None)?,
    };
    let key = Key::read(&parts.headers, &caller.tenant, "/v1/jobs", None, &bytes)?;
    caller.check_lane(order.lane)?;
    caller.check_model(&work.model.name)?;
    let charge = caller.charge(&work.rows)?;
    let inference::Work { model, options, rows } = work;
    let draft = Draft {
        tenant: caller.tenant,
        model,
        task: Task::Embed(options.params),
        form: answer_form(Dialect::OpenAi, options.encoding),
        rows,
        lane: order.lane,
        timeout: order.timeout,
        trace: context.trace,
        webhook: order.webhook,
        metadata: order.metadata,
        express: false,
    };
    let accepted: Result<_, Failure> = async {
        match key {
            None => {
                let prepared = jobs.prepare(draft)?;
                jobs.accept(&prepared, false).await?;
                Ok((prepared.record, false))
            }
            Some(key) => {
                let deadline = Instant::now() + RESERVATION_LIMIT;
                let claimed = jobs.once(&key, deadline, |_| false, || jobs.prepare(draft)).await?;
                Ok((jobs.record(&claimed.job).await?, claimed.replayed))
            }
        }
    }
    .await;
    // What is accepted stays charged by its estimate until it has ended, perhaps at another api.
    if accepted.as_ref().map_or(true, |(_, replayed)| *replayed) {
        charge.refund();
    }
    let (record, replayed) = accepted?;
    let mut response = json(StatusCode::ACCEPTED, &View::new(&record))?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/jobs/{}", record.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        mark_replayed(&mut response);
    }
    Ok(response)
}

#[derive(Deserialize)]
struct ShowQuery {
    wait: Option<String>,
}

pub async fn show<B: Backend>(mut call: Call<B>) -> Answer {
    let jobs = Arc::clone(layer(&call.state)?);
    let ShowQuery { wait } = query::read(&call.parts, "wait")?;
    let mut record = find(&mut call, &jobs).await?;
    if let Some(wait) = wait {
        let wait = parse_timeout(&wait)
            .ok_or_else(|| Failure::invalid("wait", "`wait` must be a time such as 10s or 2.5"))?
            .min(MAX_WAIT);
        let key = JobKey::new(&record.tenant, &record.id);
        record = jobs.wait(&key, Instant::now() + wait).await?.unwrap_or(record);
    }
    match record.state {
        State::Done => json(StatusCode::OK, &View::new(&record).result(&jobs.result(&record).await?)),
        State::Queued => {
            let ahead = jobs.board.index.lock().ahead(&record.token, &record.id);
            json(StatusCode::OK, &View::new(&record).position(ahead))
        }
        _ => json(StatusCode::OK, &View::new(&record)),
    }
}

pub async fn cancel<B: Backend>(mut call: Call<B>) -> Answer {
    let jobs = Arc::clone(layer(&call.state)?);
    let record = find(&mut call, &jobs).await?;
    json(StatusCode::OK, &View::new(&jobs.cancel(&record).await?))
}

pub async fn call_again<B: Backend>(mut call: Call<B>) -> Answer {
    let jobs = Arc::clone(layer(&call.state)?);
    let record = find(&mut call, &jobs).await?;
    json(StatusCode::ACCEPTED, &View::new(&jobs.call_again(&record).await?))
}

#[derive(Deserialize)]
struct ListQuery {
    state: Option<String>,
    webhook: Option<String>,
    limit: Option<String>,
    after: Option<String>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<View<'a>>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

pub async fn list<B: Backend>(call: Call<B>) -> Answer {
    let jobs = layer(&call.state)?;
    let said: ListQuery = query::read(&call.parts, "state, webhook, limit and after")?;
    let Wanted { state, webhook, limit, after } = said.read()?;
    let ids = jobs.records.ids_of(&call.caller.tenant).await.map_err(|_| JobError::BrokerUnavailable)?;
    let older = ids.into_iter().filter(|id| after.is_none_or(|after| *id < after));
    let tenant = &call.caller.tenant;
    let read = |id: JobId| async move { jobs.records.get(&JobKey::new(tenant, &id)).await };
    let mut records = futures::stream::iter(older).map(read).buffered(READ_AHEAD);
    let (mut page, mut scanned, mut last, mut has_more): (Vec<Record>, _, Option<JobId>, _) =
        (Vec::new(), 0, None, false);
    while let Some(record) = records.next().await {
        let Some((record, _)) = record.map_err(|_| JobError::BrokerUnavailable)? else { continue };
        if page.len() == limit || scanned == MAX_SCAN {
            has_more = true;
            break;
        }
        scanned += 1;
        last = Some(record.id);
        let of_webhook = record.webhook.as_ref().map(|webhook| webhook.state);
        if state.is_none_or(|state| state == record.state) && (webhook.is_none() || webhook == of_webhook) {
            page.push(record);
        }
    }
    let data: Vec<View<'_>> = page.iter().map(View::new).collect();
    let first_id = page.first().map(|record| record.id.to_string());
    let last_id = last.map(|id| id.to_string());
    json(StatusCode::OK, &List { object: "list", data, first_id, last_id, has_more })
}

/// What a list is asked for.
struct Wanted {
    state: Option<State>,
    webhook: Option<WebhookState>,
    limit: usize,
    after: Option<JobId>,
}

impl ListQuery {
    fn read(&self) -> Result<Wanted, Failure> {
        let limit = query::limit(self.limit.as_deref(), DEFAULT_LIMIT, MAX_LIMIT)?;
        let after = match self.after.as_deref() {
            None => None,
            Some(id) => Some(id.parse().map_err(|_| Failure::invalid("after", "`after` must be the id of a job"))?),
        };
        Ok(Wanted {
            state: one_of("state", self.state.as_deref(), &State::ALL, State::as_str)?,
            webhook: one_of("webhook", self.webhook.as_deref(), &WebhookState::ALL, WebhookState::as_str)?,
            limit,
            after,
        })
    }
}

/// The value that a parameter names, if it is there.
fn one_of<T: Copy>(
    param: &'static str,
    said: Option<&str>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Option<T>, Failure> {
    let Some(said) = said else { return Ok(None) };
    let found = all.iter().copied().find(|value| name(*value) == said);
    let names = || all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", ");
    Ok(Some(found.ok_or_else(|| Failure::invalid(param, format!("`{param}` must be one of {}", names())))?))
}

/// There is none while only a part of the system is being tested.
fn layer<B: Backend>(state: &AppState<B>) -> Result<&Arc<Jobs>, Failure> {
    state.jobs.as_ref().ok_or(Failure::Job(JobError::BrokerUnavailable))
}

/// The job that the path names.
async fn find<B: Backend>(call: &mut Call<B>, jobs: &Jobs) -> Result<Record, Failure> {
    let id = Path::<String>::from_request_parts(&mut call.parts, &()).await.map(|Path(id)| id).unwrap_or_default();
    jobs.find(&call.caller.tenant, &id).await
}
