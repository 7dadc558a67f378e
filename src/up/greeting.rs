//! The end of the start: when the system is ready, its first answer, and what to try next.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use super::devices::Devices;
use super::monitoring;
use super::plan::{Addresses, Kind};
use crate::host;
use crate::http::{self, query_value};
use crate::model::Model;

const POLL_EVERY: Duration = Duration::from_millis(50);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How long the first request may take, and be repeated while the system is not quite there.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(60);
const SENTENCE: &str = "Water waits in the forebay until a turbine is free.";
/// Numbers of a vector that are shown.
const SHOWN_NUMBERS: usize = 4;

/// Waits until the api says that every model has a worker, and until those who watch do.
pub async fn wait_until_ready(addresses: &Addresses, models: &[Model]) {
    let api = host::reachable(addresses.api);
    for model in models {
        let path = format!("/health/ready?model={}", query_value(&model.name));
        wait_for(api, &path).await;
    }
    let watchers = [(Kind::Prometheus, addresses.prometheus), (Kind::Alertmanager, addresses.alertmanager)];
    for (kind, addr) in watchers {
        if let Some(addr) = addr {
            wait_for(host::reachable(addr), kind.probe_path()).await;
        }
    }
}

async fn wait_for(addr: SocketAddr, path: &str) {
    while !http::get(addr, path, PROBE_LIMIT).await.is_ok_and(|answer| answer.status == 200) {
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Sends one sentence to `model` and returns what came back.
///
/// # Errors
/// Any answer but 200, or 401 where keys are asked for; being turned away for lack of capacity counts only when it lasts.
pub async fn first_answer(api: SocketAddr, model: &str) -> anyhow::Result<Value> {
    let body = json!({ "model": model, "input": SENTENCE }).to_string();
    let give_up = tokio::time::Instant::now() + FIRST_ANSWER_LIMIT;
    loop {
        let answer = http::post_json(host::reachable(api), "/v1/embeddings", &body, FIRST_ANSWER_LIMIT).await;
        let problem = match answer {
            Ok(answer) if answer.status == 200 => return Ok(serde_json::from_slice(&answer.body)?),
            // Keys are configured, and a supervisor has none: that the door asks for one is its first answer.
            Ok(answer) if answer.status == 401 => return Ok(json!({ "asks_for": "Authorization: Bearer <API key>" })),
            Ok(answer) if answer.status != 503 => {
                bail!("the first request was answered with {}: {}", answer.status, answer.text())
            }
            Ok(answer) => answer.text(),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= give_up {
            bail!("the first request got no answer: {problem}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The answer on one line, vectors shortened.
pub fn shortened(answer: &Value) -> String {
    let mut answer = answer.clone();
    for row in answer.get_mut("data").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Array(vector)) = row.get_mut("embedding")
            && vector.len() > SHOWN_NUMBERS
        {
            let length = vector.len();
            vector.truncate(SHOWN_NUMBERS);
            vector.push(format!("… {length} numbers").into());
        }
    }
    answer.to_string()
}

/// Where everything is, and three lines to paste.
pub fn directions(addresses: Addresses, model: &str, devices: &Devices, store: &Path) -> String {
    let (api, aggregator) = (host::reachable(addresses.api), host::reachable(addresses.aggregator));
    let body = json!({ "model": model, "input": ["one", "two"] });
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _infallible = writeln!(text, "  {what:<9} {value}");
    };
    line("api", format!("http://{api}"));
    line("metrics", format!("http://{aggregator}/metrics"));
    line("fleet", format!("http://{aggregator}/v1/fleet"));
    for (what, value) in monitoring::directions(&addresses) {
        line(what, value);
    }
    for device in devices.gpus() {
        line("device", device.described.clone());
    }
    line("store", store.display().to_string());
    let _infallible = write!(
        text,
        "\nTry:\n  curl http://{api}/v1/embeddings -H 'content-type: application/json' -d '{body}'\n  \
         curl http://{api}/v1/models\n  curl http://{aggregator}/metrics\n\nCtrl-C stops everything."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_vector_is_shown_by_its_first_numbers() {
        let answer = json!({ "data": [{ "embedding": vec![0.5; 384] }, { "embedding": [1, 2] }], "model": "m" });
        let expected = r#"{"data":[{"embedding":[0.5,0.5,0.5,0.5,"… 384 numbers"]},{"embedding":[1,2]}],"model":"m"}"#;
        assert_eq!(shortened(&answer), expected);
        assert_eq!(shortened(&json!("anything else")), r#""anything else""#);
    }
}
