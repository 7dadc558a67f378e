//! `/v1/batches`, as OpenAI runs batches: <https://platform.openai.com/docs/api-reference/batch>.
//!
//! A batch of another tenant does not exist.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use forebay_shared::error::JobError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::files::{Page, id_of, keep_seconds};
use super::{json, query};
use crate::batches::Batches;
use crate::batches::line::ENDPOINT;
use crate::batches::record::{Batch, Counts, InputError};
use crate::error::Failure;
use crate::files::PURPOSE_BATCH;
use crate::http::endpoint::{Answer, Call};
use crate::http::{Backend, body, media};

const WINDOW: &str = "24h";
const DEFAULT_PAGE: usize = 20;
const MAX_PAGE: usize = 100;
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY_CHARS: usize = 64;
const MAX_METADATA_VALUE_CHARS: usize = 512;

/// A batch as OpenAI shows it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    object: &'static str,
    endpoint: &'a str,
    errors: Option<Errors<'a>>,
    input_file_id: &'a str,
    completion_window: &'static str,
    status: &'static str,
    output_file_id: Option<&'a str>,
    error_file_id: Option<&'a str>,
    created_at: u64,
    in_progress_at: Option<u64>,
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: Counts,
    metadata: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct Errors<'a> {
    object: &'static str,
    data: &'a [InputError],
}

impl<'a> From<&'a Batch> for Shown<'a> {
    fn from(batch: &'a Batch) -> Self {
        Self {
            id: &batch.id,
            object: "batch",
            endpoint: &batch.endpoint,
            errors: (!batch.errors.is_empty()).then_some(Errors { object: "list", data: &batch.errors }),
            input_file_id: &batch.input_file_id,
            completion_window: WINDOW,
            status: batch.phase.as_str(),
            output_file_id: batch.output_file_id.as_deref(),
            error_file_id: batch.error_file_id.as_deref(),
            created_at: batch.created_at,
            in_progress_at: batch.in_progress_at,
            expires_at: batch.expires_at,
            finalizing_at: batch.finalizing_at,
            completed_at: batch.completed_at,
            failed_at: batch.failed_at,
            expired_at: batch.expired_at,
            cancelling_at: batch.cancelling_at,
            cancelled_at: batch.cancelled_at,
            request_counts: batch.counts,
            metadata: batch.metadata.as_ref(),
        }
    }
}

fn batches_of<B: Backend>(call: &Call<B>) -> Result<Arc<Batches>, Failure> {
    call.state.backend.batches().cloned().ok_or(Failure::Job(JobError::BrokerUnavailable))
}

/// What a client wants.
#[derive(Debug, PartialEq)]
struct Wanted {
    input_file_id: String,
    metadata: Option<BTreeMap<String, String>>,
    output_keep_seconds: Option<u64>,
}

/// Reads the body of a request for a batch.
fn wanted(bytes: &[u8]) -> Result<Wanted, Failure> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| Failure::MalformedJson(error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(Failure::invalid("input_file_id", "the request body must be a JSON object"));
    };
    let input_file_id = text(&mut fields, "input_file_id")?;
    if text(&mut fields, "endpoint")? != ENDPOINT {
        return Err(Failure::invalid(
            "endpoint",
            format!("`endpoint` must be {ENDPOINT}: batches are made of nothing else"),
        ));
    }
    if text(&mut fields, "completion_window")? != WINDOW {
        return Err(Failure::invalid("completion_window", format!("`completion_window` must be {WINDOW}")));
    }
    let metadata = match fields.remove("metadata") {
        None | Some(Value::Null) => None,
        Some(metadata) => Some(metadata_of(metadata)?),
    };
    let output_keep_seconds = match fields.remove("output_expires_after") {
        None | Some(Value::Null) => None,
        Some(after) => Some(keep_seconds(after.get("seconds").and_then(whole))?),
    };
    Ok(Wanted { input_file_id, metadata, output_keep_seconds })
}

/// A whole number, also when it is written as `3600.0`, which is the same in JSON.
fn whole(value: &Value) -> Option<u64> {
    let written_out = || value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number));
    value.as_u64().or_else(|| written_out().map(|number| number as u64))
}

fn text(fields: &mut Map<String, Value>, name: &'static str) -> Result<String, Failure> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(Failure::invalid(name, format!("you must provide `{name}`"))),
        Some(_) => Err(Failure::invalid(name, format!("`{name}` must be a string"))),
    }
}

