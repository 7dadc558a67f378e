//! `GET /openapi.json` and `GET /docs`: what can be asked here, for programs and for people.
//!
//! The page is one file without anything from elsewhere. It reads the document beside it and only ever shows it as text.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};

use super::json_bytes;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};
use crate::openapi;

const PAGE: &str = include_str!("docs.html");
/// Nothing is loaded but the document, from here.
const POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

pub async fn document<B: Backend>(_: Call<B>) -> Answer {
    Ok(json_bytes(StatusCode::OK, openapi::text().into()))
}

pub async fn page<B: Backend>(_: Call<B>) -> Answer {
    let mut response = Response::new(Body::from(PAGE));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}
