//! One process drives one device: takes jobs from the queue, batches them, runs the model, answers.
//!
//! ```text
//! queue ─④ intake─▶ prepare (tokenise) ─⑤ driver: batcher─▶ ⑥ engine ─▶ ⑦ reply ─▶ api
//!          tokio          own threads        own thread                   tokio
//! ```
//! What a worker holds (`delivery`) is bounded by credit, kept alive by `progress` while the engine advances, and given
//! back when it does not. `announce` tells the fleet who is there, `herald` what it holds; `fence` keeps a process that was
//! stopped for a while from speaking about the past.

mod announce;
mod cancelled;
mod delivery;
pub mod device;
pub mod device_bench;
mod driver;
mod fence;
mod gauge;
mod herald;
mod intake;
pub mod kernels;
pub mod layers;
pub mod models;
pub mod output_check;
mod pages;
mod prepare;
mod progress;
mod quarantine;
mod reply;
mod run;
pub mod selftest;
pub mod settings;
mod spans;
mod telemetry;
pub mod tokenize;

pub use run::run;
pub use settings::WorkerArgs;