fn metadata_of(value: Value) -> Result<BTreeMap<String, String>, Failure> {
    let metadata: Option<BTreeMap<String, String>> = serde_json::from_value(value).ok();
    let is_allowed = |metadata: &BTreeMap<String, String>| {
        metadata.len() <= MAX_METADATA
            && metadata.iter().all(|(key, value)| {
                key.chars().count() <= MAX_METADATA_KEY_CHARS && value.chars().count() <= MAX_METADATA_VALUE_CHARS
            })
    };
    metadata.filter(is_allowed).ok_or_else(|| {
        let message = format!(
            "`metadata` must be an object of at most {MAX_METADATA} strings, with keys of at most \
             {MAX_METADATA_KEY_CHARS} and values of at most {MAX_METADATA_VALUE_CHARS} characters"
        );
        Failure::invalid("metadata", message)
    })
}

pub async fn create<B: Backend>(call: Call<B>) -> Answer {
    let batches = batches_of(&call)?;
    let Call { state, context, caller, parts, body } = call;
    media::json(&parts.headers)?;
    let deadline = context.started + state.limits.default_timeout.min(state.limits.body_timeout);
    let bytes = body::read(&parts.headers, body, state.limits.max_body_bytes, deadline).await?;
    let Wanted { input_file_id, metadata, output_keep_seconds } = wanted(&bytes)?;
    let input = batches.files.find(&caller.tenant, &input_file_id).await?;
    match input {
        Some(file) if file.purpose == PURPOSE_BATCH => {}
        Some(_) => return Err(Failure::invalid("input_file_id", "the input file must have the purpose batch")),
        None => {
            let id: String = input_file_id.chars().take(100).collect();
            return Err(Failure::invalid("input_file_id", format!("no such file: {id}; upload it to /v1/files")));
        }
    }
    let models = caller.models().map(<[_]>::to_vec);
    let mut batch = batches.draft(caller.tenant, input_file_id);
    batch.models = models;
    (batch.metadata, batch.output_keep_seconds) = (metadata, output_keep_seconds);
    let batch = batches.begin(batch).await?;
    json(StatusCode::OK, &Shown::from(&batch))
}

pub async fn show<B: Backend>(mut call: Call<B>) -> Answer {
    let id = id_of(&mut call.parts).await;
    let batch = batches_of(&call)?.show(&call.caller.tenant, &id).await?;
    json(StatusCode::OK, &Shown::from(&batch))
}

pub async fn cancel<B: Backend>(mut call: Call<B>) -> Answer {
    let id = id_of(&mut call.parts).await;
    let batch = batches_of(&call)?.cancel(&call.caller.tenant, &id).await?;
    json(StatusCode::OK, &Shown::from(&batch))
}

#[derive(Deserialize)]
struct ListQuery {
    after: Option<String>,
    limit: Option<String>,
}

pub async fn list<B: Backend>(call: Call<B>) -> Answer {
    let ListQuery { after, limit } = query::read(&call.parts, "limit and after")?;
    let limit = query::limit(limit.as_deref(), DEFAULT_PAGE, MAX_PAGE)?;
    let after = query::not_empty("after", after.as_deref())?;
    let (page, has_more) = batches_of(&call)?.list(&call.caller.tenant, after, limit).await?;
    let page = Page {
        object: "list",
        data: page.iter().map(Shown::from).collect(),
        first_id: page.first().map(|batch| batch.id.as_str()),
        last_id: page.last().map(|batch| batch.id.as_str()),
        has_more,
    };
    json(StatusCode::OK, &page)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body() -> Value {
        json!({ "input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h" })
    }

    fn param(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut body = body();
        change(&mut body);
        match wanted(body.to_string().as_bytes()) {
            Err(Failure::Job(JobError::InvalidInput { param, .. })) => param,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_refused_by_the_field_that_is_wrong() {
        assert_eq!(wanted(body().to_string().as_bytes()).unwrap().input_file_id, "file-1");
        assert_eq!(param(|body| body["endpoint"] = json!("/v1/chat/completions")).as_deref(), Some("endpoint"));
        assert_eq!(param(|body| body["completion_window"] = json!("1h")).as_deref(), Some("completion_window"));
        assert_eq!(param(|body| body["input_file_id"] = json!(null)).as_deref(), Some("input_file_id"));
        assert_eq!(param(|body| body["metadata"] = json!({ "a": 1 })).as_deref(), Some("metadata"));
        assert_eq!(param(|body| body["metadata"] = json!({ "a": "x".repeat(513) })).as_deref(), Some("metadata"));
        assert_eq!(
            param(|body| body["output_expires_after"] = json!({ "seconds": 5 })).as_deref(),
            Some("expires_after")
        );
        let mut whole = body();
        whole["output_expires_after"] = json!({ "seconds": 3600.0 });
        assert_eq!(wanted(whole.to_string().as_bytes()).unwrap().output_keep_seconds, Some(3600));
    }
}
