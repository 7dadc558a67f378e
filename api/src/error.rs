//! The only place where a failure becomes HTTP: one row per [`JobError`], one column per [`Dialect`].
//!
//! `answer` is the table, with one function per column. It has no wildcard arm over errors, so that a new code cannot be
//! forgotten here. Beside the job errors stand the few failures that only HTTP knows ([`Failure`]).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use forebay_shared::error::JobError;
use forebay_shared::metrics::Outcome;

use crate::batches::room::NoRoom;
use crate::dialect::{Complaint, Dialect};

/// Read by OpenAI's clients before `Retry-After`: whole milliseconds.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// `false` keeps OpenAI's clients from sending the same request again.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Job(#[from] JobError),
    /// The body is no JSON at all; a body of the wrong shape is [`JobError::InvalidInput`].
    #[error("the request body is not valid JSON: {0}")]
    MalformedJson(String),
    /// The client did not finish sending its body within the deadline.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The connection broke while the body was being sent; nobody reads this.
    #[error("the request body ended early")]
    BodyCutOff,
    /// Nobody serves anything, and the request names no model that could be named in the error.
    #[error("no model is served at the moment: no worker is ready")]
    NothingServed,
    /// The body is compressed, or of a type that is not read here.
    #[error("{0}")]
    UnsupportedMedia(String),
    #[error("no such endpoint: {method} {path}")]
    NoEndpoint { method: String, path: String },
    #[error("{method} is not allowed here, only {allow}")]
    MethodNotAllowed { method: String, allow: Arc<str> },
    /// No key, or one that is not known.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A known key that may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The caller is over a limit of its own: so many requests, tokens or connections at once.
    #[error("over the limit of {limit}; retry after {retry_after_ms} ms")]
    RateLimited { limit: String, retry_after_ms: u64 },
    /// The caller has used up what it may use in a day.
    #[error("the quota of {limit} is used up; it is renewed in {retry_after_ms} ms")]
    QuotaExceeded { limit: String, retry_after_ms: u64 },
    /// A job, file or batch that does not exist, or is another tenant's.
    #[error("no such {kind}: {id}")]
    NotFound { kind: &'static str, id: String },
    /// What is asked for cannot be done in the state that the thing is in.
    #[error("{0}")]
    Conflict(String),
    /// One message of the queue cannot carry the input of an asynchronous job.
    #[error(
        "the input takes {got} bytes, one asynchronous job carries at most {max}; send several jobs, or upload a file and \
         process it as a batch (/v1/files, /v1/batches)"
    )]
    TooLargeForQueue { got: usize, max: usize },
    /// The store of files is full, or the caller has its share of it.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// The same idempotency key came with another request.
    #[error("this idempotency key was used for another request; use a new key, or send the same body")]
    IdempotencyConflict,
}

impl Failure {
    /// Shorthand for a request that is wrong in one field.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::Job(JobError::InvalidInput { message: message.into(), param: Some(param.to_owned()) })
    }

    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Job(error) => Outcome::from(error),
            Self::UnsupportedMedia(_)
            | Self::MalformedJson(_)
            | Self::NoEndpoint { .. }
            | Self::MethodNotAllowed { .. } => Outcome::Invalid,
            Self::NothingServed => Outcome::from(&NO_WORKER),
            Self::BodyTimeout => Outcome::DeadlineExceeded,
            Self::BodyCutOff => Outcome::Cancelled,
            Self::Unauthorized(_) | Self::Forbidden(_) => Outcome::Unauthorized,
            Self::RateLimited { .. } => Outcome::RateLimited,
            Self::QuotaExceeded { .. } => Outcome::QuotaExceeded,
            Self::NoRoom(NoRoom::Store) => Outcome::Overloaded,
            Self::NoRoom(NoRoom::Share { .. }) => Outcome::QuotaExceeded,
            Self::NotFound { .. } | Self::Conflict(_) | Self::IdempotencyConflict | Self::TooLargeForQueue { .. } => {
                Outcome::Invalid
            }
        }
    }

    /// What may be logged of it: status and code, never its text, which can repeat what the client sent.
    pub fn for_logs(&self) -> (u16, &'static str) {
        let answer = http_answer(self, Dialect::OpenAi);
        (answer.status.as_u16(), answer.complaint.code.unwrap_or(answer.complaint.kind))
    }

    /// The body alone, as it is kept and shown elsewhere.
    pub fn body(&self, dialect: Dialect) -> bytes::Bytes {
        dialect.error_body(&http_answer(self, dialect).complaint)
    }

    /// The whole response, except for what every response carries.
    pub fn into_response(self, dialect: Dialect) -> Response<Body> {
        let answer = http_answer(&self, dialect);
        let body = dialect.error_body(&answer.complaint);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match answer.retry {
            Retry::Unsaid => {}
            Retry::Pointless => {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::After(wait) => {
                let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
            }
        }
        if let Self::MethodNotAllowed { allow, .. } = &self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(ALLOW, allow);
        }
        if let Self::Unauthorized(_) = &self {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What the client is told about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// The status says enough.
    Unsaid,
    After(Duration),
    /// The same request gets the same answer, whatever the status suggests.
    Pointless,
}

/// One cell of the table.
#[derive(Debug, PartialEq)]
struct Answer<'a> {
    status: StatusCode,
    complaint: Complaint<'a>,
    retry: Retry,
}

