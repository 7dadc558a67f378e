//! The three tables. Everything forebay counts stands in one of them, and nothing stands in them that nobody counts.
//!
//! A stem in two tables must be declared the same way in both: the fleet adds the roles up.

mod aggregator;
mod api;
mod worker;

pub use aggregator::AggregatorMetrics;
pub use api::ApiMetrics;
pub use worker::WorkerMetrics;

#[cfg(test)]
mod tests;
