//! What the broker itself says about the jobs it holds.

use std::time::Duration;

use async_nats::jetstream::{self, stream::Stream};
use futures::StreamExt;

use super::cluster::Cluster;

/// One bundle of jobs on the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub sequence: u64,
    pub subject: String,
    pub payload: Vec<u8>,
}

impl Queued {
    /// The number of its jobs is the last token of its subject.
    pub fn jobs(&self) -> usize {
        self.subject.rsplit('.').next().and_then(|jobs| jobs.parse().ok()).expect("a bundle's subject says its jobs")
    }
}

/// Every message in all job streams.
pub async fn messages(cluster: &Cluster) -> Vec<Queued> {
    let mut queued = Vec::new();
    for stream in job_streams(cluster).await {
        let state = &stream.cached_info().state;
        for sequence in state.first_sequence..=state.last_sequence {
            // Those between that were acknowledged are gone.
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let (subject, payload) = (message.subject.to_string(), message.payload.to_vec());
                queued.push(Queued { sequence, subject, payload });
            }
        }
    }
    queued
}

/// Messages left in all job streams.
pub async fn depth(cluster: &Cluster) -> u64 {
    job_streams(cluster).await.iter().map(|stream| stream.cached_info().state.messages).sum()
}

pub async fn is_empty_in_the_end(cluster: &Cluster) {
    let limit = Duration::from_secs(20);
    super::eventually("every message is acknowledged", limit, || async { depth(cluster).await == 0 }).await;
}

async fn job_streams(cluster: &Cluster) -> Vec<Stream> {
    let client = cluster.broker_client().await;
    let js = jetstream::new(client);
    let names: Vec<String> = js.stream_names().map(Result::unwrap).collect().await;
    let mut streams = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("FOREBAY_JOBS_")) {
        streams.push(js.get_stream(name).await.unwrap());
    }
    streams
}
