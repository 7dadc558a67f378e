//! `GET /`: what this is, how it is, and where to go.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::json;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

#[derive(Serialize, ToSchema)]
#[schema(as = Overview)]
pub struct Page {
    name: &'static str,
    version: &'static str,
    health: &'static str,
    models: Vec<String>,
    links: Links,
}

#[derive(Serialize, ToSchema)]
struct Links {
    embeddings: &'static str,
    embed: &'static str,
    models: &'static str,
    live: &'static str,
    ready: &'static str,
    metrics: &'static str,
    docs: &'static str,
    openapi: &'static str,
}

pub async fn show<B: Backend>(call: Call<B>) -> Answer {
    let backend = &call.state.backend;
    let mut models = backend.list();
    models.retain(|model| call.caller.may_use_model(&model.name));
    json(
        StatusCode::OK,
        &Page {
            name: "forebay",
            version: env!("CARGO_PKG_VERSION"),
            health: if backend.is_ready() { "ready" } else { "not ready" },
            models: models.iter().map(|model| model.name.to_string()).collect(),
            links: Links {
                embeddings: "/v1/embeddings",
                embed: "/embed",
                models: "/v1/models",
                live: "/health/live",
                ready: "/health/ready",
                metrics: "/metrics",
                docs: "/docs",
                openapi: "/openapi.json",
            },
        },
    )
}
