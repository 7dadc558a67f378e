//! Why a job has no result: a closed set that crosses NATS and stays transport-neutral.
//!
//! The mapping to HTTP lives in `api/src/error.rs` alone. Adding a variant at the end is compatible for readers of the
//! same wire version only because an unknown one decodes as [`JobError::Internal`]; see `codec`.

use serde::{Deserialize, Serialize};

/// Why a job has no result.
///
/// Data, not prose: the text is for people, the fields are for programs. `Internal` carries nothing because its cause is
/// logged beside the job id where it happened and never sent to a client.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum JobError {
    /// The request itself is wrong; sending it again cannot help.
    #[error("{message}")]
    InvalidInput { message: String, param: Option<String> },
    #[error("this model's maximum context length is {max} tokens, however the input has {got} tokens; shorten it")]
    InputTooLong { got: u32, max: u32 },
    #[error("the model '{model}' does not exist; known models: {}", known_list(known))]
    ModelNotFound { model: String, known: Vec<String> },
    #[error("request body is larger than {max_bytes} bytes")]
    PayloadTooLarge { max_bytes: usize },
    #[error("the request has {got} inputs, at most {max} are accepted; send several requests")]
    TooManyInputs { got: usize, max: usize },
    /// Our capacity, not the caller's limit: the queue or the table of waiting requests is full.
    #[error("no capacity, retry after {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u64 },
    #[error("no worker serves the model '{model}' at the moment; start one or retry later")]
    NoWorker { model: String },
    #[error("the message broker cannot be reached; retry later")]
    BrokerUnavailable,
    #[error("deadline passed before the answer was ready")]
    DeadlineExceeded,
    #[error("the request was cancelled")]
    Cancelled,
    /// The model answered, but with a value that must not be passed on as a result.
    #[error("the model produced an unusable output ({kind})")]
    BadOutput { kind: String },
    #[error("internal error")]
    Internal,
}

fn known_list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}
