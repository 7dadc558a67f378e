//! The worker's own pages: `/metrics`, `/health/live`, `/health/ready`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use forebay_shared::metrics::{TEXT_FORMAT, WorkerMetrics};
use tokio::net::TcpListener;

/// What the worker is doing. The first word names the phase; the rest may change while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    /// Looking for the model's files.
    Opening,
    /// `total_bytes` is 0 while unknown.
    Downloading {
        done_bytes: u64,
        total_bytes: u64,
    },
    Loading {
        size_bytes: u64,
    },
    /// Telling the fleet about the model.
    Announcing,
    /// Takes work.
    Ready,
    Draining,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: &u64| bytes.div_ceil(1_000_000);
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Opening => f.write_str("opening the model"),
            Self::Downloading { done_bytes, total_bytes: 0 } => {
                write!(f, "downloading {} MB", megabytes(done_bytes))
            }
            Self::Downloading { done_bytes, total_bytes } => {
                write!(f, "downloading {} of {} MB", megabytes(done_bytes), megabytes(total_bytes))
            }
            Self::Loading { size_bytes } => write!(f, "loading {} MB", megabytes(size_bytes)),
            Self::Announcing => f.write_str("announcing"),
            Self::Ready => f.write_str("ready"),
            Self::Draining => f.write_str("draining"),
        }
    }
}

/// The phase of this process, set where the work is done and read by `/health/ready`.
#[derive(Debug, Clone)]
pub(crate) struct Health(Arc<Mutex<Phase>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Connecting)))
    }

    pub(crate) fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 503 with what it does instead, unless it takes work.
    fn answer(&self) -> (StatusCode, String) {
        let phase = self.phase();
        let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, format!("{phase}\n"))
    }
}

/// Opens the port; the address tells which one, if it was left to the system.
///
/// # Errors
/// One line that says which flag to change.
pub(crate) async fn bind(addr: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr}; stop what listens there or choose another --metrics-addr")
    })?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, metrics: WorkerMetrics, health: Health) {
    let page = move || async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    let health = move || async move { health.answer() };
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(health));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the worker's pages are gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_not_ready_says_what_it_does() {
        let health = Health::new();
        let says = |phase| {
            health.set(phase);
            let (status, text) = health.answer();
            (status.as_u16(), text)
        };
        let downloading = |done_bytes, total_bytes| Phase::Downloading { done_bytes, total_bytes };
        assert_eq!(health.answer().1, "connecting\n");
        assert_eq!(says(downloading(11_500_000, 90_000_000)), (503, "downloading 12 of 90 MB\n".to_owned()));
        assert_eq!(says(downloading(1, 0)), (503, "downloading 1 MB\n".to_owned()));
        assert_eq!(says(Phase::Loading { size_bytes: 89_999_999 }), (503, "loading 90 MB\n".to_owned()));
        assert_eq!(says(Phase::Ready), (200, "ready\n".to_owned()));
        assert_eq!(says(Phase::Draining).0, 503);
    }
}
