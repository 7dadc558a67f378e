//! Encoders without weights: `identity` answers at once, `simulated` after a set time ([`super::simulated`]).
//!
//! They stand in for a device in tests and measurements, so that the path around the engine is seen alone. Both answer with
//! four floats that depend on nothing but the row's ids: a caller can verify that its answer belongs to its question.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use super::batch::{Embeddings, TokenBatch};
use super::simulated::{Simulated, SimulatedConfig};
use super::{Encoder, EngineError, LoadedModel, ModelInfo, Pooling};
use crate::tokenize::{Tokenize, TokenizeError};
use forebay_shared::model;

/// Length of the vectors that the built-in encoders answer with.
pub const DIMENSIONS: usize = 4;
const MAX_TOKENS: usize = 8192;
const VOCAB_SIZE: usize = 1 << 16;

/// `identity`, ready to serve.
pub fn identity() -> LoadedModel {
    loaded("identity", Box::new(Identity))
}

/// `simulated`, ready to serve.
pub fn simulated(config: SimulatedConfig) -> LoadedModel {
    loaded("simulated", Box::new(Simulated::new(config)))
}

fn loaded(name: &str, encoder: Box<dyn Encoder>) -> LoadedModel {
    let (dtype, pooling) = ("f32", Pooling::Mean);
    let info = ModelInfo {
        name: name.to_owned(),
        token: model::token(name, "builtin", dtype, pooling.as_str(), false),
        architecture: name.to_owned(),
        dtype: dtype.to_owned(),
        dimensions: DIMENSIONS,
        max_tokens: MAX_TOKENS,
        pooling,
        normalize: false,
        matryoshka_dimensions: Vec::new(),
        vocab_size: VOCAB_SIZE,
        weights_digest: "builtin".to_owned(),
        size_bytes: 0,
        training_loss: None,
        validation_loss: None,
    };
    LoadedModel { info, tokenizer: Arc::new(WordHashes), encoder }
}

/// Digest of the ids, spread over four floats in `[-1, 1)`.
fn digest(ids: &[u32]) -> [f32; DIMENSIONS] {
    let mut hash = FxHasher::default();
    ids.iter().for_each(|id| hash.write_u32(*id));
    let bits = hash.finish();
    std::array::from_fn(|i| ((bits >> (16 * i)) as u16) as f32 / 32768.0 - 1.0)
}

pub(super) fn answer(batch: &TokenBatch) -> Embeddings {
    let mut out = Embeddings::zeros(batch.rows(), DIMENSIONS);
    for (row, ids) in batch.iter().enumerate() {
        out.row_mut(row).copy_from_slice(&digest(ids));
    }
    out
}

struct Identity;

impl Encoder for Identity {
    fn encode(&mut self, batch: &TokenBatch) -> Result<Embeddings, EngineError> {
        Ok(answer(batch))
    }

    fn runs_inline(&self) -> bool {
        true
    }
}

/// Id of a word in the built-in vocabulary.
pub fn word_id(word: &str) -> u32 {
    let mut hash = FxHasher::default();
    hash.write(word.as_bytes());
    (hash.finish() >> 32) as u32 % VOCAB_SIZE as u32
}

/// One token per word (at least one per text), its id a hash of the word: no vocabulary, no normalisation.
struct WordHashes;

impl Tokenize for WordHashes {
    fn encode(&self, text: &str, truncate: bool, out: &mut Vec<u32>) -> Result<usize, TokenizeError> {
        let start = out.len();
        for word in text.split_ascii_whitespace() {
            out.push(word_id(word));
        }
        if out.len() == start {
            out.push(0);
        }
        let got = out.len() - start;
        if got > MAX_TOKENS {
            out.truncate(if truncate { start + MAX_TOKENS } else { start });
            if !truncate {
                return Err(TokenizeError::TooLong { got, max: MAX_TOKENS });
            }
        }
        Ok(got)
    }

    fn max_tokens(&self) -> usize {
        MAX_TOKENS
    }

    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_depends_on_its_own_row_only() {
        let mut model = identity();
        let alone = model.encoder.encode(&TokenBatch::from_rows([[1, 2, 3]])).unwrap();
        let among = model.encoder.encode(&TokenBatch::from_rows([vec![9], vec![1, 2, 3], vec![3, 2, 1]])).unwrap();
        assert_eq!(alone.row(0), among.row(1));
        assert_ne!(among.row(1), among.row(2));
        assert_eq!(among.dim(), model.info.dimensions);
    }

    #[test]
    fn words_are_counted_and_truncated() {
        let model = identity();
        let mut ids = vec![7];
        assert_eq!(model.tokenizer.encode("two words", false, &mut ids), Ok(2));
        assert_eq!(model.tokenizer.encode("", false, &mut ids), Ok(1));
        assert_eq!((ids.len(), ids[0]), (4, 7));
        let long = "w ".repeat(MAX_TOKENS + 1);
        let error = model.tokenizer.encode(&long, false, &mut ids);
        assert_eq!(error, Err(TokenizeError::TooLong { got: MAX_TOKENS + 1, max: MAX_TOKENS }));
        assert_eq!(ids.len(), 4);
        assert_eq!(model.tokenizer.encode(&long, true, &mut ids), Ok(MAX_TOKENS + 1));
        assert_eq!(ids.len(), 4 + MAX_TOKENS);
    }
}
