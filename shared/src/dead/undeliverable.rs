//! Messages that the broker has given up delivering, as its advisories tell.
//!
//! They still lie in their stream and are never delivered again: only a backstop that should stay empty, because what to
//! do with a job is decided by workers and not by counting deliveries.

use serde::{Deserialize, Serialize};

use super::DeadError;
use super::reading::each_message;
use crate::streams::{Queue, Stores};

/// One message that reached the greatest number of deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeliverable {
    pub stream: String,
    /// The consumer: for jobs, the lane.
    pub consumer: String,
    /// Where it lies in the stream.
    pub stream_seq: u64,
    pub deliveries: u64,
    /// RFC 3339, by the broker's clock.
    #[serde(rename(deserialize = "timestamp"))]
    pub at: String,
}

/// What the broker has given up, oldest first. Messages that have been removed from their stream since are left in: the
/// advisory is all that tells of them.
///
/// # Errors
/// As [`Stores::queue`], or the stream cannot be read.
pub async fn undeliverable(stores: &Stores) -> Result<Vec<Undeliverable>, DeadError> {
    let stream = stores.queue(Queue::Advisories).await?;
    let mut found = Vec::new();
    each_message(&stream, false, "tell of undelivered messages beside its", |message| {
        match serde_json::from_slice(&message.payload) {
            Ok(one) => found.push(one),
            Err(error) => tracing::warn!(%error, "an advisory cannot be read"),
        }
    })
    .await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_is_read_as_the_broker_writes_it() {
        let text = r#"{"type":"io.nats.jetstream.advisory.v1.max_deliver","id":"x","timestamp":"2026-01-02T03:04:05Z",
            "stream":"FOREBAY_JOBS_m-0123456789","consumer":"normal","stream_seq":7,"deliveries":20}"#;
        let read: Undeliverable = serde_json::from_str(text).unwrap();
        assert_eq!((read.consumer.as_str(), read.stream_seq, read.deliveries), ("normal", 7, 20));
        assert_eq!(read.at, "2026-01-02T03:04:05Z");
    }
}
