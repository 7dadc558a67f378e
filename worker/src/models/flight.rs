//! A batch between the host and its answer.

use super::{Embeddings, EngineError};

/// A batch that was handed to a device.
pub enum Flight {
    /// It was computed meanwhile.
    Landed(Embeddings),
    /// The device works on it.
    Pending(Box<dyn Pending>),
}

impl Flight {
    /// Blocks until the batch is computed.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn wait(self) -> Result<Embeddings, EngineError> {
        match self {
            Self::Landed(embeddings) => Ok(embeddings),
            Self::Pending(pending) => pending.wait(),
        }
    }
}

/// What a device owes. Batches of one device land in the order in which they were submitted.
pub trait Pending: Send {
    /// Blocks until the batch is computed; may be called on any thread. Dropping instead of waiting gives up the answer, not the work.
    ///
    /// # Errors
    /// What went wrong on the device.
    fn wait(self: Box<Self>) -> Result<Embeddings, EngineError>;
}
