//! What a process tells the aggregators about itself (step 8 of the data path): one core NATS message a second.
//!
//! A [`Snapshot`] is complete and cumulative, so a lost one costs nothing and an aggregator needs no history. Its numbers
//! travel without names: the [`Layout`] says what they are, is known by its hash, shared by all processes that count
//! the same things, and sent only when it changes, every half minute, and when an aggregator asks.
//!
//! Invariants: sequence numbers rise by one within a boot; the last snapshot of an orderly exit says `goodbye`.
//! Delivery is best effort by design: what was counted after the last snapshot before a SIGKILL is lost.

mod layout;
mod reporter;
mod snapshot;

pub use layout::{CellKind, FamilyInfo, Layout, LayoutHash, SeriesInfo};
pub use reporter::{DESCRIBE_EVERY, Identity, REPORT_INTERVAL, Reporter};
pub use snapshot::{ProcessState, Served, Snapshot, UnreadableSnapshot, WIRE_VERSION, decode_cells, encode_cells};
