//! Model token: the name of a model in every subject and stream of the queue.
//!
//! `<slug>-<10 hex>`: free of dots and slashes, and different as soon as anything differs that changes the answers, so that
//! two sets of weights never share a stream, a cache key or a resumed job.

use sha2::{Digest, Sha256};

/// Longest readable part of a token.
const SLUG_CHARS: usize = 40;
/// Hex digits of the digest in a token.
const DIGEST_CHARS: usize = 10;

/// Token of a model: `slug(id)`, a dash, and 10 hex digits of sha256 over id, weights digest, dtype, pooling and normalisation.
pub fn model_token(id: &str, weights_digest: &str, dtype: &str, pooling: &str, normalize: bool) -> String {
    let mut hash = Sha256::new();
    // NUL cannot occur inside a part: without a separator, neighbouring parts could trade characters.
    for part in [id, weights_digest, dtype, pooling, if normalize { "normalize" } else { "raw" }] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    format!("{}-{}", slug(id), &hex(&hash.finalize())[..DIGEST_CHARS])
}

/// Readable part of a token: lower case, everything outside `[a-z0-9_-]` becomes `-`, runs collapse, at most 40 characters.
pub fn slug(id: &str) -> String {
    let mut out = String::with_capacity(SLUG_CHARS);
    for c in id.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        if c == '-' && (out.is_empty() || out.ends_with('-')) {
            continue;
        }
        if out.len() == SLUG_CHARS {
            break;
        }
        out.push(c);
    }
    let trimmed = out.trim_end_matches('-').len();
    out.truncate(trimmed);
    if out.is_empty() { "model".to_owned() } else { out }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_holds_only_what_a_subject_may_hold() {
        assert_eq!(slug("sentence-transformers/all-MiniLM-L6-v2"), "sentence-transformers-all-minilm-l6-v2");
        assert_eq!(slug("BAAI/bge-small-en-v1.5"), "baai-bge-small-en-v1-5");
        assert_eq!(slug("../../.."), "model");
        let long = slug(&"x.".repeat(100));
        assert!(long.len() <= 40 && !long.ends_with('-'));
    }

    #[test]
    fn every_part_changes_the_token() {
        let base = model_token("a/b", "d1", "f32", "mean", true);
        let others = [
            model_token("a/c", "d1", "f32", "mean", true),
            model_token("a-b", "d1", "f32", "mean", true),
            model_token("a/b", "d2", "f32", "mean", true),
            model_token("a/b", "d1", "bf16", "mean", true),
            model_token("a/b", "d1", "f32", "cls", true),
            model_token("a/b", "d1", "f32", "mean", false),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert!(base.starts_with("a-b-") && base.len() == "a-b-".len() + 10);
    }
}
