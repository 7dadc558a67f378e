//! `GET /health/live`, `/health/ready` and `/health`: for orchestrators and load balancers.
//!
//! Live: the process answers. Ready: it can take work, because the broker is there; with `?model=NAME` also because a
//! worker for that model is.

use axum::extract::Query;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::json;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

#[derive(Serialize, ToSchema)]
pub struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

#[derive(Deserialize)]
struct Wanted {
    model: Option<String>,
}

pub async fn live<B: Backend>(_: Call<B>) -> Answer {
    json(StatusCode::OK, &Health { status: "live", reason: None, warning: None })
}

pub async fn ready<B: Backend>(call: Call<B>) -> Answer {
    let model = Query::<Wanted>::try_from_uri(&call.parts.uri).ok().and_then(|Query(wanted)| wanted.model);
    let stale = call.state.tenants.as_ref().is_some_and(|tenants| tenants.is_stale());
    let warning = stale.then_some("the file of API keys cannot be used as it is; the last good one is in force");
    match reason_not_ready(&call.state.backend, model.as_deref()) {
        None => json(StatusCode::OK, &Health { status: "ready", reason: None, warning }),
        reason => json(StatusCode::SERVICE_UNAVAILABLE, &Health { status: "not ready", reason, warning }),
    }
}

fn reason_not_ready(backend: &impl Backend, model: Option<&str>) -> Option<String> {
    if !backend.is_ready() {
        return Some("the message broker cannot be reached".to_owned());
    }
    let name = model?;
    match backend.find(name) {
        None => Some(format!("no model '{name}' is registered")),
        Some(model) if backend.live_workers(&model.token) == 0 => Some(format!("no worker serves the model '{name}'")),
        Some(_) => None,
    }
}
