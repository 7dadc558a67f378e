//! The policies of a worker, as plain values (step 5 of the data path).
//!
//! Nothing here performs I/O, reads a clock, logs, locks or waits: the driver owns all of that, tells these structs
//! what arrived and what time it is, and does what they answer. That is why this is a crate of its own: purity is
//! checked by the compiler, and every promise is tested with a simulated clock.
//!
//! [`Batcher`] decides which jobs of an encoder run together, when, and why; [`Pipeline`] when the next batch goes to a
//! device that has one already; [`Retries`] what is run again after a batch failed; [`Ceiling`] how large a batch may be
//! after memory did not suffice.

mod batcher;
mod ceiling;
mod job;
mod lane_queue;
mod lanes;
mod limits;
mod pace;
mod pipeline;
mod retries;
mod timers;

pub use batcher::Batcher;
pub use ceiling::Ceiling;
pub use job::{Batch, CloseReason, Lane, QueuedJob, Rejected};
pub use limits::{BatchLimits, LaneWeights, LimitsError};
pub use pipeline::{Pipeline, Wanted, began};
pub use retries::{Fault, Retries, Round};
