//! From the records that have ended to calls that wait: the only thing that decides whom to tell.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::message::PublishMessage;
use forebay_shared::async_jobs::{Call, Record, WebhookState};
use forebay_shared::codec;
use futures::StreamExt;

use crate::jobs::Jobs;

const PULL: Duration = Duration::from_secs(5);
const PULL_MESSAGES: usize = 100;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(jobs: Arc<Jobs>, changes: Consumer<pull::Config>) {
    let mut stop = jobs.shutdown.clone();
    tokio::select! {
        () = async {
            loop {
                if let Err(error) = take(&jobs, &changes).await {
                    tracing::debug!(%error, "cannot follow the ends of jobs");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        } => {}
        () = stop.fired() => {}
    }
}

async fn take(jobs: &Jobs, changes: &Consumer<pull::Config>) -> anyhow::Result<()> {
    let mut batch = changes.batch().max_messages(PULL_MESSAGES).expires(PULL).messages().await?;
    while let Some(message) = batch.next().await {
        let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
        if let Some((call, round)) = call_of(&message) {
            let publish = PublishMessage::build().payload(codec::encode(&call)?).message_id(call.message_id(round));
            // Only then is the change dealt with: a failure leaves it to be delivered again.
            jobs.publish_call(&call, publish).await?;
        }
        message.ack().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(())
}

/// The call that a change asks for, and its round.
fn call_of(change: &Message) -> Option<(Call, u64)> {
    let record: Record = serde_json::from_slice(&change.payload).ok()?;
    let webhook = record.webhook.as_ref().filter(|webhook| webhook.state == WebhookState::Pending)?;
    let call = Call { tenant: record.tenant, job: record.id, generation: record.generation };
    record.state.is_terminal().then_some((call, webhook.round))
}
