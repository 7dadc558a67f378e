//! The way of an embedding request, whatever its dialect: read, validate, submit, write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use forebay_shared::async_jobs::AnswerForm;
use forebay_shared::error::JobError;
use forebay_shared::ids::TenantName;
use forebay_shared::job::{Input, Task};
use forebay_shared::metrics::{Check, JobSource};
use forebay_shared::model::ModelRecord;
use forebay_shared::telemetry::span::KeyValue;
use forebay_shared::trace::TraceContext;
use serde::Deserialize;

use super::{json_bytes, keyed, vectors};
use crate::cache;
use crate::cache::answer::Answered;
use crate::dialect::Dialect;
use crate::dispatch::Submission;
use crate::error::Failure;
use crate::http::context::Urgency;
use crate::http::endpoint::{Answer, Call};
use crate::http::instruments::InferenceTally;
use crate::http::{AppState, Backend, body, media};
use crate::jobs::{Draft, Key};
use crate::tenants::Caller;
use crate::validate::body::{Fields, parse};
use crate::validate::embed::{EmbedOptions, Encoding, options};
use crate::validate::rows::RowFault;

/// Whether anything had to be computed for the answer.
pub const X_FOREBAY_CACHE: HeaderName = HeaderName::from_static("x-forebay-cache");
/// Longest part of a name that is repeated in an error.
const MAX_NAME_CHARS: usize = 200;

/// Answers one embedding request and counts it.
pub async fn embed<B: Backend>(call: Call<B>, dialect: Dialect) -> Answer {
    let Call { state, context, caller, parts, body } = call;
    let mut tally = state.instruments.inference(context.started);
    let answer = async {
        let urgency = context.urgency(&state.limits)?;
        media::json(&parts.headers)?;
        let by = urgency.deadline.min(context.started + state.limits.body_timeout);
        let read = body::read(&parts.headers, body, state.limits.max_body_bytes, by).await;
        let bytes = state.instruments.checked(Check::BodySize, read)?;
        let work = validate(&state, &caller, dialect, &parts, &bytes, Some(&mut tally))?;
        caller.check_model(&work.model.name)?;
        context.notes.add(|| {
            [
                KeyValue::new("gen_ai.operation.name", "embeddings"),
                KeyValue::new("gen_ai.request.model", work.model.name.to_string()),
                KeyValue::new("forebay.task", Task::Embed(work.options.params).as_str()),
                KeyValue::new("forebay.rows", work.rows.len() as i64),
                KeyValue::new("forebay.lane", urgency.lane.as_str()),
            ]
        });
        let key = match &state.jobs {
            Some(jobs) => Key::read(&parts.headers, &caller.tenant, parts.uri.path(), parts.uri.query(), &bytes)?
                .map(|key| (jobs, key)),
            None => None,
        };
        let charge = caller.charge(&work.rows)?;
        if let Some((jobs, key)) = key {
            let draft = draft(caller.tenant, work, dialect, urgency, context.trace);
            let answer = keyed::answer(jobs, &key, draft, urgency.deadline, dialect, &mut tally).await;
            // Who came first has paid for a replay.
            if answer.as_ref().map_or(true, |(_, replayed)| *replayed) {
                charge.refund();
            }
            return answer.map(|(response, _)| response);
        }
        drop(bytes);
        let submission = Submission {
            model: Arc::clone(&work.model),
            tenant: caller.tenant,
            lane: urgency.lane,
            task: Task::Embed(work.options.params),
            source: JobSource::Request,
            rows: work.rows,
            fixed: None,
            deadline: urgency.deadline,
            trace: context.trace,
        };
        let answered = cache::answer::answer(&state, submission, cache::Policy::of(&parts.headers)).await;
        let answered = match checked_length(&state, answered) {
            Ok(answered) => answered,
            Err(failure) => {
                charge.refund();
                return Err(failure);
            }
        };
        let Answered { outputs, hit } = answered;
        charge.settle(&outputs);
        let text = vectors::body(&outputs, work.model.name.as_str(), dialect, work.options.encoding).await?;
        let tokens = vectors::tokens(&outputs);
        tally.succeed(outputs.len(), tokens);
        context.notes.add(|| [KeyValue::new("gen_ai.usage.input_tokens", tokens as i64)]);
        let mut response = json_bytes(StatusCode::OK, text);
        if let Some(hit) = hit {
            let told = if hit { "hit" } else { "miss" };
            response.headers_mut().insert(X_FOREBAY_CACHE, HeaderValue::from_static(told));
            context.notes.add(|| [KeyValue::new("forebay.cache", told)]);
        }
        Ok(response)
    }
    .await;
    if let Err(failure) = &answer {
        tally.fail(failure);
    }
    answer
}

