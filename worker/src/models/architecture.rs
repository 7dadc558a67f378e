//! Which file knows which architecture: the one table to extend.

use super::folder::ModelFolder;
use super::weights::Weights;
use super::{Encoder, ModelError, bert};
use crate::device::Device;

/// `model_type` values that [`build`] understands, for error messages.
pub const KNOWN: &str = "bert";

/// An encoder, and what its configuration says about its inputs and outputs.
pub struct Built {
    pub encoder: Box<dyn Encoder>,
    /// Length of an answer.
    pub dimensions: usize,
    /// Longest sequence that the model has positions for.
    pub max_positions: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
}

/// Builds the encoder that `config.json` asks for.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`], or what is wrong with configuration or weights.
pub fn build(folder: &ModelFolder, weights: Weights, device: &Device) -> Result<Built, ModelError> {
    match folder.model_type.as_str() {
        "bert" => bert::build(folder, weights, device),
        other => Err(ModelError::UnknownArchitecture { found: other.to_owned(), known: KNOWN }),
    }
}
