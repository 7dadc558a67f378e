//! Makes the calls that wait, and tries again what fails.
//!
//! A receiver that does not answer keeps a place until its time is up, so a tenant has a share of the places only: over it
//! a call is put off, and others' calls pass it. How often the queue has delivered a call therefore says nothing about how
//! often it was tried: that is written onto the message (`tries`), which a failed try replaces by the next one's.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use forebay_shared::async_jobs::{
    Call, CallFailure, ChangeError, Event, JobKey, Record, ResultRef, Webhook, WebhookState,
};
use forebay_shared::codec;
use forebay_shared::metrics::CallOutcome;
use forebay_shared::streams::ack_wait;
use futures::StreamExt;
use serde::Serialize;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;

use super::tries::Tries;
use super::{backoff, target};
use crate::jobs::Jobs;
use crate::jobs::view::View;
use crate::tenants::held::Holders;

/// Calls of one api at the same time.
const AT_ONCE: usize = 32;
/// Those of one tenant.
const AT_ONCE_OF_ONE: usize = 8;
/// Longest time that a call is put off because its tenant has as many as it may.
const PUT_OFF_AT_MOST: u64 = 15;
const PULL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    Delivered,
    /// The receiver may take it later. Why not now, for its owner to read.
    Failed(String),
    /// The receiver said that it does not want any more (410).
    Gone,
    /// It must not be called.
    Refused,
}

/// What becomes of a call after a try.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Again,
    GivenUp(String),
}

impl Tried {
    fn fate(self, is_last: bool) -> (CallOutcome, Fate) {
        match self {
            Self::Delivered => (CallOutcome::Delivered, Fate::Delivered),
            Self::Failed(why) if is_last => (CallOutcome::GivenUp, Fate::GivenUp(why)),
            Self::Failed(_) => (CallOutcome::Retried, Fate::Again),
            Self::Gone => (CallOutcome::GivenUp, Fate::GivenUp("status 410: it wants no more calls".to_owned())),
            Self::Refused => (CallOutcome::Refused, Fate::GivenUp("its address must not be called".to_owned())),
        }
    }
}

/// What is sent.
#[derive(Serialize)]
struct Payload<'a> {
    r#type: String,
    timestamp: String,
    data: View<'a>,
}