impl<'a> Answer<'a> {
    fn new(status: StatusCode, kind: &'static str, message: impl ToString) -> Self {
        let complaint = Complaint { message: message.to_string(), kind, code: None, param: None };
        Self { status, complaint, retry: Retry::Unsaid }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.complaint.code = Some(code);
        self
    }

    fn param(mut self, param: Option<&'a str>) -> Self {
        self.complaint.param = param;
        self
    }

    fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

/// The table.
fn answer(error: &JobError, dialect: Dialect) -> Answer<'_> {
    match dialect {
        Dialect::OpenAi => openai(error),
        Dialect::Tei => tei(error),
    }
}

/// The column of OpenAI. Its clients try again on 408, 409, 429 and everything from 500.
fn openai(error: &JobError) -> Answer<'_> {
    let wrong = |status| Answer::new(status, "invalid_request_error", error);
    let failed = |status| Answer::new(status, "server_error", error);
    match error {
        JobError::InvalidInput { param, .. } => wrong(StatusCode::BAD_REQUEST).param(param.as_deref()),
        JobError::InputTooLong { .. } => {
            wrong(StatusCode::BAD_REQUEST).code("context_length_exceeded").param(Some("input"))
        }
        JobError::ModelNotFound { .. } => wrong(StatusCode::NOT_FOUND).code("model_not_found").param(Some("model")),
        JobError::PayloadTooLarge { .. } => wrong(StatusCode::PAYLOAD_TOO_LARGE).code("request_too_large"),
        JobError::TooManyInputs { .. } => wrong(StatusCode::BAD_REQUEST).code("too_many_inputs").param(Some("input")),
        // Our capacity: 429 is for a caller over its own limit.
        JobError::Overloaded { retry_after_ms } => {
            failed(StatusCode::SERVICE_UNAVAILABLE).code("overloaded").retry(after_millis(*retry_after_ms))
        }
        JobError::NoWorker { .. } => failed(StatusCode::SERVICE_UNAVAILABLE).code("no_worker").retry(SOON),
        JobError::BrokerUnavailable => failed(StatusCode::SERVICE_UNAVAILABLE).code("broker_unavailable").retry(SOON),
        JobError::DeadlineExceeded => failed(StatusCode::GATEWAY_TIMEOUT).code("deadline_exceeded"),
        JobError::DeadlineUnreachable { retry_after_ms, .. } => {
            failed(StatusCode::SERVICE_UNAVAILABLE).code("deadline_unreachable").retry(after_millis(*retry_after_ms))
        }
        JobError::DeadLettered { .. } => {
            failed(StatusCode::INTERNAL_SERVER_ERROR).code("dead_lettered").retry(Retry::Pointless)
        }
        JobError::Cancelled => failed(client_closed_request()).code("cancelled"),
        JobError::BadOutput { .. } => {
            failed(StatusCode::INTERNAL_SERVER_ERROR).code("bad_output").retry(Retry::Pointless)
        }
        JobError::Internal => failed(StatusCode::INTERNAL_SERVER_ERROR).code("internal_error"),
    }
}

