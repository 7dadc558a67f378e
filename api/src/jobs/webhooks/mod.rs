//! Calls to who asked to be told, after the Standard Webhooks specification (<https://www.standardwebhooks.com>).
//!
//! ```text
//! FOREBAY_RECORDS ──outbox (durable, any api)──▶ FOREBAY_WEBHOOKS ──deliver (any api)──▶ POST, signed
//!                                                     ▲ again, with a growing delay ┘  2xx or given up ─▶ record
//! ```
//! Driven by the records alone, never by the process that finished a job, so that no end is left untold. A receiver may
//! be called twice for one end; `webhook-id` is the same then. No redirect is followed, and an address inside our own
//! network is refused where it is connected to ([`target`]).

mod backoff;
mod deliver;
mod outbox;
pub mod target;
mod tries;

use std::sync::Arc;

use anyhow::Context;
use async_nats::jetstream::message::PublishMessage;
use forebay_shared::async_jobs::Call;
use forebay_shared::metrics::StoreWrite;
use forebay_shared::streams::{Durable, Queue, is_full};
use forebay_shared::subjects;

use super::Jobs;

/// What a secret looks like, and whether it is long enough to sign with.
///
/// # Errors
/// What is wrong with it.
pub fn check_secret(secret: &str) -> Result<(), &'static str> {
    use base64::Engine;
    const WRONG: &str = "a webhook secret is `whsec_` and 24 to 64 bytes in base64";
    let encoded = secret.strip_prefix("whsec_").ok_or(WRONG)?;
    let key = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| WRONG)?;
    if (24..=64).contains(&key.len()) { Ok(()) } else { Err(WRONG) }
}

pub(super) async fn start(jobs: &Arc<Jobs>) -> anyhow::Result<()> {
    let stores = &jobs.stores;
    let queue = stores.queue(Queue::Webhooks).await?;
    let deliveries = stores.consumer(&queue, &Durable::WebhookCalls).await?;
    let outbox = stores.consumer(&jobs.records.bucket().stream, &Durable::WebhookOutbox).await?;
    let client = target::client(jobs.args.webhook_allow_private, jobs.args.webhook_timeout)
        .context("cannot make an HTTP client for webhooks")?;
    tokio::spawn(outbox::run(Arc::clone(jobs), outbox));
    tokio::spawn(deliver::run(Arc::clone(jobs), client, deliveries));
    Ok(())
}

impl Jobs {
    /// Puts a call on the queue.
    async fn publish_call(&self, call: &Call, message: PublishMessage) -> anyhow::Result<()> {
        let sent = async { self.js.send_publish(subjects::webhook(&call.job), message).await?.await };
        if let Err(error) = sent.await {
            if !is_full(&error) {
                self.write_failed(StoreWrite::Publish);
            }
            return Err(error.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_a_prefix_and_enough_bytes() {
        assert!(check_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
        for bad in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_abc", "whsec_AAAA", "whsec_***"] {
            assert!(check_secret(bad).is_err(), "{bad}");
        }
    }
}
