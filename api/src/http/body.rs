//! Reads a request's body: bounded in size and in time, without a copy when it came in one piece.

use std::time::Instant;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use forebay_shared::error::JobError;
use http_body::Body as _;
use http_body_util::BodyExt;

use super::media;
use crate::error::Failure;

/// Reads all of `body`. What is left of a body that is refused is the connection's to deal with.
///
/// # Errors
/// [`JobError::PayloadTooLarge`] beyond `max_bytes`, [`Failure::BodyTimeout`] if it is not complete at `deadline`,
/// [`Failure::BodyCutOff`] if the connection breaks, [`Failure::UnsupportedMedia`] if it is compressed.
pub async fn read(headers: &HeaderMap, mut body: Body, max_bytes: usize, deadline: Instant) -> Result<Bytes, Failure> {
    media::plain(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match announced {
        Some(announced) if announced > max_bytes => Err(too_large(max_bytes)),
        _ => tokio::time::timeout_at(deadline.into(), collect(&mut body, announced, max_bytes))
            .await
            .unwrap_or(Err(Failure::BodyTimeout)),
    }
}

async fn collect(body: &mut Body, announced: Option<usize>, max_bytes: usize) -> Result<Bytes, Failure> {
    let Some(first) = next(body).await? else { return Ok(Bytes::new()) };
    if first.len() > max_bytes {
        return Err(too_large(max_bytes));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(2 * first.len()).min(max_bytes));
    whole.extend_from_slice(&first);
    while let Some(more) = next(body).await? {
        if whole.len() + more.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        whole.extend_from_slice(&more);
    }
    Ok(whole.freeze())
}

/// The next piece; trailers count as the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    match body.frame().await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(frame.into_data().ok()),
        Some(Err(_)) => Err(Failure::BodyCutOff),
    }
}

fn too_large(max_bytes: usize) -> Failure {
    Failure::Job(JobError::PayloadTooLarge { max_bytes })
}
