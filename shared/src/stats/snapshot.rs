//! One report, as it travels.

use serde::{Deserialize, Serialize};

use super::layout::LayoutHash;
use crate::codec;
use crate::ids::{BootId, ModelName, ModelToken, ProcessName, Role};

/// Version of [`Snapshot`]. Fields may be added without raising it: unknown ones are skipped, missing ones default.
pub const WIRE_VERSION: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    Starting,
    Ready,
    Draining,
    /// The last report of an orderly exit.
    Goodbye,
}

impl ProcessState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Goodbye => "goodbye",
        }
    }
}

/// One model that a worker serves, and on what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Served {
    pub model: ModelName,
    pub token: ModelToken,
    /// `cpu`, `cuda:0`, …
    pub device: String,
}

/// Everything a process has counted since it started, and what it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u16,
    pub role: Role,
    pub process: ProcessName,
    pub boot: BootId,
    /// Rises by one per report within a boot, from 1.
    pub seq: u64,
    /// Broker time of the process' start, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Broker time of this report, milliseconds since the Unix epoch.
    pub sent_ms: u64,
    /// How often reports come, in milliseconds: three missed ones are silence.
    pub interval_ms: u32,
    /// `host:port` under which the process serves its own `/metrics`.
    #[serde(default)]
    pub address: Option<String>,
    pub state: ProcessState,
    #[serde(default)]
    pub served: Vec<Served>,
    pub layout: LayoutHash,
    /// The numbers, `f64` little endian, in the order of the layout. See [`decode_cells`].
    #[serde(with = "serde_bytes")]
    pub cells: Vec<u8>,
    /// The encoded layout itself, now and then.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub description: Option<Vec<u8>>,
}

/// Why a report cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableSnapshot {
    #[error("the report has wire version {0}, this process reads {WIRE_VERSION}")]
    Version(u16),
    #[error("the report cannot be decoded: {0}")]
    Malformed(String),
}

impl Snapshot {
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("strings, numbers and bytes always encode")
    }

    /// # Errors
    /// Another wire version, or bytes that are no snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, UnreadableSnapshot> {
        #[derive(Deserialize)]
        struct Probe {
            version: u16,
        }
        match codec::read::<Self>(bytes) {
            Ok(snapshot) if snapshot.version == WIRE_VERSION => Ok(snapshot),
            Ok(snapshot) => Err(UnreadableSnapshot::Version(snapshot.version)),
            // The shape of another version may differ; then its number is the better explanation.
            Err(error) => match codec::read::<Probe>(bytes) {
                Ok(probe) if probe.version != WIRE_VERSION => Err(UnreadableSnapshot::Version(probe.version)),
                _ => Err(UnreadableSnapshot::Malformed(error.to_string())),
            },
        }
    }
}

pub fn encode_cells(cells: &[f64]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_le_bytes()).collect()
}

/// `None` if the bytes are no whole number of cells.
pub fn decode_cells(bytes: &[u8]) -> Option<Vec<f64>> {
    let (cells, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| cells.iter().map(|cell| f64::from_le_bytes(*cell)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            version: WIRE_VERSION,
            role: Role::Worker,
            process: "worker-1".into(),
            boot: BootId::from_bytes([7; 16]),
            seq: 3,
            started_ms: 1,
            sent_ms: 2,
            interval_ms: 1000,
            address: Some("127.0.0.1:9402".into()),
            state: ProcessState::Ready,
            served: vec![Served { model: "mini".into(), token: "mini-0123456789".into(), device: "cpu".into() }],
            layout: LayoutHash([1; 16]),
            cells: encode_cells(&[1.0, 0.5]),
            description: None,
        }
    }

    #[test]
    fn a_snapshot_survives_the_wire_with_and_without_its_description() {
        for description in [None, Some(vec![1, 2, 3])] {
            let sent = Snapshot { description, ..snapshot() };
            let read = Snapshot::decode(&sent.encode()).unwrap();
            assert_eq!(decode_cells(&read.cells), Some(vec![1.0, 0.5]));
            assert_eq!(read, sent);
        }
    }

    #[test]
    fn a_field_of_a_later_release_is_skipped() {
        #[derive(Serialize)]
        struct Later {
            #[serde(flatten)]
            known: Snapshot,
            added: &'static str,
        }
        let bytes = rmp_serde::to_vec_named(&Later { known: snapshot(), added: "later" }).unwrap();
        assert_eq!(Snapshot::decode(&bytes), Ok(snapshot()));
    }

    #[test]
    fn another_version_is_named_even_if_its_shape_is_unknown() {
        #[derive(Serialize)]
        struct Other {
            version: u16,
        }
        let bytes = rmp_serde::to_vec_named(&Other { version: 9 }).unwrap();
        assert_eq!(Snapshot::decode(&bytes), Err(UnreadableSnapshot::Version(9)));
        assert!(matches!(Snapshot::decode(b"\xc1"), Err(UnreadableSnapshot::Malformed(_))));
    }

    #[test]
    fn a_torn_cell_is_refused() {
        assert_eq!(decode_cells(&[0; 15]), None);
    }
}
