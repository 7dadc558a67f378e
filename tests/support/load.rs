//! Requests without end: each with an input of its own, each answer checked against its request.
//!
//! With `concurrency`, as many connections send their next request when they have their last answer. With `rate`, requests
//! leave on schedule whatever happened to the ones before, as clients that know nothing of each other would send them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::client::Client;
use super::cluster::Cluster;
use super::report::{Report, Sample, Seen};
use super::verify::{self, Verify};

#[derive(Debug, Clone, Copy)]
enum Pace {
    Concurrency(usize),
    PerSecond(f64),
}

/// What to send, and how fast.
#[derive(Clone)]
pub struct Load {
    targets: Vec<SocketAddr>,
    model: String,
    pace: Pace,
    timeout: Option<Duration>,
    headers: Vec<(&'static str, String)>,
    verify: Verify,
    words: usize,
}

impl Load {
    /// Embeddings of `cluster`'s model over all its apis in turn, from 8 connections; answers of built-in models are verified.
    pub fn new(cluster: &Cluster) -> Self {
        let model = cluster.model_name().to_owned();
        let verify =
            if ["identity", "simulated"].contains(&model.as_str()) { verify::built_in() } else { verify::any_vector() };
        Self {
            targets: cluster.api_addrs(),
            model,
            pace: Pace::Concurrency(8),
            timeout: None,
            headers: Vec::new(),
            verify,
            words: 8,
        }
    }

    pub fn concurrency(mut self, connections: usize) -> Self {
        self.pace = Pace::Concurrency(connections);
        self
    }

    pub fn rate(mut self, per_second: f64) -> Self {
        self.pace = Pace::PerSecond(per_second);
        self
    }

    pub fn targets(mut self, targets: Vec<SocketAddr>) -> Self {
        self.targets = targets;
        self
    }

    /// Sent as `x-request-timeout`, in seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sent with every request.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Words of each input.
    pub fn words(mut self, words: usize) -> Self {
        self.words = words;
        self
    }

    /// Sends until it is stopped.
    pub fn start(self) -> RunningLoad {
        let shared = Arc::new(Shared {
            load: self,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            samples: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        match shared.load.pace {
            Pace::Concurrency(connections) => {
                for i in 0..connections {
                    tasks.spawn(one_after_the_other(Arc::clone(&shared), i));
                }
            }
            Pace::PerSecond(rate) => drop(tasks.spawn(on_schedule(Arc::clone(&shared), rate))),
        }
        RunningLoad { shared, tasks }
    }

    /// Sends for `duration`, then waits for the answers that are still out.
    pub async fn run(self, duration: Duration) -> Report {
        let running = self.start();
        tokio::time::sleep(duration).await;
        running.stop().await
    }

    fn client(&self, number: u64) -> Client {
        let client = Client::new(self.targets[number as usize % self.targets.len()]);
        let client = self.headers.iter().fold(client, |client, (name, value)| client.header(name, value));
        match self.timeout {
            Some(timeout) => client.header("x-request-timeout", &timeout.as_secs_f64().to_string()),
            None => client,
        }
    }
}

struct Shared {
    load: Load,
    stop: AtomicBool,
    next: AtomicU64,
    samples: Mutex<Vec<Sample>>,
}

/// Load that runs in the background.
pub struct RunningLoad {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl RunningLoad {
    /// Right answers so far.
    pub fn right(&self) -> usize {
        self.shared.samples.lock().unwrap().iter().filter(|sample| sample.result == Seen::Right).count()
    }

    /// Waits for `more` right answers from now on; panics if they take longer than `limit`.
    pub async fn progress(&self, more: usize, limit: Duration) {
        let (goal, end) = (self.right() + more, Instant::now() + limit);
        while self.right() < goal {
            let report = Report { samples: self.shared.samples.lock().unwrap().clone() };
            assert!(Instant::now() < end, "no {more} right answers within {limit:?}: {report}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends nothing more, waits for every answer that is still out, and tells what was seen.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.expect("a load task does not panic");
        }
        Report { samples: std::mem::take(&mut *self.shared.samples.lock().unwrap()) }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sends one request and tells whether its answer was right.
    async fn request(&self, client: &mut Client) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let input = (0..self.load.words).map(|word| format!("r{number}w{word}")).collect::<Vec<_>>().join(" ");
        let sent = Instant::now();
        let answer = client.post("/v1/embeddings", &json!({ "model": self.load.model, "input": input })).await;
        let took = sent.elapsed();
        let result = match answer {
            Ok(answer) if answer.status == 200 => match (self.load.verify)(&input, &answer.json()) {
                Ok(()) => Seen::Right,
                Err(problem) => Seen::Wrong(problem),
            },
            Ok(answer) => Seen::Status(answer.status, answer.text()),
            Err(error) => Seen::Broken(error.to_string()),
        };
        let is_right = result == Seen::Right;
        self.samples.lock().unwrap().push(Sample { sent, took, result });
        is_right
    }
}

async fn one_after_the_other(shared: Arc<Shared>, i: usize) {
    let mut client = shared.load.client(i as u64);
    while !shared.is_stopped() {
        if !shared.request(&mut client).await {
            // A client that is refused does not come back in the same microsecond.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn on_schedule(shared: Arc<Shared>, rate: f64) {
    let begin = tokio::time::Instant::now();
    let idle: Arc<Mutex<Vec<Client>>> = Arc::default();
    let mut requests = JoinSet::new();
    for number in 0u64.. {
        tokio::time::sleep_until(begin + Duration::from_secs_f64(number as f64 / rate)).await;
        if shared.is_stopped() {
            break;
        }
        let (shared, idle) = (Arc::clone(&shared), Arc::clone(&idle));
        requests.spawn(async move {
            let kept = idle.lock().unwrap().pop();
            let mut client = kept.unwrap_or_else(|| shared.load.client(number));
            shared.request(&mut client).await;
            idle.lock().unwrap().push(client);
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}