pub(super) async fn run(jobs: Arc<Jobs>, client: reqwest::Client, waiting: Consumer<pull::Config>) {
    let (room, callers) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Holders::default()));
    let mut stop = jobs.shutdown.clone();
    tokio::select! {
        () = async {
            loop {
                if let Err(error) = take(&jobs, &client, &waiting, &room, &callers).await {
                    tracing::debug!(%error, "cannot take calls of webhooks");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        } => {}
        () = stop.fired() => {}
    }
}

async fn take(
    jobs: &Arc<Jobs>,
    client: &reqwest::Client,
    waiting: &Consumer<pull::Config>,
    room: &Arc<Semaphore>,
    callers: &Arc<Holders>,
) -> anyhow::Result<()> {
    // Room for one at least; what else is free goes with it.
    drop(room.acquire().await?);
    let free = room.available_permits().clamp(1, AT_ONCE);
    let mut batch = waiting.batch().max_messages(free).expires(PULL).messages().await?;
    while let Some(message) = batch.next().await {
        let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
        let permit = Arc::clone(room).acquire_owned().await?;
        let (jobs, client, callers) = (Arc::clone(jobs), client.clone(), Arc::clone(callers));
        tokio::spawn(async move {
            let answer = jobs.deliver(&client, &callers, &message).await;
            if let Err(error) = message.ack_with(answer).await {
                tracing::debug!(%error, "cannot answer for a call");
            }
            drop(permit);
        });
    }
    Ok(())
}

impl Jobs {
    /// One try, and what to tell the queue.
    async fn deliver(&self, client: &reqwest::Client, callers: &Arc<Holders>, message: &Message) -> AckKind {
        let Ok(call) = codec::decode::<Call>(&message.payload) else { return AckKind::Nak(Some(30 * PAUSE)) };
        let before = Tries::of(message.headers.as_ref());
        if let Some(wait) = before.wait(self.now_ms()) {
            return AckKind::Nak(Some(wait));
        }
        let Some(_place) = callers.hold(&call.tenant, AT_ONCE_OF_ONE) else { return put_off(message) };
        let key = JobKey::new(&call.tenant, &call.job);
        let record = match self.records.get(&key).await {
            Ok(Some((record, _))) if record.generation == call.generation => record,
            Ok(_) => return AckKind::Ack,
            Err(_) => return AckKind::Nak(Some(PAUSE)),
        };
        let Some(webhook) = record.webhook.as_ref().filter(|webhook| webhook.state == WebhookState::Pending) else {
            return AckKind::Ack;
        };
        let mut trying = std::pin::pin!(self.call(client, &call, &record, webhook));
        let every = ack_wait(self.stores.args().durability) / 3;
        let tried = loop {
            tokio::select! {
                tried = &mut trying => break tried,
                () = tokio::time::sleep(every) => {
                    let _lost = message.ack_with(AckKind::Progress).await;
                }
            }
        };
        let attempt = before.made.saturating_add(1);
        let (outcome, fate) = tried.fate(attempt >= self.args.webhook_attempts);
        self.metrics.webhook_deliveries_total.with(&(outcome,)).inc();
        let (state, failure) = match fate {
            Fate::Again => {
                let (min, max) = (self.args.webhook_retry_min, self.args.webhook_retry_max);
                let pause = backoff::pause(attempt, min, max, rand::random());
                let id = format!("{}:{attempt}", call.message_id(webhook.round));
                return match self.try_later(&call, message, id, attempt, pause).await {
                    Ok(()) => AckKind::Ack,
                    Err(error) => {
                        tracing::debug!(%error, "a try of a webhook cannot be counted");
                        AckKind::Nak(Some(pause))
                    }
                };
            }
            Fate::Delivered => (WebhookState::Delivered, None),
            Fate::GivenUp(why) => {
                tracing::info!(job = %call.job, attempt, outcome = outcome.as_str(), "a webhook is given up");
                (WebhookState::Failed, Some(CallFailure { at_ms: self.now_ms(), tries: attempt, why }))
            }
        };
        let event = Event::Called { generation: call.generation, state, failure };
        match self.records.change(&key, &event, self.now_ms()).await {
            Err(ChangeError::Store(_)) => AckKind::Nak(Some(PAUSE)),
            Ok(_) | Err(ChangeError::NotFound | ChangeError::Refused(..)) => AckKind::Ack,
        }
    }

    /// Puts the next try on the queue in the place of this one. Repeatable: the queue takes it once.
    async fn try_later(
        &self,
        call: &Call,
        message: &Message,
        id: String,
        made: u32,
        pause: Duration,
    ) -> anyhow::Result<()> {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let tries = Tries { made, not_before_ms: self.now_ms().saturating_add(pause_ms) };
        let next = PublishMessage::build().payload(message.payload.clone()).headers(tries.to_headers()).message_id(id);
        self.publish_call(call, next).await
    }

    async fn call(&self, client: &reqwest::Client, call: &Call, record: &Record, webhook: &Webhook) -> Tried {
        let Ok(url) = target::check(&webhook.url, self.args.webhook_allow_private) else { return Tried::Refused };
        let Some(secret) = webhook.secret.as_ref().or(self.fleet_secret.as_ref()) else {
            tracing::warn!("a webhook cannot be signed: it has no secret, and there is no --webhook-secret-file");
            return Tried::Failed("it has no secret to be signed with".to_owned());
        };
        let unsigned = || Tried::Failed("it could not be written and signed".to_owned());
        let Some(body) = body(record) else { return unsigned() };
        let (id, timestamp) = (call.id(), (self.now_ms() / 1_000).cast_signed());
        let signed = standardwebhooks::Webhook::new(secret).and_then(|key| key.sign(&id, timestamp, &body));
        let Ok(signature) = signed else { return unsigned() };
        let sent = client
            .post(url)
            .header("content-type", "application/json")
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) if response.status().is_success() => Tried::Delivered,
            Ok(response) if response.status() == reqwest::StatusCode::GONE => Tried::Gone,
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(job = %call.job, status, "a webhook was not taken");
                Tried::Failed(format!("status {status}"))
            }
            Err(error) if target::was_refused(&error) => Tried::Refused,
            Err(error) => {
                // Without the address: it may carry a token.
                let why = if error.is_timeout() { "no answer in time" } else { "not reached" };
                tracing::debug!(job = %call.job, error = %error.without_url(), "a webhook was not reached");
                Tried::Failed(why.to_owned())
            }
        }
    }
}

/// Later, and the later the longer it has waited already: a dead receiver's calls shall not keep the queue busy.
fn put_off(message: &Message) -> AckKind {
    let before = message.info().map_or(1, |info| info.delivered).max(1).unsigned_abs();
    AckKind::Nak(Some(Duration::from_secs(before.min(PUT_OFF_AT_MOST))))
}

/// The same for every try. A large result is not part of it: it is fetched from `/v1/jobs/{id}`.
fn body(record: &Record) -> Option<Vec<u8>> {
    let ended_ms = record.ended_ms.unwrap_or(record.created_ms);
    let ended = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ended_ms) * 1_000_000).ok()?;
    let data = match &record.result {
        Some(ResultRef::Inline(text)) => View::new(record).result(text.as_bytes()),
        _ => View::new(record),
    };
    let r#type = format!("job.{}", record.state.as_str());
    serde_json::to_vec(&Payload { r#type, timestamp: ended.format(&Rfc3339).ok()?, data }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_given_up_after_its_last_try_or_when_another_cannot_help() {
        let failed = || Tried::Failed("status 500".to_owned());
        assert_eq!(failed().fate(false), (CallOutcome::Retried, Fate::Again));
        assert_eq!(failed().fate(true), (CallOutcome::GivenUp, Fate::GivenUp("status 500".to_owned())));
        for tried in [Tried::Gone, Tried::Refused] {
            assert!(matches!(tried.fate(false).1, Fate::GivenUp(_)));
        }
        assert_eq!(Tried::Delivered.fate(true).1, Fate::Delivered);
    }
}
