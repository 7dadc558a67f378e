//! One line of an input file: what it must say, and what is written about it. Pure.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::record::InputError;

/// The only endpoint that batches can be made of so far.
pub const ENDPOINT: &str = "/v1/embeddings";

/// A line that is worth running.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub custom_id: String,
    /// The body of the request, as JSON.
    pub body: Vec<u8>,
    /// How many inputs it has, at least one.
    pub rows: usize,
}

/// Reads the line with this number, counted from 1.
///
/// # Errors
/// [`InputError`] as OpenAI words them, naming the line.
pub fn read(text: &[u8], number: u64) -> Result<Line, InputError> {
    let fault = |code: &str, param: Option<&str>, message: String| InputError {
        code: code.to_owned(),
        message,
        param: param.map(str::to_owned),
        line: Some(number),
    };
    let mut fields: Map<String, Value> = serde_json::from_slice(text).map_err(|error| {
        // The position is the parser's, its text may quote the input: kinds only.
        let message = format!("This line is not parseable as a JSON object (column {}).", error.column());
        fault("invalid_json_line", None, message)
    })?;
    let mut text_of = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => {
            Err(fault("missing_required_parameter", Some(name), format!("Missing required parameter: '{name}'.")))
        }
        Some(_) => Err(fault("invalid_type", Some(name), format!("'{name}' must be a string."))),
    };
    let (custom_id, method, url) = (text_of("custom_id")?, text_of("method")?, text_of("url")?);
    if method != "POST" {
        return Err(fault("invalid_method", Some("method"), "The method of a request must be 'POST'.".to_owned()));
    }
    if url != ENDPOINT {
        let message = format!("The URL provided for this request does not match the batch endpoint, '{ENDPOINT}'.");
        return Err(fault("mismatched_url", Some("url"), message));
    }
    let Some(Value::Object(body)) = fields.remove("body") else {
        return Err(fault("invalid_request", Some("body"), "'body' must be a JSON object.".to_owned()));
    };
    match body.get("model") {
        Some(Value::String(model)) if !model.is_empty() => {}
        _ => {
            let message = "Missing required parameter: 'body.model'.".to_owned();
            return Err(fault("missing_required_parameter", Some("body.model"), message));
        }
    }
    let rows = match body.get("input") {
        Some(Value::Array(inputs)) if !inputs.first().is_some_and(Value::is_number) => inputs.len().max(1),
        _ => 1,
    };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    Ok(Line { custom_id, body, rows })
}

/// Which line of which batch, in few digits: the id of its answer is made of it, the same in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineKey([u8; 16]);

impl LineKey {
    /// `index` counts all lines of the batch from 0.
    pub fn new(batch: &str, index: u64) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("{batch}:{index}")).into();
        Self(std::array::from_fn(|i| digest[i]))
    }

    fn hex(self) -> String {
        forebay_shared::ids::hex(&self.0)
    }
}

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was answered, if not always with what was wished for; the body is JSON.
    Answered { status: u16, body: Vec<u8> },
    /// It was not run.
    Skipped(Skip),
}

/// Why a line was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    Cancelled,
    Expired,
}

/// Appends the line of the output or error file that tells `end`.
pub fn write(out: &mut Vec<u8>, key: LineKey, custom_id: &str, end: &End) {
    let id = key.hex();
    out.extend_from_slice(br#"{"id":"batch_req_"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#"","custom_id":"#);
    // Writing a string to a vector cannot fail.
    let _infallible = serde_json::to_writer(&mut *out, custom_id);
    match end {
        End::Answered { status, body } => {
            out.extend_from_slice(br#","response":{"status_code":"#);
            out.extend_from_slice(itoa::Buffer::new().format(*status).as_bytes());
            out.extend_from_slice(br#","request_id":""#);
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(br#"","body":"#);
            out.extend_from_slice(body);
            out.extend_from_slice(br#"},"error":null}"#);
        }
        End::Skipped(skip) => {
            let (code, message) = match skip {
                Skip::Cancelled => ("batch_cancelled", "This request was not executed: the batch was cancelled."),
                Skip::Expired => {
                    ("batch_expired", "This request could not be executed before the completion window expired.")
                }
            };
            out.extend_from_slice(br#","response":null,"error":{"code":""#);
            out.extend_from_slice(code.as_bytes());
            out.extend_from_slice(br#"","message":""#);
            out.extend_from_slice(message.as_bytes());
            out.extend_from_slice(br#""}}"#);
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
