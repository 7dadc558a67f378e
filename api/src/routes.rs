//! The endpoints, one family per file (step ① of the data path, and ⑦ back).
//!
//! A handler takes a [`Call`](crate::http::endpoint::Call) and returns an answer or a failure; everything around that is
//! [`crate::http::endpoint`]'s.

pub mod batches;
pub mod dead;
pub mod docs;
pub mod embed;
pub mod embeddings;
pub mod fallback;
pub mod files;
mod form;
pub mod health;
pub mod inference;
pub mod jobs;
pub mod keyed;
pub mod metrics;
pub mod models;
pub mod query;
pub mod root;
pub mod vectors;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::http::endpoint::Answer;

/// A JSON answer whose body is already written.
fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A small JSON answer.
fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).map_err(|_| forebay_shared::error::JobError::Internal)?;
    Ok(json_bytes(status, body))
}
