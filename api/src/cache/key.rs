//! What makes two rows of work the same: SHA-256 over all that the answer depends on, and whose it is.
//!
//! A cryptographic hash, because a client chooses the input: with a weaker one somebody could look for an input whose
//! answer is served for another. What rows of a request have in common is hashed once.

use std::hash::{Hash, Hasher};

use forebay_shared::ids::{ModelToken, TenantName};
use forebay_shared::job::{EmbedParams, Input, Task};
use sha2::{Digest, Sha256};

/// One row of work for one exact model: the token changes with the weights, so a new revision finds nothing of the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKey([u8; 32]);

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // It is a hash already.
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        hasher.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// What the rows of one request have in common.
pub struct RequestKey(Sha256);

impl RequestKey {
    /// `tenant`: whose answers these are, or `None` for everybody's. `None` if the task does not always give the same
    /// answer.
    pub fn new(tenant: Option<&TenantName>, token: &ModelToken, task: &Task) -> Option<Self> {
        let mut hash = Sha256::new();
        text(&mut hash, tenant.map_or("", TenantName::as_str));
        text(&mut hash, token.as_str());
        text(&mut hash, task.as_str());
        match task {
            // Taken apart in full, so that a new parameter cannot be forgotten here.
            Task::Embed(EmbedParams { truncate, normalize, dimensions }) => {
                let normalize = normalize.map_or(2, u8::from);
                hash.update([u8::from(*truncate), normalize, u8::from(dimensions.is_some())]);
                hash.update(dimensions.unwrap_or_default().to_le_bytes());
            }
        }
        Some(Self(hash))
    }

    pub fn row(&self, input: &Input) -> RowKey {
        let mut hash = self.0.clone();
        match input {
            Input::Text(words) => {
                hash.update([0]);
                hash.update(words.as_bytes());
            }
            Input::Tokens(ids) => {
                hash.update([1]);
                ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
            }
        }
        RowKey(hash.finalize().into())
    }
}

/// With its length, so that no two sequences of texts look alike.
fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn whatever_the_answer_depends_on_changes_the_key() {
        let (a, b) = (TenantName::from("a"), TenantName::from("b"));
        let mut keys = HashSet::new();
        for tenant in [None, Some(&a), Some(&b)] {
            for token in ["m-0123456789", "m-0123456780"] {
                for truncate in [false, true] {
                    for normalize in [None, Some(false), Some(true)] {
                        for dimensions in [None, Some(1), Some(256)] {
                            let task = Task::Embed(EmbedParams { truncate, normalize, dimensions });
                            let request = RequestKey::new(tenant, &token.into(), &task).unwrap();
                            for input in [
                                Input::Text("a".into()),
                                Input::Text("aa".into()),
                                Input::Tokens(vec![97]),
                                Input::Tokens(vec![97, 97]),
                            ] {
                                assert!(keys.insert(request.row(&input)), "{tenant:?} {token} {task:?} {input:?}");
                                assert!(!keys.insert(request.row(&input)));
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(keys.len(), 3 * 2 * 2 * 3 * 3 * 4);
    }
}
