//! What clients see of a job. Never its webhook's secret, never its input.

use std::collections::BTreeMap;

use forebay_shared::async_jobs::{Record, State, Webhook, WebhookState};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::dialect::Dialect;
use crate::error::Failure;

/// A job as JSON. Times are Unix seconds with milliseconds.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    id: String,
    object: &'static str,
    task: &'a str,
    model: &'a str,
    state: State,
    generation: u32,
    attempts: u32,
    rows: u32,
    created_at: f64,
    started_at: Option<f64>,
    ended_at: Option<f64>,
    expires_at: f64,
    /// Jobs for the same model that wait longer; an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<WebhookView<'a>>,
    metadata: &'a BTreeMap<String, String>,
    error: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct WebhookView<'a> {
    url: &'a str,
    state: WebhookState,
    /// When and why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> WebhookView<'a> {
    fn new(webhook: &'a Webhook) -> Self {
        let failure = webhook.failure.as_ref();
        Self {
            url: &webhook.url,
            state: webhook.state,
            failed_at: failure.map(|failure| seconds(failure.at_ms)),
            tries: failure.map(|failure| failure.tries),
            reason: failure.map(|failure| failure.why.as_str()),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

impl<'a> View<'a> {
    pub fn new(record: &'a Record) -> Self {
        Self {
            id: record.id.to_string(),
            object: "job",
            task: &record.task,
            model: record.model.as_str(),
            state: record.state,
            generation: record.generation,
            attempts: record.attempts,
            rows: record.rows,
            created_at: seconds(record.created_ms),
            started_at: record.started_ms.map(seconds),
            ended_at: record.ended_ms.map(seconds),
            expires_at: seconds(record.deadline_ms),
            position: None,
            webhook: record.webhook.as_ref().map(WebhookView::new),
            metadata: &record.metadata,
            error: error(record),
            result: None,
        }
    }

    pub fn position(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    /// The body of the synchronous answer; left out if it is no JSON.
    pub fn result(mut self, text: &'a [u8]) -> Self {
        self.result = serde_json::from_slice(text).ok();
        self
    }
}

/// As the synchronous route would have said it.
fn error(record: &Record) -> Option<Box<RawValue>> {
    let body = Failure::Job(record.error.clone()?).body(Dialect::OpenAi);
    #[derive(serde::Deserialize)]
    struct Body {
        error: Box<RawValue>,
    }
    serde_json::from_slice::<Body>(&body).ok().map(|body| body.error)
}

#[cfg(test)]
mod tests {
    use forebay_shared::async_jobs::{Ending, Event, new_job_id};
    use forebay_shared::error::JobError;

    use super::*;

    fn running() -> Record {
        let id = new_job_id(1_500);
        let record = Record::new(id, "t".into(), "m".into(), "m-0123456789".into(), "embed", 1, 1_500, 9_000);
        let url = "https://example.org".to_owned();
        let webhook = Webhook::new(url, Some("whsec_abc".to_owned()));
        Record { webhook: Some(webhook), ..record }.apply(Event::Start { generation: 0 }, 2_000).unwrap()
    }

    #[test]
    fn a_view_holds_the_result_as_it_was_and_no_secret() {
        let text = serde_json::to_string(&View::new(&running()).result(br#"{"data":[1.0]}"#)).unwrap();
        assert!(text.contains(r#""result":{"data":[1.0]}"#), "{text}");
        assert!(text.contains(r#""created_at":1.5"#), "{text}");
        assert!(!text.contains("whsec"), "{text}");
    }

    #[test]
    fn an_error_reads_as_on_the_synchronous_route() {
        let ending = Ending::Failed(JobError::InputTooLong { got: 300, max: 256 });
        let failed = running().apply(Event::Finish { generation: 0, ending }, 3_000).unwrap();
        let text = serde_json::to_string(&View::new(&failed)).unwrap();
        assert!(text.contains(r#""code":"context_length_exceeded""#), "{text}");
    }
}
