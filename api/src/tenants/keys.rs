//! API keys: how one is made, and how a presented one is recognised. Only hashes are kept, here and in the configuration.
//!
//! A key is 256 random bits, so a plain SHA-256 is enough: there is nothing to guess that a slow hash would protect.
//! [`KeyRing::find`] looks at every hash, whether or not one has matched, so that the time it takes tells nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forebay_shared::ids::{hex, parse_hex};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// What every key of ours begins with: lets a scanner for leaked secrets recognise them.
const PREFIX: &str = "fb-";

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// A key that nobody has had before.
pub fn new_key() -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// All hashes, each with the position of its tenant.
#[derive(Default)]
pub struct KeyRing(Vec<(KeyHash, u32)>);

impl KeyRing {
    pub fn new(keys: Vec<(KeyHash, u32)>) -> Self {
        Self(keys)
    }

    /// The tenant whose key this is.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let presented = KeyHash::of(key);
        let mut found = u32::MAX;
        for (hash, tenant) in &self.0 {
            found.conditional_assign(tenant, hash.0.ct_eq(&presented.0));
        }
        (found != u32::MAX).then_some(found as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_tenant_and_nothing_else_does() {
        let keys: Vec<String> = (0..5).map(|_| new_key()).collect();
        let ring = KeyRing::new((0..4).map(|i| (KeyHash::of(keys[i].as_bytes()), i as u32 / 2)).collect());
        let found: Vec<_> = keys.iter().map(|key| ring.find(key.as_bytes())).collect();
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!(ring.find(b""), None);
        assert_eq!(KeyRing::default().find(keys[0].as_bytes()), None);
    }

    #[test]
    fn keys_differ_and_are_fit_for_a_header() {
        let (one, two) = (new_key(), new_key());
        assert_ne!(one, two);
        assert_eq!(one.len(), 46);
        assert!(one.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = KeyHash::of(b"key");
        assert!(KeyHash::parse(&hash.to_hex()) == Some(hash));
        assert!(KeyHash::parse("2c70e1").is_none());
    }
}