/// The column of text-embeddings-inference, in its own words where it has some. It knows neither `code` nor `param`.
fn tei(error: &JobError) -> Answer<'_> {
    let wrong = |status, message: String| Answer::new(status, "Validation", message);
    let unhealthy = || Answer::new(StatusCode::SERVICE_UNAVAILABLE, "Unhealthy", error).retry(SOON);
    match error {
        JobError::InvalidInput { message, .. } => {
            wrong(StatusCode::UNPROCESSABLE_ENTITY, format!("Input validation error: {message}"))
        }
        JobError::InputTooLong { got, max } => wrong(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Input validation error: `inputs` must have less than {max} tokens. Given: {got}"),
        ),
        JobError::ModelNotFound { .. } => wrong(StatusCode::NOT_FOUND, error.to_string()),
        JobError::PayloadTooLarge { .. } => wrong(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        JobError::TooManyInputs { got, max } => {
            wrong(StatusCode::PAYLOAD_TOO_LARGE, format!("batch size {got} > maximum allowed batch size {max}"))
        }
        JobError::Overloaded { retry_after_ms } => {
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "Overloaded", error).retry(after_millis(*retry_after_ms))
        }
        JobError::DeadlineUnreachable { retry_after_ms, .. } => {
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "Overloaded", error).retry(after_millis(*retry_after_ms))
        }
        JobError::DeadLettered { .. } => {
            Answer::new(StatusCode::FAILED_DEPENDENCY, "Backend", error).retry(Retry::Pointless)
        }
        JobError::NoWorker { .. } | JobError::BrokerUnavailable => unhealthy(),
        JobError::DeadlineExceeded => Answer::new(StatusCode::GATEWAY_TIMEOUT, "Overloaded", error),
        JobError::Cancelled => Answer::new(client_closed_request(), "Backend", error),
        JobError::BadOutput { .. } => {
            Answer::new(StatusCode::FAILED_DEPENDENCY, "Backend", error).retry(Retry::Pointless)
        }
        JobError::Internal => Answer::new(StatusCode::INTERNAL_SERVER_ERROR, "Backend", error),
    }
}

/// Failures that only HTTP knows: the same status in every dialect.
fn http_answer(failure: &Failure, dialect: Dialect) -> Answer<'_> {
    let mut retry = Retry::Unsaid;
    let mut code = None;
    let status = match failure {
        Failure::Job(error) => return answer(error, dialect),
        Failure::NothingServed => {
            let mut answer = answer(&NO_WORKER, dialect);
            answer.complaint.message = failure.to_string();
            return answer;
        }
        Failure::Unauthorized(_) => {
            code = Some("invalid_api_key");
            StatusCode::UNAUTHORIZED
        }
        Failure::Forbidden(_) => {
            code = Some("forbidden");
            StatusCode::FORBIDDEN
        }
        Failure::RateLimited { retry_after_ms, .. } => {
            (code, retry) = (Some("rate_limit_exceeded"), after_millis(*retry_after_ms));
            StatusCode::TOO_MANY_REQUESTS
        }
        Failure::QuotaExceeded { retry_after_ms, .. } => {
            (code, retry) = (Some("insufficient_quota"), after_millis(*retry_after_ms));
            StatusCode::TOO_MANY_REQUESTS
        }
        Failure::NotFound { .. } => {
            code = Some("not_found");
            StatusCode::NOT_FOUND
        }
        Failure::Conflict(_) => {
            (code, retry) = (Some("conflict"), Retry::Pointless);
            StatusCode::CONFLICT
        }
        Failure::TooLargeForQueue { .. } => {
            code = Some("request_too_large");
            StatusCode::PAYLOAD_TOO_LARGE
        }
        // The same words and figures come back until somebody removes something: a client's own retries do not help.
        Failure::NoRoom(NoRoom::Store) => {
            (code, retry) = (Some("insufficient_storage"), Retry::Pointless);
            StatusCode::INSUFFICIENT_STORAGE
        }
        Failure::NoRoom(NoRoom::Share { .. }) => {
            (code, retry) = (Some("insufficient_quota"), Retry::Pointless);
            StatusCode::TOO_MANY_REQUESTS
        }
        Failure::IdempotencyConflict => {
            code = Some("idempotency_key_reused");
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Failure::MalformedJson(_) | Failure::BodyCutOff => StatusCode::BAD_REQUEST,
        Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Failure::UnsupportedMedia(_) => {
            code = Some("unsupported_media_type");
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        Failure::NoEndpoint { .. } => StatusCode::NOT_FOUND,
        Failure::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
    };
    let kind = match dialect {
        Dialect::OpenAi => "invalid_request_error",
        Dialect::Tei => "Validation",
    };
    let mut answer = Answer::new(status, kind, failure).retry(retry);
    answer.complaint.code = code;
    answer
}

/// What having no model at all is like.
static NO_WORKER: JobError = JobError::NoWorker { model: String::new() };

/// Every status beside 200 that the answer to an inference request can have, in any dialect.
pub const INFERENCE_STATUSES: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 422, 424, 429, 499, 500, 503, 504];

/// What a client should wait when nothing better is known.
const SOON: Retry = Retry::After(Duration::from_secs(1));

const fn after_millis(millis: u64) -> Retry {
    Retry::After(Duration::from_millis(millis))
}

/// 499, as nginx counts requests whose client went away.
pub fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
