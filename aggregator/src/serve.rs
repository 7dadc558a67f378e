//! The aggregator's HTTP pages. None of them waits for anything but a lock held for pure work.

mod discovery;
mod fleet_json;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use forebay_shared::metrics::compat::STACKS;
use forebay_shared::metrics::{DropReason, TEXT_FORMAT};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::hub::Hub;
use crate::{compat, exposition};

pub async fn run(listener: TcpListener, hub: Arc<Hub>) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/fleet", get(fleet))
        .route("/sd", get(targets))
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .with_state(hub);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the aggregator's pages are no longer served");
    }
}

/// Too early: counters could stand lower than they stood before this aggregator started.
const NOT_READY: &str = "the retained counters are still being read; ask again in a second\n";

fn is_ready(hub: &Hub) -> bool {
    hub.fleet().is_ready(hub.now())
}

fn not_ready() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], NOT_READY).into_response()
}

async fn ready(State(hub): State<Arc<Hub>>) -> Response {
    if is_ready(&hub) { "ready\n".into_response() } else { not_ready() }
}

/// The address of a page of metrics.
#[derive(Debug, Deserialize)]
struct Names {
    /// The number of another stack, whose names are wanted instead of ours.
    names: Option<String>,
}

async fn metrics(State(hub): State<Arc<Hub>>, Query(wanted): Query<Names>) -> Response {
    if !is_ready(&hub) {
        return not_ready();
    }
    const TEXT: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, TEXT_FORMAT)];
    let page = match wanted.names {
        None => Some(page(&hub)),
        Some(number) => number.parse().ok().and_then(|number| compat_page(&hub, number)),
    };
    page.map_or_else(no_such_names, |page| (TEXT, page).into_response())
}

fn no_such_names() -> Response {
    let text = format!("names is the number of a reference stack, 1 to {STACKS}; without it the names are our own\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}

fn compat_page(hub: &Hub, number: u8) -> Option<String> {
    let totals = hub.fleet().totals(hub.now());
    compat::render(number, &totals, &hub.metrics.registry().samples())
}

/// What this aggregator computes itself, then what it merges.
fn page(hub: &Hub) -> String {
    let now = hub.now();
    let totals = hub.fleet().totals(now);
    let mut page = hub.metrics.render();
    let cut = exposition::render(&totals, hub.process_cap, &mut page);
    hub.metrics.series_dropped_total.with(&(DropReason::ProcessCap,)).inc_by(cut as u64);
    page
}

async fn fleet(State(hub): State<Arc<Hub>>) -> Response {
    if is_ready(&hub) { axum::Json(fleet_json::fleet(&hub)).into_response() } else { not_ready() }
}

async fn targets(State(hub): State<Arc<Hub>>) -> Response {
    // Prometheus keeps its last list when this fails, and would drop targets that an incomplete one lacks.
    if is_ready(&hub) { axum::Json(discovery::targets(&hub)).into_response() } else { not_ready() }
}
