//! Work that is accepted now and done later, while everything dies: jobs with idempotency keys, and one large batch.
//!
//! A client that gets no clear answer asks again with the same key, and another api. Every write of a job's record is
//! watched: an end that is written over another is seen, whoever asks for the job when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_shared::async_jobs::Record;
use forebay_shared::streams::Bucket;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::batch::{self, Batches};
use crate::support::verify::{self, Verify};
use crate::support::{Client, Cluster};

const PAUSE: Duration = Duration::from_millis(150);
/// Everything that was accepted has ended by then, once all is quiet.
pub const END_LIMIT: Duration = Duration::from_secs(90);

/// Jobs that are submitted until it is stopped, and the batch.
pub struct Background {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<BTreeMap<String, String>>>,
    ends: Arc<Mutex<Ends>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    batches: Batches,
    batch: String,
    lines: usize,
    apis: Vec<SocketAddr>,
}

/// What became of the background work.
#[derive(Debug, Default)]
pub struct Ended {
    pub accepted: usize,
    pub lines: usize,
    /// Jobs that were accepted and have no end, or the wrong one, or another's result.
    pub wrong_jobs: Vec<String>,
    /// Accepted jobs of which no write of an end was seen: the watch was blind.
    pub unseen: Vec<String>,
    /// Jobs that ended and that nobody was told of: one may have been on its way when it was stopped.
    pub strange: Vec<String>,
    /// Ends that were written over an end.
    pub ended_twice: Vec<String>,
    /// Lines that are missing, twice there, or with another's vector.
    pub wrong_lines: Vec<String>,
}

/// First end of every job that was seen.
#[derive(Debug, Default)]
struct Ends {
    first: BTreeMap<String, (String, Option<u64>)>,
    twice: Vec<String>,
}

impl Background {
    pub async fn start(cluster: &Cluster, lines: usize) -> Self {
        let (stop, accepted, ends) = <(Arc<AtomicBool>, Arc<Mutex<_>>, Arc<Mutex<Ends>>)>::default();
        let apis = cluster.api_addrs();
        let batches = Batches::new(apis.clone());
        let batch = batches.begin(batch::lines(cluster.model_name(), lines).as_bytes()).await;
        let submitting =
            submit(apis.clone(), cluster.model_name().to_owned(), Arc::clone(&stop), Arc::clone(&accepted));
        let watching = watch(cluster.broker_client().await, Arc::clone(&ends));
        let tasks = vec![tokio::spawn(submitting), tokio::spawn(watching)];
        Self { stop, accepted, ends, tasks, batches, batch, lines, apis }
    }

    /// Accepts nothing more, waits until everything has ended, and judges it.
    pub async fn end(self, limit: Duration) -> Ended {
        self.stop.store(true, Ordering::Relaxed);
        let accepted = self.accepted.lock().unwrap().clone();
        let verify = verify::built_in();
        let mut ended = Ended { accepted: accepted.len(), lines: self.lines, ..Ended::default() };
        let until = Instant::now() + limit;
        for (id, input) in &accepted {
            if let Err(problem) = self.judge(id, input, &verify, until).await {
                ended.wrong_jobs.push(format!("{id}: {problem}"));
            }
        }
        let batch = self.batches.ends(&self.batch, END_LIMIT).await;
        let output = self.batches.lines(&batch["output_file_id"]).await;
        let counts = batch::occurrences(&output);
        for line in 0..self.lines {
            let times = counts.get(&format!("row-{line}")).copied().unwrap_or(0);
            if times != 1 {
                ended.wrong_lines.push(format!("row-{line} is there {times} times; {}", batch["request_counts"]));
            }
        }
        for line in &output {
            let number = line["custom_id"].as_str().unwrap_or_default().trim_start_matches("row-");
            if let Err(problem) = verify(&format!("input {number}"), &line["response"]["body"]) {
                ended.wrong_lines.push(problem);
            }
        }
        // The last writes are seen a moment after they were answered.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let mut ends = self.ends.lock().unwrap();
        ended.ended_twice = std::mem::take(&mut ends.twice);
        ended.unseen = accepted.keys().filter(|id| !ends.first.contains_key(*id)).cloned().collect();
        ended.strange = ends.first.keys().filter(|id| !accepted.contains_key(*id)).cloned().collect();
        drop(ends);
        ended
    }

    async fn judge(&self, id: &str, input: &str, verify: &Verify, until: Instant) -> Result<(), String> {
        let mut last = Value::Null;
        while Instant::now() < until {
            for api in &self.apis {
                let Ok(answer) = Client::new(*api).get(&format!("/v1/jobs/{id}?wait=2s")).await else { continue };
                if answer.status != 200 {
                    last = json!({ "status": answer.status, "body": answer.text() });
                    continue;
                }
                last = answer.json();
                match last["state"].as_str() {
                    Some("queued" | "running") => {}
                    Some("done") => return verify(input, &last["result"]),
                    state => return Err(format!("ended as {state:?}: {}", last["error"])),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("has not ended: {last}"))
    }
}

async fn submit(
    apis: Vec<SocketAddr>,
    model: String,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<BTreeMap<String, String>>>,
) {
    for number in 0u64.. {
        let input = format!("job {number}");
        let body = json!({ "task": "embed", "model": model, "input": input });
        let key = format!("chaos-{number}");
        for attempt in 0usize.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let api = apis[(number as usize + attempt) % apis.len()];
            let mut client = Client::new(api).header("Idempotency-Key", &key);
            let answer = tokio::time::timeout(Duration::from_secs(5), client.post("/v1/jobs", &body)).await;
            if let Ok(Ok(answer)) = answer
                && answer.status == 202
            {
                let id = answer.json()["id"].as_str().expect("a job has an id").to_owned();
                accepted.lock().unwrap().insert(id, input);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Follows every write of a record, through restarts of the broker.
async fn watch(client: async_nats::Client, ends: Arc<Mutex<Ends>>) {
    let js = async_nats::jetstream::new(client);
    loop {
        if let Ok(bucket) = js.get_key_value(Bucket::Records.name()).await
            && let Ok(mut writes) = bucket.watch_with_history(">").await
        {
            while let Some(Ok(entry)) = writes.next().await {
                if let Ok(record) = serde_json::from_slice::<Record>(&entry.value)
                    && record.state.is_terminal()
                {
                    ends.lock().unwrap().note(&record);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Ends {
    fn note(&mut self, record: &Record) {
        let end = (record.state.as_str().to_owned(), record.ended_ms);
        let first = self.first.entry(record.id.to_string()).or_insert_with(|| end.clone());
        if *first != end {
            self.twice.push(format!("{}: {first:?}, then {end:?}", record.id));
        }
    }
}
