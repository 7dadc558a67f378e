//! Names that cross process boundaries. Each is a type of its own, so that a boot cannot be passed for a job.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// 128 random bits, printed as 32 hexadecimal digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh identifier from the thread's cryptographic generator.
            pub fn random() -> Self {
                Self(rand::random())
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; 32];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair.copy_from_slice(&hex_byte(byte));
                }
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex(text).map(Self).ok_or(BadId)
            }
        }

        // On the wire: 16 raw bytes, not text. A bundle carries one of these per job.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(IdVisitor).map(Self)
            }
        }
    };
}

random_id! {
    /// One job: one row of work for one model. The client never chooses it.
    JobId
}
random_id! {
    /// One start of one process. A restarted process has another, so its old replies and counters cannot be confused with the new.
    BootId
}

/// The text was not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct BadId;

struct IdVisitor;

impl serde::de::Visitor<'_> for IdVisitor {
    type Value = [u8; 16];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 bytes or 32 hexadecimal digits")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<[u8; 16], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; 16], E> {
        parse_hex(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_byte(byte: u8) -> [u8; 2] {
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

/// Lower-case hexadecimal text of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| hex_byte(*byte)).map(char::from).collect()
}

/// Reads exactly `2 * N` hexadecimal digits.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}

/// A cheap-to-clone name.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    };
}

name! {
    /// The alias under which clients ask for a model, e.g. `all-MiniLM-L6-v2`.
    ModelName
}
name! {
    /// Names one exact set of weights and settings; safe as one token of a NATS subject. See [`crate::model`].
    ModelToken
}
name! {
    /// A process' stable name, e.g. `worker-1`: survives its restarts, unlike [`BootId`].
    ProcessName
}

name! {
    /// Who a request is counted for and limited with. [`TenantName::DEFAULT`] where no keys are configured.
    TenantName
}

impl TenantName {
    pub const DEFAULT: &str = "default";
}

impl Default for TenantName {
    fn default() -> Self {
        Self::from(Self::DEFAULT)
    }
}

/// What a process is for. Selects its metrics and its place in service discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Api,
    Worker,
    Aggregator,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Aggregator => "aggregator",
        }
    }
}

/// Order of service. A lower lane progresses even when the higher ones never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    High,
    Normal,
    Low,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    pub const fn index(self) -> usize {
        self as usize
    }
}

impl FromStr for Lane {
    type Err = BadLane;
    fn from_str(text: &str) -> Result<Self, BadLane> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text).ok_or(BadLane)
    }
}

/// The text names no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of high, normal, low")]
pub struct BadLane;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_wire() {
        let id = JobId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        let wire = rmp_serde::to_vec(&id).unwrap();
        assert_eq!(wire.len(), 18, "marker, length, 16 bytes");
        assert_eq!(rmp_serde::from_slice::<JobId>(&wire).unwrap(), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
    }

    #[test]
    fn a_short_id_is_refused() {
        assert_eq!("abc".parse::<JobId>(), Err(BadId));
        assert_eq!("zz".repeat(16).parse::<BootId>(), Err(BadId));
    }
}
