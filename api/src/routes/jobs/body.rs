//! What `POST /v1/jobs` says beside the fields of its task.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_shared::async_jobs::Webhook;
use forebay_shared::ids::Lane;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Failure;
use crate::http::context::parse_timeout;
use crate::jobs::Jobs;
use crate::jobs::webhooks::{check_secret, target};

/// As the metadata of OpenAI's objects.
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What a job can do. A new task is a variant here and an arm where it is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskName {
    Embed,
}

/// When and for whom.
#[derive(Debug)]
pub struct Order {
    pub task: TaskName,
    pub lane: Lane,
    pub timeout: Duration,
    pub webhook: Option<Webhook>,
    pub metadata: BTreeMap<String, String>,
}

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    pub longest_timeout: Duration,
    pub private_webhooks: bool,
    pub fleet_secret: bool,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    task: Value,
    #[serde(default)]
    priority: Value,
    #[serde(default)]
    timeout: Value,
    #[serde(default)]
    webhook: Value,
    #[serde(default)]
    metadata: Value,
}

impl Order {
    /// # Errors
    /// [`Failure`] naming the first field that cannot be used.
    pub fn read(body: &[u8], jobs: &Jobs) -> Result<Self, Failure> {
        Self::parse(
            body,
            Allowed {
                longest_timeout: jobs.longest_timeout(),
                private_webhooks: jobs.allows_private_webhooks(),
                fleet_secret: jobs.has_fleet_secret(),
            },
        )
    }

    fn parse(body: &[u8], allowed: Allowed) -> Result<Self, Failure> {
        if body.trim_ascii_start().first() != Some(&b'{') {
            serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(malformed)?;
            return Err(Failure::invalid("task", "the request body must be a JSON object"));
        }
        let fields: Fields = serde_json::from_slice(body).map_err(malformed)?;
        Ok(Self {
            task: task(&fields.task)?,
            lane: lane(&fields.priority)?,
            timeout: timeout(&fields.timeout, allowed.longest_timeout)?,
            webhook: webhook(&fields.webhook, allowed)?,
            metadata: metadata(fields.metadata)?,
        })
    }
}

fn malformed(error: serde_json::Error) -> Failure {
    Failure::MalformedJson(error.to_string())
}

fn task(value: &Value) -> Result<TaskName, Failure> {
    match value.as_str() {
        Some("embed") => Ok(TaskName::Embed),
        _ => Err(Failure::invalid("task", "`task` must be embed")),
    }
}

fn lane(value: &Value) -> Result<Lane, Failure> {
    if value.is_null() {
        return Ok(Lane::Low);
    }
    let lane = value.as_str().and_then(|lane| lane.parse().ok());
    lane.ok_or_else(|| Failure::invalid("priority", "`priority` must be one of high, normal, low"))
}

fn timeout(value: &Value, longest: Duration) -> Result<Duration, Failure> {
    let wanted = match value {
        Value::Null => return Ok(DAY.min(longest)),
        Value::String(text) => parse_timeout(text),
        Value::Number(number) => parse_timeout(&number.to_string()),
        _ => None,
    };
    let wanted =
        wanted.ok_or_else(|| Failure::invalid("timeout", "`timeout` must be seconds, or a time such as 10m"))?;
    if wanted > longest {
        let message = format!("`timeout` can be at most {}", humantime::format_duration(longest));
        return Err(Failure::invalid("timeout", message));
    }
    Ok(wanted)
}

