//! A real system for one test: nats-server with a store of its own, and the roles as processes of the built binary.
//!
//! ```ignore
//! let cluster = Cluster::start(ClusterOptions { workers: 2, ..ClusterOptions::default() }).await;
//! let load = Load::new(&cluster).concurrency(16).start();
//! cluster.worker(0).kill9();
//! let report = load.stop().await;
//! assert!(report.all_right(), "{report}");
//! ```
//!
//! Everything listens on ports that no other test uses. Whatever happens, a panic or a kill of the test included, no
//! process is left. After a panic the folder with the logs stays, and their ends are printed.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

pub mod batch;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod holdings;
pub mod load;
pub mod netns;
pub mod ports;
pub mod process;
pub mod queue;
pub mod report;
pub mod verify;

use std::future::Future;
use std::time::Duration;

pub use client::{Answer, Client};
pub use cluster::{Cluster, ClusterOptions};
pub use holdings::{Holdings, Taken};
pub use load::{Load, RunningLoad};
pub use process::Process;
pub use report::Report;

/// Waits until `condition` holds and panics with `what` if it does not within `limit`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + limit;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
