//! Why a job has no result: a closed set that crosses NATS and stays transport-neutral.
//!
//! The mapping to HTTP lives in `api/src/error.rs` alone. A code that a reader does not know decodes as
//! [`JobError::Internal`], so that a newer worker's answer never makes a whole message unreadable.

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
    /// Refused at the door: with what waits already, the answer would come too late.
    #[error(
        "the answer would take about {estimate_ms} ms, longer than its deadline; retry after {retry_after_ms} ms or allow more time"
    )]
    DeadlineUnreachable { estimate_ms: u64, retry_after_ms: u64 },
    #[error("the request was cancelled")]
    Cancelled,
    /// The model answered, but with a value that must not be passed on as a result.
    #[error("the model produced an unusable output ({kind})")]
    BadOutput { kind: String },
    /// It was started more than once and never ended: kept as a dead letter, to be looked at.
    #[error("the job ended its worker {starts} times and was put aside; its id is {job}")]
    DeadLettered { job: String, starts: u32 },
    #[error("internal error")]
    #[serde(other)]
    Internal,
}

fn known_list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_from_a_newer_process_is_an_internal_error() {
        #[derive(Serialize)]
        struct Newer {
            code: &'static str,
            detail: u32,
        }
        let wire = rmp_serde::to_vec_named(&Newer { code: "quota_exceeded", detail: 7 }).unwrap();
        assert_eq!(rmp_serde::from_slice::<JobError>(&wire).unwrap(), JobError::Internal);
    }

    #[test]
    fn every_code_survives_the_wire() {
        for error in [
            JobError::Internal,
            JobError::DeadLettered { job: "j".to_owned(), starts: 2 },
            JobError::Cancelled,
            JobError::InputTooLong { got: 300, max: 256 },
        ] {
            let wire = rmp_serde::to_vec(&error).unwrap();
            assert_eq!(rmp_serde::from_slice::<JobError>(&wire).unwrap(), error);
        }
    }
}
