//! The HTTP front: checks what clients ask for (①), puts it on the queue (② ③) and answers (⑦).
//!
//! `routes` and `validate` speak HTTP and JSON, `tenants` knows who asks, `cache` what was answered before, `dispatch`
//! speaks jobs and NATS, `error` is the only place where a job's error becomes a status. No model code: this crate never
//! builds candle.

pub mod batches;
pub mod cache;
pub mod dialect;
pub mod dispatch;
pub mod erase;
pub mod error;
pub mod files;
pub mod http;
pub mod jobs;
pub mod openapi;
pub mod peers;
pub mod registry;
pub mod routes;
mod run;
pub mod settings;
pub mod tenants;
pub mod validate;

pub use run::run;
pub use settings::ApiArgs;
