//! The whole path once: a request over HTTP, through the queue, to a worker and back; the pages; the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::{Answer, Client, Cluster, ClusterOptions, Load, Process, client, eventually, queue, verify};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_request_is_answered_and_a_clean_stop_leaves_nothing() {
    let cluster = Cluster::start(ClusterOptions::default()).await;

    let answer = cluster.post("/v1/embeddings", &json!({ "model": "identity", "input": "one sentence" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    verify::built_in()("one sentence", &answer.json()).unwrap();

    let pids: Vec<u32> =
        [cluster.api(0), cluster.worker(0), cluster.aggregator(0), cluster.nats()].map(|p| p.pid().unwrap()).into();
    cluster.stop().await;
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()), "{pids:?}");
}

#[tokio::test]
async fn every_process_serves_its_metrics() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    for (process, name) in
        [(cluster.api(0), "forebay_api_"), (cluster.worker(0), "forebay_worker_"), (cluster.aggregator(0), "forebay_")]
    {
        let page = client::get(process.addr(), "/metrics").await.unwrap();
        assert_eq!(page.status, 200, "{}", process.name());
        assert!(page.text().contains(name), "{}: {}", process.name(), page.text());
    }
}

#[tokio::test]
async fn each_of_many_answers_belongs_to_its_request() {
    let cluster = Cluster::start(ClusterOptions { workers: 2, ..ClusterOptions::default() }).await;
    let report = Load::new(&cluster).concurrency(32).run(Duration::from_secs(1)).await;
    assert!(report.all_right(), "{report}");
    let report = Load::new(&cluster).rate(200.0).run(Duration::from_secs(1)).await;
    assert!(report.all_right(), "{report}");
}

/// One request to each dialect, and how long the slower took.
async fn ask_both(cluster: &Cluster) -> (Answer, Answer, Duration) {
    let begin = Instant::now();
    let openai = cluster.post("/v1/embeddings", &json!({ "model": "identity", "input": "hello" })).await;
    let middle = Instant::now();
    let tei = cluster.post("/embed?model=identity", &json!({ "inputs": "hello" })).await;
    (openai, tei, middle.elapsed().max(middle - begin))
}

/// Both refused with 503 at once, each in its own shape, for the reason given.
#[track_caller]
fn refused(openai: &Answer, tei: &Answer, took: Duration, code: &str, text: &str) {
    assert!(took < Duration::from_secs(1), "{took:?}");
    for answer in [openai, tei] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{answer:?}");
    }
    let error = &openai.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!("server_error")), "{error}");
    assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    let error = tei.json();
    assert_eq!(error["error_type"], "Unhealthy", "{error}");
    assert!(error["error"].as_str().unwrap().contains(text), "{error}");
}

#[tokio::test]
async fn without_the_broker_requests_are_refused_at_once_and_served_again_after_its_return() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let api = cluster.api(0).pid();
    cluster.nats().kill9();
    eventually("the api has noticed", LONG, || async { cluster.get("/health/ready").await.status == 503 }).await;
    let (openai, tei, took) = ask_both(&cluster).await;
    refused(&openai, &tei, took, "broker_unavailable", "broker cannot be reached");
    assert_eq!(cluster.get("/health/live").await.status, 200);
    cluster.nats().restart();
    eventually("requests are served again", LONG, || async {
        let (openai, tei, _) = ask_both(&cluster).await;
        openai.status == 200 && tei.status == 200
    })
    .await;
    assert_eq!(cluster.api(0).pid(), api, "the same process all the time");
    cluster.stop().await;
}

#[tokio::test]
async fn a_model_without_workers_is_refused_at_once_in_words_that_say_so() {
    let api_args = ["--no-worker-after", "1s"].map(str::to_owned).into();
    let cluster = Cluster::start(ClusterOptions { api_args, ..ClusterOptions::default() }).await;
    cluster.worker(0).kill9();
    // Asked by a page: a request that comes too early would wait in the queue.
    eventually("the api has missed the worker", LONG, || async {
        cluster.get("/health/ready?model=identity").await.status == 503
    })
    .await;
    let (openai, tei, took) = ask_both(&cluster).await;
    refused(&openai, &tei, took, "no_worker", "no worker serves the model 'identity'");
    assert_eq!(queue::depth(&cluster).await, 0, "nothing was left for a worker that may never come");
    cluster.worker(0).restart();
    cluster.ready().await;
    cluster.stop().await;
}