/// The same work as a job that is kept.
fn draft(tenant: TenantName, work: Work, dialect: Dialect, urgency: Urgency, trace: TraceContext) -> Draft {
    let Work { model, options, rows } = work;
    Draft {
        tenant,
        model,
        task: Task::Embed(options.params),
        form: answer_form(dialect, options.encoding),
        rows,
        lane: urgency.lane,
        timeout: urgency.deadline.saturating_duration_since(Instant::now()),
        trace,
        webhook: None,
        metadata: BTreeMap::new(),
        express: true,
    }
}

pub(super) const fn answer_form(dialect: Dialect, encoding: Encoding) -> AnswerForm {
    match (dialect, encoding) {
        (Dialect::OpenAi, Encoding::Float) => AnswerForm::OpenAiFloat,
        (Dialect::OpenAi, Encoding::Base64) => AnswerForm::OpenAiBase64,
        (Dialect::Tei, _) => AnswerForm::Tei,
    }
}

/// A request that is worth a job.
pub(super) struct Work {
    pub(super) model: Arc<ModelRecord>,
    pub(super) options: EmbedOptions,
    pub(super) rows: Vec<Input>,
}

/// `tally` is told the model once it is known; none where the request is not answered here.
pub(super) fn validate<B: Backend>(
    state: &AppState<B>,
    caller: &Caller,
    dialect: Dialect,
    parts: &Parts,
    bytes: &[u8],
    tally: Option<&mut InferenceTally>,
) -> Result<Work, Failure> {
    let instruments = &state.instruments;
    let mut fields = parse(bytes, dialect.input_field(), state.limits.max_inputs)
        .inspect_err(|_| instruments.check(Check::Json, false))?;
    let model =
        instruments.checked(Check::Model, choose_model(&state.backend, caller, dialect, &fields, &parts.uri))?;
    if let Some(tally) = tally {
        tally.set_model(instruments.model(&model.name));
    }
    let rows = fields.rows.take().unwrap_or(Err(RowFault::Missing));
    instruments.checked_rows(&rows);
    let rows = rows.map_err(|fault| fault.to_error(dialect.input_field()))?;
    let options = instruments.checked(Check::Parameters, options(dialect, &fields, &model))?;
    Ok(Work { model, options, rows })
}

#[derive(Deserialize)]
struct ModelQuery {
    model: Option<String>,
}

fn choose_model<B: Backend>(
    backend: &B,
    caller: &Caller,
    dialect: Dialect,
    fields: &Fields<'_>,
    uri: &Uri,
) -> Result<Arc<ModelRecord>, Failure> {
    let named = fields.model.text("model")?;
    let query;
    let name = match (named, dialect) {
        (Some(name), _) => Some(name),
        (None, Dialect::OpenAi) => return Err(Failure::invalid("model", "you must provide a model parameter")),
        (None, Dialect::Tei) if uri.query().is_some() => {
            query = Query::<ModelQuery>::try_from_uri(uri).ok().and_then(|Query(query)| query.model);
            query.as_deref()
        }
        (None, Dialect::Tei) => None,
    };
    let found = match name {
        Some(name) => backend.find(name).ok_or_else(|| Failure::from(unknown_model(backend, caller, name))),
        None => backend.sole().ok_or_else(|| not_one_model(backend, caller)),
    };
    // Without the broker we do not know what exists: the client should come back, not look for a typing error.
    found.map_err(|failure| if backend.is_ready() { failure } else { JobError::BrokerUnavailable.into() })
}

/// What a client hears that asks for a model which nobody registered. Names only what it may use: the rest is not its
/// business.
pub fn unknown_model(backend: &impl Backend, caller: &Caller, name: &str) -> JobError {
    let known = usable(backend, caller).iter().map(|model| model.name.to_string()).collect();
    JobError::ModelNotFound { model: name.chars().take(MAX_NAME_CHARS).collect(), known }
}

fn usable(backend: &impl Backend, caller: &Caller) -> Vec<Arc<ModelRecord>> {
    let mut models = backend.list();
    models.retain(|model| caller.may_use_model(&model.name));
    models
}

fn not_one_model(backend: &impl Backend, caller: &Caller) -> Failure {
    let models = usable(backend, caller);
    if models.is_empty() {
        return Failure::NothingServed;
    }
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    Failure::invalid("model", format!("several models are served here; name one in `model`: {}", names.join(", ")))
}

/// Whether an input was too long is known once the model has read it.
fn checked_length<B: Backend>(state: &AppState<B>, answered: Result<Answered, JobError>) -> Result<Answered, Failure> {
    match &answered {
        Ok(_) => state.instruments.check(Check::InputLength, true),
        Err(JobError::InputTooLong { .. }) => state.instruments.check(Check::InputLength, false),
        Err(_) => {}
    }
    Ok(answered?)
}
