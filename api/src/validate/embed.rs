//! What the options of an embedding request mean, in either dialect.

use forebay_shared::job::EmbedParams;
use forebay_shared::model::ModelRecord;

use super::body::Fields;
use crate::dialect::Dialect;
use crate::error::Failure;

/// How vectors are written into the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON numbers.
    Float,
    /// Base64 of little-endian `f32`, standard alphabet, padded.
    Base64,
}

/// How to embed and how to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    pub params: EmbedParams,
    pub encoding: Encoding,
}

/// Reads the options that `dialect` knows and checks them against what `model` can do.
///
/// # Errors
/// [`Failure`] naming the first option that is not supported.
pub fn options(dialect: Dialect, fields: &Fields<'_>, model: &ModelRecord) -> Result<EmbedOptions, Failure> {
    let dimensions = dimensions(fields, model)?;
    let encoding = encoding(fields)?;
    match dialect {
        Dialect::OpenAi => {
            Ok(EmbedOptions { params: EmbedParams { truncate: false, normalize: None, dimensions }, encoding })
        }
        Dialect::Tei => {
            if encoding != Encoding::Float {
                let message = "`encoding_format` must be float here; base64 is spoken by /v1/embeddings";
                return Err(Failure::invalid("encoding_format", message));
            }
            refuse_prompt_and_left_truncation(fields)?;
            let truncate = fields.truncate.bool("truncate")?.unwrap_or(false);
            let normalize = fields.normalize.bool("normalize")?.unwrap_or(true);
            Ok(EmbedOptions { params: EmbedParams { truncate, normalize: Some(normalize), dimensions }, encoding })
        }
    }
}

/// A shorter vector, if the model was trained for it. Asking for all dimensions is asking for nothing.
fn dimensions(fields: &Fields<'_>, model: &ModelRecord) -> Result<Option<u32>, Failure> {
    let Some(wanted) = fields.dimensions.positive("dimensions")? else { return Ok(None) };
    if wanted == model.dimensions {
        return Ok(None);
    }
    if model.matryoshka_dimensions.contains(&wanted) {
        return Ok(Some(wanted));
    }
    let others: String = model.matryoshka_dimensions.iter().map(|dimensions| format!(", {dimensions}")).collect();
    let message = format!(
        "`dimensions` cannot be {wanted} with the model '{}', which supports: {}{others}",
        model.name, model.dimensions
    );
    Err(Failure::invalid("dimensions", message))
}

fn encoding(fields: &Fields<'_>) -> Result<Encoding, Failure> {
    match fields.encoding_format.text("encoding_format")? {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(_) => Err(Failure::invalid("encoding_format", "`encoding_format` must be float or base64")),
    }
}

fn refuse_prompt_and_left_truncation(fields: &Fields<'_>) -> Result<(), Failure> {
    if fields.prompt_name.text("prompt_name")?.is_some() {
        let message = "`prompt_name` is not supported; write the prompt in front of the input";
        return Err(Failure::invalid("prompt_name", message));
    }
    match fields.truncation_direction.text("truncation_direction")? {
        None | Some("right" | "Right") => Ok(()),
        Some(_) => {
            let message = "`truncation_direction` must be right: inputs are cut at their end";
            Err(Failure::invalid("truncation_direction", message))
        }
    }
}

#[cfg(test)]
#[path = "embed_tests.rs"]
mod tests;
