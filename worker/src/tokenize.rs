//! Text to token ids (between intake ④ and batcher ⑤ on the data path).
//!
//! Tokenisers are shared by several threads and hold no state of a request. What they write to comes from a pool
//! ([`buffers`]), because a fresh vector per request is measurable when requests take microseconds.
//! Padding and fixed truncation that a `tokenizer.json` may ask for are overridden: rows stay ragged, and the longest
//! input is the model's, not the tokeniser file's.

pub mod buffers;

use std::path::Path;

use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

use crate::models::{ModelError, error::one_line};

/// Why an input has no token ids. Always the caller's fault, except `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    #[error("input has {got} tokens, the model accepts at most {max}")]
    TooLong { got: usize, max: usize },
    #[error("token id {id} is not in the vocabulary of {vocab_size}")]
    UnknownId { id: u32, vocab_size: usize },
    #[error("input has no tokens")]
    Empty,
    #[error("tokenizer failed: {0}")]
    Failed(String),
}

/// Text or given ids to ids that the model's encoder accepts.
pub trait Tokenize: Send + Sync {
    /// Appends the ids of `text`, special tokens included, to `out`.
    ///
    /// Returns the number of tokens before truncation, special tokens included.
    ///
    /// # Errors
    /// [`TokenizeError::TooLong`] if there are more than [`max_tokens`](Self::max_tokens) and `truncate` is off.
    /// `out` is left as it was found.
    fn encode(&self, text: &str, truncate: bool, out: &mut Vec<u32>) -> Result<usize, TokenizeError>;

    /// Appends ids that a caller tokenised itself, as they are: no special tokens are added.
    ///
    /// Returns the number of ids before truncation.
    ///
    /// # Errors
    /// [`TokenizeError::Empty`], [`TokenizeError::TooLong`] as in [`encode`](Self::encode), and
    /// [`TokenizeError::UnknownId`] for the first id `>= vocab_size`. `out` is left as it was found.
    fn check_ids(&self, ids: &[u32], truncate: bool, out: &mut Vec<u32>) -> Result<usize, TokenizeError> {
        let (got, max, vocab_size) = (ids.len(), self.max_tokens(), self.vocab_size());
        if ids.is_empty() {
            return Err(TokenizeError::Empty);
        }
        if got > max && !truncate {
            return Err(TokenizeError::TooLong { got, max });
        }
        if let Some(id) = ids.iter().copied().find(|id| *id as usize >= vocab_size) {
            return Err(TokenizeError::UnknownId { id, vocab_size });
        }
        out.extend_from_slice(&ids[..got.min(max)]);
        Ok(got)
    }

    /// Most tokens of one input, special tokens included.
    fn max_tokens(&self) -> usize;

    /// Number of ids the model has a vector for.
    fn vocab_size(&self) -> usize;
}

/// A `tokenizer.json`, with the model's own limits.
pub struct HubTokenizer {
    tokenizer: Tokenizer,
    direction: TruncationDirection,
    /// Special tokens that a single text is wrapped in.
    added_tokens: usize,
    max_tokens: usize,
    vocab_size: usize,
}

impl HubTokenizer {
    /// Reads `tokenizer.json`; `max_tokens` and `vocab_size` are the model's.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the file cannot be read, or wraps a text in more special tokens than the model accepts.
    pub fn open(path: &Path, max_tokens: usize, vocab_size: usize) -> Result<Self, ModelError> {
        let fail = |reason: String| ModelError::Tokenizer { path: path.to_owned(), reason: one_line(&reason) };
        let mut tokenizer = Tokenizer::from_file(path).map_err(|error| fail(error.to_string()))?;
        let direction = tokenizer.get_truncation().map_or(TruncationDirection::Right, |params| params.direction);
        tokenizer.with_truncation(None).map_err(|error| fail(error.to_string()))?;
        tokenizer.with_padding(None);
        let added_tokens = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if added_tokens >= max_tokens {
            return Err(fail(format!("it adds {added_tokens} special tokens, the model accepts {max_tokens} in all")));
        }
        Ok(Self { tokenizer, direction, added_tokens, max_tokens, vocab_size })
    }

    fn encode_whole(&self, text: &str) -> tokenizers::Result<Encoding> {
        // `encode_fast` leaves out character offsets, which nobody asks an embedding for.
        self.tokenizer.encode_fast(text, false)
    }
}

impl Tokenize for HubTokenizer {
    fn encode(&self, text: &str, truncate: bool, out: &mut Vec<u32>) -> Result<usize, TokenizeError> {
        let failed = |error: tokenizers::Error| TokenizeError::Failed(one_line(&error.to_string()));
        let mut encoding = self.encode_whole(text).map_err(failed)?;
        let (got, max) = (encoding.len() + self.added_tokens, self.max_tokens);
        if got > max {
            if !truncate {
                return Err(TokenizeError::TooLong { got, max });
            }
            encoding.truncate(max - self.added_tokens, 0, self.direction);
        }
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        if encoding.is_empty() {
            return Err(TokenizeError::Empty);
        }
        // A tokenizer.json with more tokens than the model has vectors is a broken model folder; found here, per input.
        if let Some(id) = encoding.get_ids().iter().copied().find(|id| *id as usize >= self.vocab_size) {
            return Err(TokenizeError::UnknownId { id, vocab_size: self.vocab_size });
        }
        out.extend_from_slice(encoding.get_ids());
        Ok(got)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
