//! Names of keys. A process' part holds only what KV keys allow; `=` marks what belongs to no process.

use forebay_shared::ids::{BootId, ProcessName, parse_hex};
use forebay_shared::stats::LayoutHash;

pub const TOTAL: &str = "=total";
const LAYOUT: &str = "=layout.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Boot(BootId),
    Layout(LayoutHash),
    Total,
}

impl Key {
    pub fn parse(key: &str) -> Option<Self> {
        if key == TOTAL {
            return Some(Self::Total);
        }
        if let Some(hash) = key.strip_prefix(LAYOUT) {
            return parse_hex(hash).map(LayoutHash).map(Self::Layout);
        }
        let (_process, boot) = key.rsplit_once('.')?;
        boot.parse().ok().map(Self::Boot)
    }
}

/// The boot alone makes the key unique; the name is there for people who look into the bucket.
pub fn boot(process: &ProcessName, boot: BootId) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = process.as_str().chars().take(80).map(allowed).collect();
    format!("{}.{boot}", if name.is_empty() { "_" } else { &name })
}

pub fn layout(hash: LayoutHash) -> String {
    format!("{LAYOUT}{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_read_back() {
        let id = BootId::random();
        for name in ["worker-1", "a host.with dots/and more", "=total", ""] {
            assert_eq!(Key::parse(&boot(&name.into(), id)), Some(Key::Boot(id)));
        }
        assert_eq!(Key::parse(&layout(LayoutHash([9; 16]))), Some(Key::Layout(LayoutHash([9; 16]))));
        assert_eq!(Key::parse(TOTAL), Some(Key::Total));
        assert_eq!(Key::parse("something else"), None);
    }
}
