//! Vectors as text: one buffer per answer, sized before it is written.
//!
//! Numbers are the shortest that read back as the same `f32`, so a float answer and a base64 answer hold equal vectors.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay_shared::error::JobError;
use forebay_shared::job::Output;

use crate::dialect::Dialect;
use crate::validate::embed::Encoding;

/// Bytes of one number in JSON, comma included: what most need, for sizing only.
const NUMBER_BYTES: usize = 13;
/// Bytes of JSON around one vector.
const FRAME_BYTES: usize = 64;
/// How much is written before other requests on this thread get their turn.
const TURN_BYTES: usize = 256 * 1024;

/// The body of an answer with these vectors, in order.
///
/// # Errors
/// [`JobError::BadOutput`] if a vector holds a value that is no finite number, or not a whole number of them.
pub async fn body(outputs: &[Output], model: &str, dialect: Dialect, encoding: Encoding) -> Result<Vec<u8>, JobError> {
    let mut out = Vec::with_capacity(capacity(outputs, model, encoding));
    let mut turn_ends = TURN_BYTES;
    out.extend_from_slice(match dialect {
        Dialect::OpenAi => br#"{"object":"list","data":["#,
        Dialect::Tei => b"[",
    });
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        check(&output.vector)?;
        match dialect {
            Dialect::OpenAi => {
                out.extend_from_slice(br#"{"object":"embedding","index":"#);
                out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
                out.extend_from_slice(br#","embedding":"#);
                match encoding {
                    Encoding::Float => write_numbers(&mut out, &output.vector),
                    Encoding::Base64 => write_base64(&mut out, &output.vector),
                }
                out.push(b'}');
            }
            Dialect::Tei => write_numbers(&mut out, &output.vector),
        }
        if out.len() > turn_ends {
            turn_ends = out.len() + TURN_BYTES;
            tokio::task::yield_now().await;
        }
    }
    match dialect {
        Dialect::OpenAi => write_end(&mut out, model, tokens(outputs)),
        Dialect::Tei => out.push(b']'),
    }
    Ok(out)
}

/// Tokens of all rows.
pub fn tokens(outputs: &[Output]) -> u64 {
    outputs.iter().map(|output| u64::from(output.tokens)).sum()
}

fn capacity(outputs: &[Output], model: &str, encoding: Encoding) -> usize {
    let vectors: usize = outputs.iter().map(|output| output.vector.len()).sum();
    let text = match encoding {
        Encoding::Float => vectors / size_of::<f32>() * NUMBER_BYTES,
        Encoding::Base64 => vectors.div_ceil(3) * 4,
    };
    text + (outputs.len() + 2) * FRAME_BYTES + model.len()
}

fn write_end(out: &mut Vec<u8>, model: &str, tokens: u64) {
    out.extend_from_slice(br#"],"model":"#);
    // Writing a string to a vector cannot fail.
    let _infallible = serde_json::to_writer(&mut *out, model);
    let mut number = itoa::Buffer::new();
    let tokens = number.format(tokens).as_bytes();
    out.extend_from_slice(br#","usage":{"prompt_tokens":"#);
    out.extend_from_slice(tokens);
    out.extend_from_slice(br#","total_tokens":"#);
    out.extend_from_slice(tokens);
    out.extend_from_slice(b"}}");
}

/// Little-endian `f32` of a vector.
fn numbers(vector: &[u8]) -> impl Iterator<Item = f32> {
    vector.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

fn check(vector: &[u8]) -> Result<(), JobError> {
    if !vector.len().is_multiple_of(size_of::<f32>()) {
        return Err(JobError::BadOutput { kind: "cut off".to_owned() });
    }
    // A fold instead of `all`: without the early exit it is vectorised.
    if numbers(vector).fold(true, |finite, number| finite & number.is_finite()) {
        Ok(())
    } else {
        Err(JobError::BadOutput { kind: "not finite".to_owned() })
    }
}

fn write_numbers(out: &mut Vec<u8>, vector: &[u8]) {
    let mut buffer = zmij::Buffer::new();
    out.push(b'[');
    let start = out.len();
    for number in numbers(vector) {
        out.extend_from_slice(buffer.format_finite(number).as_bytes());
        out.push(b',');
    }
    if out.len() > start {
        out.pop();
    }
    out.push(b']');
}

fn write_base64(out: &mut Vec<u8>, vector: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + vector.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(vector, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
    out.push(b'"');
}

#[cfg(test)]
#[path = "vectors_tests.rs"]
mod tests;
