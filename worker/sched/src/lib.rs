//! The policies of a worker, as plain values (step 5 of the data path).
//!
//! Nothing here performs I/O, reads a clock, logs, locks or waits: the driver owns all of that, tells these structs
//! what arrived and what time it is, and does what they answer. That is why this is a crate of its own: purity is
//! checked by the compiler, and every promise is tested with a simulated clock.
//!
//! [`Batcher`] decides which jobs of an encoder run together, when, and why.

mod batcher;
mod job;
mod lane_queue;
mod lanes;
mod limits;
mod timers;

pub use batcher::Batcher;
pub use job::{Batch, CloseReason, Lane, QueuedJob, Rejected};
pub use limits::{BatchLimits, LaneWeights, LimitsError};
