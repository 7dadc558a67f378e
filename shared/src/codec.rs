//! Envelopes on NATS: one version byte, then MessagePack with structs as arrays.
//!
//! Every process reads versions [`OLDEST`]`..=`[`VERSION`] and writes [`VERSION`]. Any change of a field makes a new
//! version, an appended one too: arrays of another length cannot be read. The frozen bytes of every released version are
//! tests. A message that cannot be read goes back to the queue, for a process that can.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What we write.
pub const VERSION: u8 = 1;
/// The oldest version we can still read.
pub const OLDEST: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("empty message")]
    Empty,
    /// From a newer (or much older) process: give it back for somebody who can read it.
    #[error("wire version {0} is not between {OLDEST} and {VERSION}")]
    Version(u8),
    #[error("malformed message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    #[error("cannot encode: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Encodes `value` behind the version byte.
///
/// # Errors
/// [`CodecError::Encode`] only if the type cannot be expressed in MessagePack.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(256);
    out.push(VERSION);
    rmp_serde::encode::write(&mut out, value)?;
    Ok(out.into())
}

/// # Errors
/// [`CodecError::Version`] for bytes of a version that this process does not speak; otherwise the cause.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    match payload.split_first() {
        None => Err(CodecError::Empty),
        Some((version, body)) if (OLDEST..=VERSION).contains(version) => Ok(rmp_serde::from_slice(body)?),
        Some((version, _)) => Err(CodecError::Version(*version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::JobError;
    use crate::ids::{BootId, JobId, hex};
    use crate::job::{Bundle, EmbedParams, Input, Job, Output, Reply, ReplyBatch, ReplyGroup, Task};
    use crate::trace::TraceContext;

    fn bundle() -> Bundle {
        Bundle {
            api: BootId::from_bytes([1; 16]),
            number: 7,
            jobs: vec![Job {
                id: JobId::from_bytes([2; 16]),
                enqueued_us: 1_800_000_000_000_000,
                deadline_us: 1_800_000_030_000_000,
                trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                task: Task::Embed(EmbedParams { truncate: true, normalize: None, dimensions: Some(64) }),
                input: Input::Text("gate".into()),
            }],
        }
    }

    fn replies() -> ReplyBatch {
        let reply = |outcome| Reply { id: JobId::from_bytes([2; 16]), outcome };
        ReplyBatch {
            groups: vec![ReplyGroup {
                bundle: 7,
                ack: "$JS.ACK.s.c.1.2.3.4.5".into(),
                replies: vec![
                    reply(Ok(Output { tokens: 3, vector: 1f32.to_le_bytes().to_vec() })),
                    reply(Err(JobError::InputTooLong { got: 300, max: 256 })),
                ],
            }],
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(decode::<Bundle>(&encode(&bundle()).unwrap()).unwrap(), bundle());
        assert_eq!(decode::<ReplyBatch>(&encode(&replies()).unwrap()).unwrap(), replies());
    }

    /// These bytes are on disks and in flight during a rolling update: a change here needs a new wire version.
    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        assert_eq!(hex(&encode(&bundle()).unwrap()), BUNDLE_V1);
        assert_eq!(hex(&encode(&replies()).unwrap()), REPLIES_V1);
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        assert!(matches!(decode::<Bundle>(&[9, 1, 2]), Err(CodecError::Version(9))));
        assert!(matches!(decode::<Bundle>(&[VERSION, 0xc1]), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<Bundle>(&[]), Err(CodecError::Empty)));
    }

    const BUNDLE_V1: &str = "\
        0193c41001010101010101010101010101010101079196c41002020202020202020202020202020202cf000665172898\
        8000cf000665172a62438093c4104bf92f3577b34da6a3ce929d0e0e4736c40800f067aa0ba902b70181a5456d626564\
        93c3c04081a454657874a467617465";
    const REPLIES_V1: &str = "\
        0191919307b5244a532e41434b2e732e632e312e322e332e342e359292c4100202020202020202020202020202020281\
        a24f6b9203c4040000803f92c4100202020202020202020202020202020281a345727293ae696e7075745f746f6f5f6c\
        6f6e67cd012ccd0100";
}
