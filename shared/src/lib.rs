//! The contract between forebay's processes: what crosses NATS, under which subjects, in which streams, and how it is
//! counted. No HTTP server and no model code: `api`, `worker` and `aggregator` depend on this crate, never on each other.

pub mod ack;
pub mod async_jobs;
pub mod broker;
pub mod clock;
pub mod codec;
pub mod dead;
pub mod error;
pub mod ids;
pub mod job;
pub mod metrics;
pub mod model;
pub mod planted;
pub mod settings;
pub mod shutdown;
pub mod stats;
pub mod streams;
pub mod subjects;
pub mod telemetry;
pub mod trace;