fn webhook(value: &Value, allowed: Allowed) -> Result<Option<Webhook>, Failure> {
    let wrong = |message: String| Failure::invalid("webhook", message);
    let map: &Map<String, Value> = match value {
        Value::Null => return Ok(None),
        Value::Object(map) => map,
        _ => return Err(wrong("`webhook` must be an object with `url` and `secret`".to_owned())),
    };
    let url = map.get("url").and_then(Value::as_str).unwrap_or_default();
    target::check(url, allowed.private_webhooks).map_err(|fault| wrong(format!("`webhook.url` {fault}")))?;
    let secret = match map.get("secret") {
        None | Some(Value::Null) if allowed.fleet_secret => None,
        None | Some(Value::Null) => {
            let message = "`webhook.secret` is needed to sign the call: `whsec_` and 24 to 64 bytes in base64";
            return Err(wrong(message.to_owned()));
        }
        Some(secret) => {
            let secret = secret.as_str().unwrap_or_default();
            check_secret(secret).map_err(|fault| wrong(format!("`webhook.secret`: {fault}")))?;
            Some(secret.to_owned())
        }
    };
    Ok(Some(Webhook::new(url.to_owned(), secret)))
}

fn metadata(value: Value) -> Result<BTreeMap<String, String>, Failure> {
    let wrong = || {
        let message = format!(
            "`metadata` must hold at most {MAX_METADATA} strings, names of at most {MAX_METADATA_KEY} and values of at \
             most {MAX_METADATA_VALUE} characters"
        );
        Failure::invalid("metadata", message)
    };
    let map = match value {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(map) if map.len() <= MAX_METADATA => map,
        _ => return Err(wrong()),
    };
    let fits = |text: &str, most: usize| text.len() <= most || text.chars().count() <= most;
    map.into_iter()
        .map(|(name, value)| match value {
            Value::String(text) if fits(&name, MAX_METADATA_KEY) && fits(&text, MAX_METADATA_VALUE) => Ok((name, text)),
            _ => Err(wrong()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use forebay_shared::error::JobError;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn parse(body: &str) -> Result<Order, Failure> {
        let allowed = Allowed { longest_timeout: DAY, private_webhooks: false, fleet_secret: false };
        Order::parse(body.as_bytes(), allowed)
    }

    #[test]
    fn the_defaults_are_the_low_lane_and_a_day() {
        let order = parse(r#"{"task":"embed","model":"m","input":"x"}"#).unwrap();
        assert_eq!((order.task, order.lane, order.timeout), (TaskName::Embed, Lane::Low, DAY));
        assert!(order.webhook.is_none() && order.metadata.is_empty());
    }

    #[test]
    fn every_field_is_understood() {
        let text = format!(
            r#"{{"task":"embed","priority":"high","timeout":90,"metadata":{{"a":"b"}},
                "webhook":{{"url":"https://example.org/hook","secret":"{SECRET}"}}}}"#
        );
        let order = parse(&text).unwrap();
        assert_eq!((order.lane, order.timeout), (Lane::High, Duration::from_secs(90)));
        assert_eq!(order.webhook.unwrap().secret.as_deref(), Some(SECRET));
        assert_eq!(order.metadata["a"], "b");
    }

    #[test]
    fn a_field_that_cannot_be_used_is_named() {
        for (field, rest) in [
            ("task", r#""task":"sing""#),
            ("priority", r#""priority":"urgent""#),
            ("timeout", r#""timeout":"25h""#),
            ("timeout", r#""timeout":-1"#),
            ("webhook", r#""webhook":"https://example.org""#),
            ("webhook", r#""webhook":{"url":"https://example.org"}"#),
            ("webhook", r#""webhook":{"url":"http://127.0.0.1/"}"#),
            ("webhook", r#""webhook":{"url":"https://example.org","secret":"short"}"#),
            ("metadata", r#""metadata":{"a":1}"#),
            ("metadata", r#""metadata":["a"]"#),
        ] {
            let text = if field == "task" { format!("{{{rest}}}") } else { format!(r#"{{"task":"embed",{rest}}}"#) };
            match parse(&text).unwrap_err() {
                Failure::Job(JobError::InvalidInput { param, .. }) => assert_eq!(param.as_deref(), Some(field)),
                other => panic!("{field}: {other}"),
            }
        }
        assert!(matches!(parse("[1]"), Err(Failure::Job(_))));
        assert!(matches!(parse("{"), Err(Failure::MalformedJson(_))));
    }
}
