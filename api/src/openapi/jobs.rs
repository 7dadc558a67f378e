//! `/v1/jobs…`: work that is accepted now and done later. The types here are what the routes read and write, for
//! description only.
#![allow(dead_code)]

use std::collections::BTreeMap;

use forebay_shared::async_jobs::{State, WebhookState};
use serde_json::Value;
use utoipa::ToSchema;

use super::Operation;
use super::embeddings::{EncodingFormat, Inputs, OpenAiComplaint, time};
use super::operation::{number, one_of, pattern};
use crate::dialect::Dialect::OpenAi;

const TAG: &str = "jobs";

pub fn operations() -> Vec<Operation> {
    let id = |operation: Operation| operation.in_path("id", "The job's id. Another tenant's job does not exist.");
    [
        idempotent(Operation::post("/v1/jobs", OpenAi, TAG))
            .about("create_job", "Begin a job", "Answered once the broker has the job's record and its input.")
            .body::<JobRequest>()
            .answer::<Job>(202, "The job.")
            .answer_header(202, "location", "Where the job is.")
            .answer_header(202, "idempotent-replayed", REPLAYED)
            .errors(&[400, 404, 408, 409, 413, 415, 422, 500, 503, 504]),
        Operation::get("/v1/jobs", OpenAi, TAG)
            .about("list_jobs", "List the caller's jobs", "Newest first.")
            .in_query_as("state", "Only jobs in this state.", one_of(&State::ALL.map(|state| state.as_str())))
            .in_query_as(
                "webhook",
                "Only jobs whose webhook is in this state: `failed` lists the calls that were given up.",
                one_of(&WebhookState::ALL.map(WebhookState::as_str)),
            )
            .in_query_as("limit", "Most jobs on a page; 20 unless said otherwise.", number(1, 100))
            .in_query_as("after", "The `last_id` of the page before.", pattern("^[0-9a-f]{32}$"))
            .answer::<JobList>(200, "A page of jobs.")
            .errors(&[400, 500, 503]),
        id(Operation::get("/v1/jobs/{id}", OpenAi, TAG))
            .about("show_job", "Show a job", "With its result, once it has one.")
            .in_query_as(
                "wait",
                "Answer when the job has ended, at the latest after this time; at most a minute.",
                time(),
            )
            .answer::<Job>(200, "The job.")
            .errors(&[400, 404, 500, 503]),
        id(Operation::delete("/v1/jobs/{id}", OpenAi, TAG))
            .about("cancel_job", "Cancel a job", "")
            .answer::<Job>(200, "The job, cancelled.")
            .errors(&[404, 409, 500, 503]),
        id(Operation::post("/v1/jobs/{id}/webhook", OpenAi, TAG))
            .about(
                "call_webhook_again",
                "Call a job's webhook again",
                "Also one that was given up or delivered, with all its tries.",
            )
            .answer::<Job>(202, "The job.")
            .errors(&[404, 409, 500, 503]),
        id(Operation::get("/v1/jobs/{id}/events", OpenAi, TAG))
            .about("follow_job", "Follow a job", "Its states as server-sent events, until it has ended.")
            .answer_as::<JobEvent>(200, "text/event-stream", "One event per state.")
            .answer_header(200, "cache-control", "`no-cache`")
            .errors(&[404, 500, 503]),
    ]
    .map(Operation::keyed)
    .into()
}

pub const REPLAYED: &str = "`true` where the answer is that of an earlier request with the same idempotency key.";

/// The header of requests that may be sent twice.
pub fn idempotent(operation: Operation) -> Operation {
    let key = pattern("^[!-~]([ -~]{0,253}[!-~])?$");
    operation.header("idempotency-key", "The same key and body get the same answer, for a day.", key)
}

/// Body of `POST /v1/jobs`: the fields of its task, and when and for whom.
#[derive(ToSchema)]
pub struct JobRequest {
    task: JobTask,
    model: String,
    input: Inputs,
    encoding_format: Option<EncodingFormat>,
    #[schema(minimum = 1, maximum = 4294967295u64)]
    dimensions: Option<u32>,
    /// The lane; `low` unless said otherwise.
    priority: Option<Priority>,
    /// Seconds until the job is given up; a day unless said otherwise.
    #[schema(minimum = 1, maximum = 86400)]
    timeout: Option<u32>,
    webhook: Option<WebhookRequest>,
    /// At most 16 strings, names of at most 64 and values of at most 512 characters.
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum JobTask {
    Embed,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Priority {
    High,
    Normal,
    Low,
}

/// Who is told when the job has ended, by the Standard Webhooks specification.
#[derive(ToSchema)]
pub struct WebhookRequest {
    url: String,
    /// `whsec_` and 24 to 64 bytes in base64.
    secret: Option<String>,
}

/// Times are Unix seconds.
#[derive(ToSchema)]
pub struct Job {
    id: String,
    /// `job`
    object: String,
    task: String,
    model: String,
    /// `queued`, `running`, `done`, `failed`, `dead`, `cancelled` or `expired`
    state: String,
    generation: u32,
    attempts: u32,
    rows: u32,
    created_at: f64,
    #[schema(required)]
    started_at: Option<f64>,
    #[schema(required)]
    ended_at: Option<f64>,
    expires_at: f64,
    /// Jobs for the same model that wait longer; an estimate.
    position: Option<u64>,
    webhook: Option<WebhookStatus>,
    metadata: BTreeMap<String, String>,
    /// As the synchronous route would have said it.
    #[schema(required)]
    error: Option<OpenAiComplaint>,
    /// What the synchronous route would have answered.
    result: Option<Value>,
}

/// One server-sent event.
#[derive(ToSchema)]
pub struct JobEvent {
    /// The job's state.
    event: String,
    /// The job in JSON, without its result.
    data: String,
    /// Milliseconds until a client whose connection broke should come back.
    retry: u32,
}

#[derive(ToSchema)]
pub struct WebhookStatus {
    url: String,
    /// `pending`, `delivered` or `failed`: given up
    state: String,
    /// When its calls were given up.
    failed_at: Option<f64>,
    /// How many there were.
    tries: Option<u32>,
    /// What came of the last one.
    reason: Option<String>,
}

#[derive(ToSchema)]
pub struct JobList {
    /// `list`
    object: String,
    data: Vec<Job>,
    #[schema(required)]
    first_id: Option<String>,
    #[schema(required)]
    last_id: Option<String>,
    has_more: bool,
}
