//! `GET /metrics`: this process' own page. The fleet's is served by the aggregator.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};

use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

pub async fn show<B: Backend>(call: Call<B>) -> Answer {
    let mut response = Response::new(Body::from(call.state.metrics.render()));
    let text_format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text_format);
    Ok(response)
}
