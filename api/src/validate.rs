//! Is this request worth a job? (step ① of the data path)
//!
//! Bytes in, rows of work out. Everything that can be known without the tokenizer is decided here, before anything is
//! published: shape, counts, sizes and options. Values only: no socket, no queue, no clock. How many tokens an input has
//! is the worker's to say.
//!
//! [`body`] reads the JSON into fields that remember what they were ([`scalar`]), [`rows`] the inputs among them; [`embed`]
//! says what the fields of an embedding request mean.

pub mod body;
pub mod embed;
pub mod rows;
pub mod scalar;

use std::time::Duration;

/// What a single request is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest body in bytes.
    pub max_body_bytes: usize,
    /// Most inputs in one request.
    pub max_inputs: usize,
    /// Time for a request that names none.
    pub default_timeout: Duration,
    /// Longest time a request can ask for.
    pub max_timeout: Duration,
    /// Longest time in which a body arrives.
    pub body_timeout: Duration,
}
