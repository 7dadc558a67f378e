//! Requests that leave on schedule, whatever happened to the ones before; each answer is checked against its request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::history::{Ended, Request};
use crate::support::Client;
use crate::support::verify::{self, Verify};

pub struct Traffic {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    apis: Vec<SocketAddr>,
    model: String,
    /// What every request is given.
    timeout: Duration,
    stop: AtomicBool,
    next: AtomicU64,
    requests: Mutex<Vec<Request>>,
    verify: Verify,
    idle: Vec<Mutex<Vec<Client>>>,
}

impl Traffic {
    pub fn start(apis: Vec<SocketAddr>, model: &str, per_second: f64, timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            idle: apis.iter().map(|_| Mutex::default()).collect(),
            apis,
            model: model.to_owned(),
            timeout,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            requests: Mutex::default(),
            verify: verify::built_in(),
        });
        let task = tokio::spawn(on_schedule(Arc::clone(&shared), per_second));
        Self { shared, task }
    }

    pub fn right(&self) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|request| request.ended == Ended::Right).count()
    }

    /// Sends nothing more and waits for every request that is still out.
    pub async fn stop(self) -> Vec<Request> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the traffic does not panic");
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }
}

async fn on_schedule(shared: Arc<Shared>, per_second: f64) {
    let begin = tokio::time::Instant::now();
    let mut requests = JoinSet::new();
    for number in 0u64.. {
        tokio::time::sleep_until(begin + Duration::from_secs_f64(number as f64 / per_second)).await;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let shared = Arc::clone(&shared);
        requests.spawn(async move { shared.request().await });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

impl Shared {
    async fn request(&self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let api = number as usize % self.apis.len();
        let kept = self.idle[api].lock().unwrap().pop();
        let seconds = self.timeout.as_secs().to_string();
        let mut client = kept.unwrap_or_else(|| Client::new(self.apis[api]).header("x-request-timeout", &seconds));
        // One in forty is large: it is spread over the workers, and all of it must come back in order.
        let rows = if number % 40 == 7 { 50 } else { 1 };
        let inputs: Vec<String> = (0..rows).map(|row| format!("request {number} row {row} of {rows}")).collect();
        let sent = Instant::now();
        let answer = client.post("/v1/embeddings", &json!({ "model": self.model, "input": inputs })).await;
        let took = sent.elapsed();
        let ended = match answer {
            Ok(answer) if answer.status == 200 => match self.check(&inputs, &answer.json()) {
                Ok(()) => Ended::Right,
                Err(problem) => Ended::Wrong(problem),
            },
            Ok(answer) => Ended::Status(answer.status, answer.text()),
            // What is no HTTP, or more than one answer.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ended::Wrong(error.to_string()),
            Err(error) => Ended::Broken(error.to_string()),
        };
        if !matches!(ended, Ended::Broken(_)) {
            self.idle[api].lock().unwrap().push(client);
        }
        self.requests.lock().unwrap().push(Request { api, sent, took, timeout: self.timeout, ended });
    }

    fn check(&self, inputs: &[String], body: &Value) -> Result<(), String> {
        for (index, input) in inputs.iter().enumerate() {
            let row = &body["data"][index];
            if row["index"] != index {
                return Err(format!("row {index} is not in its place"));
            }
            (self.verify)(input, &json!({ "data": [row] }))?;
        }
        Ok(())
    }
}
