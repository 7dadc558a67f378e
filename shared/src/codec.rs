//! Envelopes on NATS: one version byte, then MessagePack with structs as arrays.
//!
//! The version belongs to the kind of message ([`Wire::VERSION`]), so that a change of one leaves the others readable.
//! Every process reads a kind's version N and N−1. It writes N to those who have said that they read it, and N−1 to
//! everybody else ([`encode_for`]); answers are written in the version of the question. Any change of a field makes a new
//! version, an appended one too: arrays of another length cannot be read. The frozen bytes of every released version are
//! tests. A message that cannot be read goes back to the queue, for a process that can.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::{Ask, AskAnswer, Cancel, Held};

mod older;

/// The newest version of any kind of message: what a process says that it speaks.
pub const NEWEST: u8 = 2;
/// What is written to somebody who has not said what it reads.
pub const OLDEST: u8 = 1;

/// A kind of message.
pub trait Wire: Serialize + DeserializeOwned {
    /// Its present version.
    const VERSION: u8 = 1;

    /// Writes an older version behind its byte.
    ///
    /// # Errors
    /// [`CodecError::Version`] if it is not spoken any more.
    fn write_older(&self, version: u8, _out: &mut Vec<u8>) -> Result<(), CodecError> {
        Err(CodecError::Version(version))
    }

    /// Reads the body of an older version.
    ///
    /// # Errors
    /// [`CodecError::Version`] if it is not spoken any more; otherwise the cause.
    fn read_older(version: u8, _body: &[u8]) -> Result<Self, CodecError> {
        Err(CodecError::Version(version))
    }
}

impl Wire for Ask {}
impl Wire for AskAnswer {}
impl Wire for Held {}
impl Wire for Cancel {}

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("empty message")]
    Empty,
    /// From a newer (or much older) process: give it back for somebody who can read it.
    #[error("wire version {0} is not spoken here")]
    Version(u8),
    #[error("malformed message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    #[error("cannot encode: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Encodes `value` in its present version.
///
/// # Errors
/// [`CodecError::Encode`] only if the type cannot be expressed in MessagePack.
pub fn encode<T: Wire>(value: &T) -> Result<Bytes, CodecError> {
    encode_for(value, T::VERSION)
}

/// Encodes `value` for somebody who reads versions up to `newest`.
///
/// # Errors
/// [`CodecError::Version`] if the kind was not spoken in that version.
pub fn encode_for<T: Wire>(value: &T, newest: u8) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(256);
    let version = newest.min(T::VERSION);
    out.push(version);
    if version == T::VERSION {
        rmp_serde::encode::write(&mut out, value)?;
    } else {
        value.write_older(version, &mut out)?;
    }
    Ok(out.into())
}

/// # Errors
/// [`CodecError::Version`] for bytes of a version that this process does not speak; otherwise the cause.
pub fn decode<T: Wire>(payload: &[u8]) -> Result<T, CodecError> {
    match payload.split_first() {
        None => Err(CodecError::Empty),
        Some((&version, body)) if version == T::VERSION => Ok(read(body)?),
        Some((&version, body)) if version < T::VERSION => T::read_older(version, body),
        Some((&version, _)) => Err(CodecError::Version(version)),
    }
}

/// Deepest nesting that is read. Ours is below ten; what is skipped recurses as well, and a thread's stack is finite.
const MAX_DEPTH: usize = 64;

/// Reads MessagePack from somebody else.
///
/// # Errors
/// The bytes are no `T`, or nested too deeply.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut reader)
}

/// The version byte of a message that was decoded: its answer is written in the same.
pub fn version_of(payload: &[u8]) -> u8 {
    payload.first().copied().unwrap_or(OLDEST)
}

#[cfg(test)]
mod tests;
