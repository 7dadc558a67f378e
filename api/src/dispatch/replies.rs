//! The api's inbox (step ⑦): answers of workers, and their questions about jobs that were delivered twice.
//!
//! One subscription each. The task only decodes and routes, so that a burst of answers is taken off the connection as
//! fast as it arrives. A bundle is acknowledged here, when its last job is answered, expired or cancelled: a reply that
//! is lost on the way leaves its message unacknowledged, and the queue delivers it again.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_shared::codec;
use forebay_shared::job::{Ask, AskAnswer, ReplyBatch};
use forebay_shared::subjects;
use futures::StreamExt;
use tokio::task::JoinSet;

use super::Shared;

pub(super) async fn listen(shared: Arc<Shared>) -> Result<JoinSet<()>, async_nats::SubscribeError> {
    let client = shared.replies.client.clone();
    let mut answers = client.subscribe(subjects::replies(shared.boot)).await?;
    let mut questions = client.subscribe(subjects::ask(shared.boot)).await?;
    let asked = Arc::clone(&shared);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(message) = answers.next().await {
            shared.on_answer(&message.payload).await;
        }
    });
    tasks.spawn(async move {
        while let Some(message) = questions.next().await {
            if let (Some(reply), Some(answer)) = (message.reply, asked.on_question(&message.payload)) {
                // If this is lost the worker's question times out and the message comes round again.
                let _lost = asked.replies.client.publish(reply, answer).await;
            }
        }
    });
    Ok(tasks)
}

impl Shared {
    async fn on_answer(&self, payload: &[u8]) {
        let batch: ReplyBatch = match codec::decode(payload) {
            Ok(batch) => batch,
            Err(error) => return tracing::error!(%error, "an answer cannot be read; its jobs will be delivered again"),
        };
        let mut acks = Vec::with_capacity(batch.groups.len());
        let (mut answered, mut unknown, mut spared) = (0, 0, 0);
        let now = Instant::now();
        {
            let mut pending = self.pending.lock();
            for group in batch.groups {
                answered += group.replies.len() as u64;
                let settled = pending.settle(group, now);
                unknown += settled.unknown;
                spared += settled.spared;
                acks.extend(settled.ack.into_iter().chain(settled.more_acks));
            }
        }
        self.drained.lock().answered(answered - unknown, now);
        if unknown > spared {
            self.metrics.replies_duplicate_total.with(&()).inc_by(unknown - spared);
        }
        self.acknowledge(acks).await;
    }

    fn on_question(&self, payload: &[u8]) -> Option<Bytes> {
        let ask: Ask = codec::decode(payload)
            .inspect_err(|error| tracing::warn!(%error, "a worker's question cannot be read"))
            .ok()?;
        let pending = self.pending.lock();
        let verdicts = ask.jobs.iter().map(|id| pending.verdict(id)).collect();
        codec::encode(&AskAnswer { verdicts }).ok()
    }
}
