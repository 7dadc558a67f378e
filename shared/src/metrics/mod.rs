//! What forebay counts: one table, from which everything else follows.
//!
//! A metric is declared once, in `tables`, by its stem, kind, labels, buckets and merge rule; the doc comment is its
//! help text. From that declaration come the typed handle ([`Family`]), the text of the process' own `/metrics`, the
//! layout of its stats report, the aggregator's merge and the reference page.
//!
//! Invariants:
//! - A label is an enum or a name from configuration ([`Label`]); free text cannot be written. A model that was never
//!   registered is counted under `model="unknown"`, so what clients type never becomes a series.
//! - Every counter and histogram of a registered model stands at 0 before its first event, so that `rate()` sees it.
//! - A name is served by one view only: `forebay_api_<stem>` and `forebay_worker_<stem>` by the process itself,
//!   `forebay_<stem>` by the aggregator. The names of other stacks ([`compat`]) are a fourth view, served only when
//!   somebody asks for it by number.

pub mod buckets;
pub mod compat;
mod family;
mod host;
mod instrument;
mod label;
mod labels;
mod reference;
mod registry;
pub mod schema;
mod tables;

pub use family::Family;
pub use host::HostSampler;
pub use instrument::{Counter, FloatCounter, Gauge, Histogram, Instrument};
pub use label::{Label, LabelSet, Models, UNKNOWN_MODEL};
pub use labels::*;
pub use reference::reference_markdown;
pub use registry::{Registry, Sample, SeriesCells, TEXT_FORMAT};
pub use schema::{Descriptor, Kind, Merge};
pub use tables::{AggregatorMetrics, ApiMetrics, WorkerMetrics};
