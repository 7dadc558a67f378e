//! The worker's own pages: `/metrics`, `/health/live`, `/health/ready`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use forebay_shared::metrics::{TEXT_FORMAT, WorkerMetrics};
use tokio::net::TcpListener;

/// Whether the worker takes work: loaded and not draining.
pub(crate) type Ready = Arc<AtomicBool>;

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
pub(crate) async fn serve(listener: TcpListener, metrics: WorkerMetrics, ready: Ready) {
    let page = move || async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    let health = move || async move {
        if ready.load(Ordering::Relaxed) {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    };
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(health));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the worker's pages are gone");
    }
}
