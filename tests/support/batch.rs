//! Files and batches, as a client handles them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Answer, Client};

const BOUNDARY: &str = "forebay-test-boundary";

/// A client that asks one api, or another when that one is gone.
#[derive(Debug, Clone)]
pub struct Batches {
    addrs: Vec<SocketAddr>,
    key: Option<&'static str>,
}

impl Batches {
    pub fn new(addrs: Vec<SocketAddr>) -> Self {
        Self { addrs, key: None }
    }

    /// Asks with this API key.
    pub fn with_key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// One request to the first api that answers; panics after half a minute without.
    pub async fn ask(&self, method: &str, path: &str, content: &str, body: &[u8]) -> Answer {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            for addr in &self.addrs {
                let mut client = Client::new(*addr);
                if let Some(key) = self.key {
                    client = client.header("authorization", &format!("Bearer {key}"));
                }
                match client.send_as(content, method, path, body).await {
                    Ok(answer) if answer.status < 500 => return answer,
                    failed => assert!(Instant::now() < end, "{method} {path}: {failed:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "application/json", b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, "application/json", body.to_string().as_bytes()).await
    }

    pub async fn upload(&self, purpose: &str, file: &[u8]) -> Answer {
        let mut body = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
             --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(file);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        self.ask("POST", "/v1/files", &format!("multipart/form-data; boundary={BOUNDARY}"), &body).await
    }

    /// Uploads and begins; the batch's id.
    pub async fn begin(&self, file: &[u8]) -> String {
        let file = self.upload("batch", file).await;
        assert_eq!(file.status, 200, "{}", file.text());
        let wanted =
            json!({ "input_file_id": file.json()["id"], "endpoint": "/v1/embeddings", "completion_window": "24h" });
        let batch = self.post("/v1/batches", &wanted).await;
        assert_eq!(batch.status, 200, "{}", batch.text());
        batch.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn show(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/batches/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Lines that have ended so far.
    pub async fn progress(&self, id: &str) -> u64 {
        let counts = &self.show(id).await["request_counts"];
        counts["completed"].as_u64().unwrap() + counts["failed"].as_u64().unwrap()
    }

    /// The batch as it is when at least `lines` of it have ended, or all of it has.
    pub async fn reaches(&self, id: &str, lines: u64, limit: Duration) -> Value {
        let end = Instant::now() + limit;
        loop {
            let batch = self.show(id).await;
            let counts = &batch["request_counts"];
            let ended = counts["completed"].as_u64().unwrap() + counts["failed"].as_u64().unwrap();
            if ended >= lines || is_over(&batch) {
                return batch;
            }
            assert!(Instant::now() < end, "not within {limit:?}: {lines} lines in {batch}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The batch when it is over.
    pub async fn ends(&self, id: &str, limit: Duration) -> Value {
        self.reaches(id, u64::MAX, limit).await
    }

    /// The lines of an output or error file; none if there is no file.
    pub async fn lines(&self, file: &Value) -> Vec<Value> {
        let Some(id) = file.as_str() else { return Vec::new() };
        let answer = self.get(&format!("/v1/files/{id}/content")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn is_over(batch: &Value) -> bool {
    ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap())
}

/// A line that asks for the vector of `input`.
pub fn line(custom_id: &str, model: &str, input: &str) -> String {
    let body = json!({ "model": model, "input": input });
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body }).to_string() + "\n"
}

/// `count` lines, `row-<i>` asking for the vector of `input <i>`.
pub fn lines(model: &str, count: usize) -> String {
    (0..count).map(|i| line(&format!("row-{i}"), model, &format!("input {i}"))).collect()
}

/// How often each custom id occurs in these lines.
pub fn occurrences<'a>(lines: impl IntoIterator<Item = &'a Value>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for line in lines {
        *counts.entry(line["custom_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}
