//! What the fleet knows about a model: the record a worker registers and every api reads.
//!
//! Alias → token lives in one KV bucket and switches atomically. A request pins the token when it is admitted.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ModelName, ModelToken, hex};

/// Kept in the bucket of [`crate::streams::MODELS_BUCKET`] under [`record_key`] of its name, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    pub name: ModelName,
    pub token: ModelToken,
    /// `bert`, `identity` …
    pub architecture: String,
    pub dtype: String,
    /// Length of a vector.
    pub dimensions: u32,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: u32,
    pub pooling: String,
    pub normalize: bool,
    /// Lengths to which a vector may be cut; empty when the model was not trained for that.
    #[serde(default)]
    pub matryoshka_dimensions: Vec<u32>,
    /// Unix seconds of the first registration.
    pub created: u64,
}

/// Key of a model's record: KV keys allow few characters and model names many, so the key is a digest.
pub fn record_key(name: &ModelName) -> String {
    format!("{}-{}", slug(name.as_str()), &hex(&Sha256::digest(name.as_str()))[..10])
}

/// Longest readable part of a token.
const SLUG_CHARS: usize = 40;

/// Readable part of a token: lower case, everything outside `[a-z0-9_-]` becomes `-`, runs collapse, at most 40 characters.
pub fn slug(name: &str) -> String {
    let mut out = String::with_capacity(SLUG_CHARS);
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        if c == '-' && (out.is_empty() || out.ends_with('-')) {
            continue;
        }
        if out.len() == SLUG_CHARS {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end_matches('-').len());
    if out.is_empty() { "model".to_owned() } else { out }
}

/// Names exactly one behaviour: the slug of the name and ten digits of a hash over everything that changes an answer.
pub fn token(name: &str, weights_digest: &str, dtype: &str, pooling: &str, normalize: bool) -> ModelToken {
    let mut hash = Sha256::new();
    for part in [name, weights_digest, dtype, pooling, if normalize { "normalized" } else { "raw" }] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    ModelToken::new(format!("{}-{}", slug(name), &hex(&hash.finalize())[..10]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_safe_subject_token() {
        let token = token("org/My Model.v2*>", "digest", "f32", "mean", true);
        assert!(token.as_str().starts_with("org-my-model-v2-"), "{token}");
        assert!(token.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert!(super::token(&"x".repeat(300), "d", "f32", "mean", true).as_str().len() <= 51);
    }

    /// It lies in the bucket for as long as there is a model, and every api reads it: fields may be added, with a default.
    #[test]
    fn the_record_of_a_model_is_frozen() {
        let record = ModelRecord {
            name: "org/m".into(),
            token: "org-m-0123456789".into(),
            architecture: "bert".to_owned(),
            dtype: "f32".to_owned(),
            dimensions: 384,
            max_tokens: 256,
            pooling: "mean".to_owned(),
            normalize: true,
            matryoshka_dimensions: vec![64, 128],
            created: 1_800_000_000,
        };
        assert_eq!(serde_json::to_string(&record).unwrap(), RECORD);
        assert_eq!(serde_json::from_str::<ModelRecord>(RECORD).unwrap(), record);
        let older = RECORD.replace(r#""matryoshka_dimensions":[64,128],"#, "");
        assert_eq!(serde_json::from_str::<ModelRecord>(&older).unwrap().matryoshka_dimensions, [] as [u32; 0]);
    }

    const RECORD: &str = r#"{"name":"org/m","token":"org-m-0123456789","architecture":"bert","dtype":"f32","dimensions":384,"max_tokens":256,"pooling":"mean","normalize":true,"matryoshka_dimensions":[64,128],"created":1800000000}"#;

    #[test]
    fn a_slug_is_readable_whatever_the_name() {
        assert_eq!(slug("BAAI/bge-small-en-v1.5"), "baai-bge-small-en-v1-5");
        assert_eq!(slug("../../.."), "model");
        assert!(!slug(&"x.".repeat(100)).ends_with('-'));
    }

    #[test]
    fn anything_that_changes_an_answer_changes_the_token() {
        let base = token("m", "digest", "f32", "mean", true);
        assert_ne!(base, token("m", "digest2", "f32", "mean", true));
        assert_ne!(base, token("m", "digest", "bf16", "mean", true));
        assert_ne!(base, token("m", "digest", "f32", "cls", true));
        assert_ne!(base, token("m", "digest", "f32", "mean", false));
        assert_ne!(token("ab", "c", "", "", true), token("a", "bc", "", "", true));
    }
}