/// The lines of a process' log, each of which must be a JSON object.
fn json_lines(process: &Process) -> Vec<Value> {
    let log = process.log();
    let parsed = log.lines().map(|line| match serde_json::from_str(line) {
        Ok(Value::Object(line)) => Value::Object(line),
        other => panic!("{}: {line:?} is {other:?}", process.name()),
    });
    parsed.collect()
}

#[tokio::test]
async fn a_request_is_followed_by_its_trace_through_the_logs_of_api_and_worker() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let env = vec![("FOREBAY_LOG", "debug".to_owned()), ("FOREBAY_LOG_FORMAT", "json".to_owned())];
    let cluster = Cluster::start(ClusterOptions { env, ..ClusterOptions::default() }).await;
    let mut client = Client::new(cluster.api(0).addr())
        .header("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-01"))
        .header("x-request-id", "request-of-this-test");
    let answer = client.post("/v1/embeddings", &json!({ "model": "identity", "input": "hello" })).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-request-id"), Some("request-of-this-test"));
    let trace = answer.header("traceparent").unwrap();
    assert!(trace.starts_with(&format!("00-{TRACE}-")) && !trace.contains("b7ad6b7169203331"), "{trace}");
    let [api, worker] = [cluster.api(0), cluster.worker(0)].map(|process| {
        let named = format!(r#""trace_id":"{TRACE}""#);
        let line = json_lines(process).into_iter().find(|line| line.to_string().contains(&named));
        let line = line.unwrap_or_else(|| panic!("{} logs nothing about the trace", process.name()));
        assert!(line.to_string().contains(r#""model":"identity""#), "{line}");
        line["job"].as_str().unwrap_or_else(|| panic!("{line} names no job")).to_owned()
    });
    assert_eq!(api, worker, "the job that was accepted is the job that ran");
    cluster.stop().await;
}

/// Messages that the api has published.
async fn bundles(cluster: &Cluster) -> f64 {
    let page = cluster.get("/metrics").await.text();
    let line = page.lines().find(|line| line.starts_with("forebay_api_bundle_rows_count{"));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |count| count.parse().unwrap())
}

/// The numbers of an answer's first vector.
fn vector(answer: &Answer) -> Vec<f64> {
    verify::vector(&answer.json()).unwrap()
}

#[tokio::test]
async fn a_request_with_bad_rows_is_refused_and_its_neighbours_in_the_bundle_are_answered() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-bert-embed").to_owned();
    let cluster = Cluster::start(ClusterOptions { model, ..ClusterOptions::default() }).await;
    let body = |input: Value| json!({ "model": "tiny-bert-embed", "input": input });
    let too_long = "far too long ".repeat(200);
    let bad = body(json!(["fine", too_long, "fine too", too_long]));
    let good: Vec<Value> = (0..6).map(|i| body(json!(format!("neighbour number {i}")))).collect();
    let mut alone = Vec::new();
    for body in &good {
        alone.push(vector(&cluster.post("/v1/embeddings", body).await));
    }
    for _ in 0..10 {
        // Requests that find the api asleep are all read in the same moment when it wakes, and travel together.
        let mut clients: Vec<Client> = (0..7).map(|_| Client::new(cluster.api(0).addr())).collect();
        for client in &mut clients {
            client.get("/health/live").await.unwrap();
        }
        let before = bundles(&cluster).await;
        cluster.api(0).freeze();
        let bodies = std::iter::once(&bad).chain(&good);
        let requests = clients.iter_mut().zip(bodies).map(|(client, body)| client.post("/v1/embeddings", body));
        let waking = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cluster.api(0).thaw();
        };
        let (answers, ()) = tokio::join!(join_all(requests), waking);
        let answers: Vec<Answer> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers[0].status, 400, "{}", answers[0].text());
        let error = &answers[0].json()["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("input")), "{error}");
        for (answer, alone) in answers[1..].iter().zip(&alone) {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let close = vector(answer).iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close, "{} is not {alone:?}", answer.text());
        }
        queue::is_empty_in_the_end(&cluster).await;
        if bundles(&cluster).await - before == 1.0 {
            return cluster.stop().await;
        }
    }
    panic!("ten attempts, and never did all rows travel in one message");
}
