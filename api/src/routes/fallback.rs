//! Paths that nobody serves.

use crate::error::Failure;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

/// Longest path that is repeated in the answer.
const MAX_PATH_CHARS: usize = 200;

pub async fn no_endpoint<B: Backend>(call: Call<B>) -> Answer {
    let path = call.parts.uri.path().chars().take(MAX_PATH_CHARS).collect();
    Err(Failure::NoEndpoint { method: call.parts.method.to_string(), path })
}
