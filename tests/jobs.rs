//! Asynchronous jobs, idempotency keys and webhooks: real processes, a real broker, deaths included.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

#[path = "jobs/webhooks.rs"]
mod webhooks;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use base64::Engine;
use forebay_shared::async_jobs;
use forebay_shared::codec;
use forebay_shared::ids::Lane;
use forebay_shared::job::{EmbedParams, Input, Task};
use forebay_shared::subjects;
use futures::future::join_all;
use serde_json::{Value, json};
use support::client::{self, Answer};
use support::{Client, Cluster, ClusterOptions, eventually};

const LONG: Duration = Duration::from_secs(30);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn two_apis() -> ClusterOptions {
    ClusterOptions { apis: 2, aggregators: 0, ..ClusterOptions::default() }
}

/// One row takes as long as `base` says.
fn slow(base: &str, stall_limit: &str) -> ClusterOptions {
    ClusterOptions {
        model: "simulated".to_owned(),
        env: vec![
            ("FOREBAY_SIMULATED_BASE", base.to_owned()),
            ("FOREBAY_BATCH_MAX_ROWS", "1".to_owned()),
            ("FOREBAY_STALL_LIMIT", stall_limit.to_owned()),
        ],
        ..two_apis()
    }
}

fn embed(cluster: &Cluster, input: &Value) -> Value {
    json!({ "task": "embed", "model": cluster.model_name(), "input": input })
}

async fn submit(addr: SocketAddr, body: &Value) -> Value {
    let answer = client::post(addr, "/v1/jobs", body).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

async fn show(addr: SocketAddr, id: &str, wait: &str) -> Value {
    let answer = client::get(addr, &format!("/v1/jobs/{id}?wait={wait}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn delete(addr: SocketAddr, path: &str) -> Answer {
    Client::new(addr).send("DELETE", path, b"").await.unwrap()
}

#[tokio::test]
async fn a_job_is_done_and_its_result_is_the_synchronous_answer() {
    let cluster = Cluster::start(two_apis()).await;
    let [first, second] = [cluster.api(0).addr(), cluster.api(1).addr()];
    let input = json!(["gate", "weir", "a longer sentence"]);
    let mut body = embed(&cluster, &input);
    body["metadata"] = json!({ "run": "7" });
    let job = submit(first, &body).await;
    assert!(["queued", "running"].contains(&job["state"].as_str().unwrap()), "{job}");
    // Whichever api ran it: the other one knows as well.
    let done = show(second, id(&job), "20s").await;
    assert_eq!((done["state"].as_str(), done["attempts"].as_u64()), (Some("done"), Some(1)), "{done}");
    assert_eq!(done["metadata"]["run"], "7");
    let sync = json!({ "model": cluster.model_name(), "input": input });
    let sync = client::post(first, "/v1/embeddings", &sync).await.unwrap().json();
    assert_eq!(done["result"], sync);
    // Large enough to be kept as an object.
    let many: Vec<String> = (0..400).map(|row| format!("sentence number {row}")).collect();
    let job = submit(second, &embed(&cluster, &json!(many))).await;
    let done = show(first, id(&job), "20s").await;
    assert_eq!(done["result"]["data"].as_array().map(Vec::len), Some(400), "{}", done["state"]);
    assert!(client::get(first, "/v1/jobs/nonsense").await.unwrap().status == 404);
    assert_eq!(delete(first, &format!("/v1/jobs/{}", id(&job))).await.status, 409, "it has ended");
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_said_at_the_door() {
    let cluster = Cluster::start(ClusterOptions { apis: 1, ..two_apis() }).await;
    let addr = cluster.api(0).addr();
    let good = embed(&cluster, &json!("x"));
    for (field, value, status) in [
        ("task", json!("sing"), 400),
        ("model", json!("nobody"), 404),
        ("input", json!([]), 400),
        ("timeout", json!("2days"), 400),
        ("webhook", json!({ "url": "http://127.0.0.1:1/", "secret": SECRET }), 400),
        ("webhook", json!({ "url": "http://[::ffff:169.254.169.254]/", "secret": SECRET }), 400),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = client::post(addr, "/v1/jobs", &body).await.unwrap();
        assert_eq!(answer.status, status, "{field}: {}", answer.text());
    }
    let large: Vec<String> = (0..8).map(|_| "x".repeat(200_000)).collect();
    let answer = client::post(addr, "/v1/jobs", &embed(&cluster, &json!(large))).await.unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("/v1/batches"), "{}", answer.text());
    assert_eq!(client::get(addr, "/v1/jobs").await.unwrap().json()["data"], json!([]), "nothing is left behind");
    cluster.stop().await;
}

#[tokio::test]
async fn the_api_that_runs_jobs_is_killed_and_the_other_ends_each_once() {
    let cluster = Cluster::start(slow("150ms", "10s")).await;
    let [doomed, other] = [cluster.api(0).addr(), cluster.api(1).addr()];
    let jobs = join_all((0..30).map(|row| {
        let body = embed(&cluster, &json!(format!("row {row}")));
        async move { submit(doomed, &body).await }
    }))
    .await;
    // Both take from the queue: some run at the one that dies.
    eventually("some job runs", LONG, || async {
        let running = client::get(other, "/v1/jobs?state=running&limit=100").await.unwrap().json();
        running["data"].as_array().is_some_and(|running| running.len() >= 2)
    })
    .await;
    cluster.api(0).kill9();
    let mut attempts = 0;
    for job in &jobs {
        let done = show(other, id(job), "40s").await;
        assert_eq!(done["state"], "done", "{done}");
        assert_eq!(done["result"]["data"].as_array().map(Vec::len), Some(1), "{done}");
        attempts += done["attempts"].as_u64().unwrap();
    }
    println!("{} jobs, {attempts} attempts", jobs.len());
    assert!(attempts > 30, "the dead api held none");
    async_queue_is_empty(&cluster).await;
}

async fn async_queue_is_empty(cluster: &Cluster) {
    let client = async_nats::connect(cluster.broker_url()).await.unwrap();
    let js = jetstream::new(client);
    eventually("the queue of asynchronous jobs is empty", LONG, || async {
        js.get_stream("FOREBAY_ASYNC").await.unwrap().cached_info().state.messages == 0
    })
    .await;
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_waits_and_while_it_runs() {
    let cluster = Cluster::start(slow("2s", "20s")).await;
    let [first, second] = [cluster.api(0).addr(), cluster.api(1).addr()];
    // Credit of two batches per worker and more behind them: the last of these waits in the queue.
    let mut jobs = Vec::new();
    for row in 0..40 {
        jobs.push(submit(first, &embed(&cluster, &json!(format!("row {row}")))).await);
    }
    let last = jobs.pop().unwrap();
    let waiting = client::get(second, &format!("/v1/jobs/{}", id(&last))).await.unwrap().json();
    assert_eq!(waiting["state"], "queued", "{waiting}");
    assert!(waiting["position"].as_u64().is_some_and(|ahead| ahead > 0), "{waiting}");
    let find_running =
        || async { client::get(second, "/v1/jobs?state=running").await.unwrap().json()["data"][0].clone() };
    eventually("one is seen to run", LONG, || async { !find_running().await.is_null() }).await;
    let running = find_running().await;
    for job in [&last, &running] {
        let path = format!("/v1/jobs/{}", id(job));
        let cancelled = delete(second, &path).await;
        assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")));
        assert_eq!(delete(first, &path).await.status, 409);
    }
    for job in jobs.iter().filter(|job| id(job) != id(&running)) {
        let answer = delete(first, &format!("/v1/jobs/{}", id(job))).await;
        assert!([200, 409].contains(&answer.status), "{}", answer.text());
    }
    async_queue_is_empty(&cluster).await;
    let end = show(first, id(&running), "1s").await;
    assert_eq!((end["state"].as_str(), end.get("result")), (Some("cancelled"), None), "the first end stays");
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_expires_by_its_deadline_also_when_nobody_serves_its_model() {
    let cluster = Cluster::start(ClusterOptions { apis: 2, ..slow("50ms", "10s") }).await;
    let addr = cluster.api(0).addr();
    cluster.worker(0).terminate(LONG).await;
    let mut body = embed(&cluster, &json!("x"));
    body["timeout"] = json!(2);
    let begin = Instant::now();
    let job = submit(addr, &body).await;
    let expired = show(addr, id(&job), "20s").await;
    assert_eq!(expired["state"], "expired", "{expired}");
    assert_eq!(expired["error"]["code"], "deadline_exceeded", "{expired}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // A worker that comes back finds what has time left, and does not touch what has none.
    body["timeout"] = json!("10m");
    let patient = submit(addr, &body).await;
    cluster.worker(0).restart();
    assert_eq!(show(addr, id(&patient), "40s").await["state"], "done");
    async_queue_is_empty(&cluster).await;
}

#[tokio::test]
async fn one_idempotency_key_is_one_job_however_many_ask_at_once() {
    let cluster = Cluster::start(two_apis()).await;
    let addrs = cluster.api_addrs();
    let body = embed(&cluster, &json!("once"));
    let send = |at: usize, path: &'static str, key: &'static str, body: Value| {
        let addr = addrs[at % 2];
        async move { Client::new(addr).header("Idempotency-Key", key).post(path, &body).await.unwrap() }
    };
    let answers = join_all((0..20).map(|at| send(at, "/v1/jobs", "k1", body.clone()))).await;
    assert!(
        answers.iter().all(|answer| answer.status == 202),
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    let ids: HashSet<String> = answers.iter().map(|answer| id(&answer.json()).to_owned()).collect();
    assert_eq!(ids.len(), 1);
    let fresh = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
    assert_eq!(fresh, 1, "one made it, the others were told");
    let other = send(0, "/v1/jobs", "k1", embed(&cluster, &json!("another"))).await;
    assert_eq!((other.status, other.json()["error"]["code"].as_str()), (422, Some("idempotency_key_reused")));

    // The synchronous route: one execution, one answer, byte for byte.
    let sync = json!({ "model": cluster.model_name(), "input": ["a", "b"] });
    let answers = join_all((0..20).map(|at| send(at, "/v1/embeddings", "k1", sync.clone()))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let plain = client::post(addrs[0], "/v1/embeddings", &sync).await.unwrap();
    assert_eq!(plain.json(), answers[0].json(), "as without a key");
    let list = client::get(addrs[1], "/v1/jobs?limit=100").await.unwrap().json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "one per key and route: {list}");
    let again = send(1, "/v1/embeddings", "k1", sync.clone()).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    let other = send(0, "/v1/embeddings", "k1", json!({ "model": cluster.model_name(), "input": "c" })).await;
    assert_eq!(other.status, 422, "{}", other.text());
    let tei = send(0, "/embed", "k2", json!({ "inputs": "a" })).await;
    assert_eq!(tei.status, 200, "{}", tei.text());
    assert!(tei.json()[0].is_array(), "{}", tei.text());
    // A failure is an answer as well.
    let words = json!({ "model": cluster.model_name(), "input": "word ".repeat(40_000) });
    let failed = join_all((0..4).map(|at| send(at, "/v1/embeddings", "k3", words.clone()))).await;
    assert!(failed.iter().all(|answer| answer.status == 400), "{} {}", failed[0].status, failed[0].text());
    cluster.stop().await;
}

#[tokio::test]
async fn a_reservation_whose_maker_died_is_fulfilled_by_who_comes_next() {
    let cluster = Cluster::start(slow("10ms", "10s")).await;
    let [first, second] = [cluster.api(0).addr(), cluster.api(1).addr()];
    let body = embed(&cluster, &json!("mine"));
    let keyed = |addr| Client::new(addr).header("Idempotency-Key", "k");
    let job = keyed(first).post("/v1/jobs", &body).await.unwrap().json();
    let done = show(first, id(&job), "20s").await;
    assert_eq!(done["state"], "done");
    // As if a maker had died before it published: the reservation stands, record and message do not.
    let js = jetstream::new(async_nats::connect(cluster.broker_url()).await.unwrap());
    let keys = js.get_key_value("FOREBAY_IDEMPOTENCY").await.unwrap();
    let name = futures::StreamExt::next(&mut keys.keys().await.unwrap()).await.unwrap().unwrap();
    let mut reservation: Value = serde_json::from_slice(&keys.get(&name).await.unwrap().unwrap()).unwrap();
    let records = js.get_key_value("FOREBAY_RECORDS").await.unwrap();
    let record = records.get(format!("default.{}", id(&job))).await.unwrap().unwrap();
    let record: async_jobs::Record = serde_json::from_slice(&record).unwrap();
    let now_ms = record.created_ms + 5_000;
    let (new, token) = (async_jobs::new_job_id(now_ms), record.token.clone());
    let deadline_ms = now_ms + 600_000;
    let envelope = async_jobs::Envelope {
        job: new,
        generation: 0,
        tenant: record.tenant.clone(),
        model: record.model.clone(),
        token: token.clone(),
        lane: Lane::Low,
        deadline_us: deadline_ms * 1_000,
        trace: None,
        task: Task::Embed(EmbedParams::default()),
        form: async_jobs::AnswerForm::OpenAiFloat,
        rows: vec![Input::Text("mine".into())],
    };
    let fresh = async_jobs::Record::new(
        new,
        record.tenant.clone(),
        record.model.clone(),
        token.clone(),
        "embed",
        1,
        now_ms,
        deadline_ms,
    );
    let bytes = base64::engine::general_purpose::STANDARD.encode(codec::encode(&envelope).unwrap());
    reservation["job"] = json!(new);
    reservation["reserved"] = json!({
        "record": fresh,
        // Its maker knew no turns of tenants: what such apis queued is still taken.
        "subject": subjects::async_model(&token).replace('*', record.tenant.as_str()),
        "envelope": { "inline": bytes },
    });
    keys.put(&name, reservation.to_string().into()).await.unwrap();
    let begin = Instant::now();
    let again = keyed(second).post("/v1/jobs", &body).await.unwrap();
    assert_eq!((again.status, id(&again.json()).to_owned()), (202, new.to_string()), "{}", again.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert!(begin.elapsed() > Duration::from_millis(500), "a young reservation is left alone");
    assert_eq!(show(first, &new.to_string(), "20s").await["state"], "done");
    cluster.stop().await;
}

#[tokio::test]
async fn events_tell_each_state_until_the_end() {
    let cluster = Cluster::start(slow("500ms", "10s")).await;
    let [first, second] = [cluster.api(0).addr(), cluster.api(1).addr()];
    let job = submit(first, &embed(&cluster, &json!("x"))).await;
    let path = format!("/v1/jobs/{}/events", id(&job));
    let streams = join_all([first, second, second].map(|addr| client::get(addr, &path))).await;
    for stream in streams {
        let stream = stream.unwrap();
        assert_eq!(stream.header("content-type"), Some("text/event-stream"));
        let text = stream.text();
        let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events.last(), Some(&"done"), "{text}");
        assert_eq!(events.iter().filter(|event| **event == "done").count(), 1, "{text}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_list_is_paged_from_the_newest() {
    let cluster = Cluster::start(two_apis()).await;
    let [first, second] = [cluster.api(0).addr(), cluster.api(1).addr()];
    let mut ids = Vec::new();
    for row in 0..5 {
        ids.push(id(&submit(first, &embed(&cluster, &json!(format!("row {row}")))).await).to_owned());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ids.reverse();
    let page = |query: String| async move {
        let page = client::get(second, &format!("/v1/jobs?{query}")).await.unwrap().json();
        let ids = page["data"].as_array().unwrap().iter().map(|job| id(job).to_owned()).collect::<Vec<_>>();
        (ids, page["has_more"].as_bool().unwrap(), page["last_id"].as_str().map(str::to_owned))
    };
    let (newest, more, last) = page("limit=3".to_owned()).await;
    assert_eq!((&newest[..], more), (&ids[..3], true));
    let (rest, more, _) = page(format!("limit=3&after={}", last.unwrap())).await;
    assert_eq!((&rest[..], more), (&ids[3..], false));
    eventually("all are done", LONG, || async { page("state=done".to_owned()).await.0.len() == 5 }).await;
    assert_eq!(client::get(first, "/v1/jobs?limit=0").await.unwrap().status, 400);
    assert_eq!(client::get(first, "/v1/jobs?state=gone").await.unwrap().status, 400);
    cluster.stop().await;
}

/// SHA-256 of `first` and of `second`, who use their names as keys.
const KEYS: [(&str, &str); 2] = [
    ("first", "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"),
    ("second", "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4"),
];

#[tokio::test]
async fn a_tenant_sees_its_own_jobs_and_gets_what_its_key_may_use() {
    let tenants = KEYS.map(|(name, hash)| json!({ "name": name, "keys": [{ "id": "1", "sha256": hash }] }));
    let mut tenants = json!({ "tenants": tenants });
    tenants["tenants"][1]["models"] = json!(["another"]);
    tenants["tenants"][0]["highest_lane"] = json!("normal");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, tenants.to_string()).unwrap();
    let api_args = vec!["--api-keys".to_owned(), file.display().to_string()];
    let cluster = Cluster::start(ClusterOptions { api_args, ..two_apis() }).await;
    let addr = cluster.api(0).addr();
    let client = |name: &str| Client::new(addr).header("Authorization", &format!("Bearer {name}"));
    let body = embed(&cluster, &json!("x"));
    let job = client("first").header("Idempotency-Key", "k").post("/v1/jobs", &body).await.unwrap();
    assert_eq!(job.status, 202, "{}", job.text());
    let path = format!("/v1/jobs/{}", id(&job.json()));
    assert_eq!(client("first").get(&path).await.unwrap().status, 200);
    assert_eq!(client("second").get(&path).await.unwrap().status, 404, "another tenant's job does not exist");
    assert_eq!(client("second").get(&format!("{path}/events")).await.unwrap().status, 404);
    assert_eq!(client("second").send("DELETE", &path, b"").await.unwrap().status, 404);
    assert_eq!(client("second").get("/v1/jobs").await.unwrap().json()["data"], json!([]));
    let refused = client("second").post("/v1/jobs", &body).await.unwrap();
    assert_eq!(refused.status, 403, "its key may use another model only: {}", refused.text());
    let mut urgent = body.clone();
    urgent["priority"] = json!("high");
    assert_eq!(client("first").post("/v1/jobs", &urgent).await.unwrap().status, 403);
    assert_eq!(client::post(addr, "/v1/jobs", &body).await.unwrap().status, 401);
    cluster.stop().await;
}

/// Leaves so many bytes less in the store of results.
async fn fill(js: &jetstream::Context, bytes: usize) {
    let results = js.get_object_store("FOREBAY_RESULTS").await.unwrap();
    results.put("filler", &mut &vec![0; bytes][..]).await.unwrap();
}

#[tokio::test]
async fn a_result_that_has_no_room_is_held_and_not_computed_again_and_new_jobs_are_refused_meanwhile() {
    const BOUND: usize = 1_000_000;
    let mut options = slow("2s", "10s");
    options.env.push(("FOREBAY_RESULTS_MAX_BYTES", BOUND.to_string()));
    options.env.push(("FOREBAY_BATCH_MAX_ROWS", "1000".to_owned()));
    let cluster = Cluster::start(options).await;
    let addr = cluster.api(0).addr();
    let js = jetstream::new(cluster.broker_client().await);
    // Its result does not fit into its record.
    let body = embed(&cluster, &json!(vec!["x"; 1_000]));
    let job = submit(addr, &body).await;
    fill(&js, BOUND - 20_000).await;
    eventually("its end cannot be written", LONG, || async {
        (0..2).any(|api| cluster.api(api).log().contains("the end of a job cannot be written"))
    })
    .await;
    let refused = client::post(addr, "/v1/jobs", &body).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "overloaded", "{}", refused.text());
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 1));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let waits = show(addr, id(&job), "100ms").await;
    assert_eq!((waits["state"].as_str(), waits["attempts"].as_u64()), (Some("running"), Some(1)), "{waits}");

    js.get_object_store("FOREBAY_RESULTS").await.unwrap().delete("filler").await.unwrap();
    let done = show(addr, id(&job), "20s").await;
    assert_eq!((done["state"].as_str(), done["attempts"].as_u64()), (Some("done"), Some(1)), "{done}");
    eventually("jobs are accepted again", LONG, || async {
        client::post(addr, "/v1/jobs", &embed(&cluster, &json!("x"))).await.unwrap().status == 202
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_was_accepted_ends_however_many_more_are_asked_for_than_there_is_room_for() {
    let mut options = two_apis();
    options.env.push(("FOREBAY_RECORDS_MAX_BYTES", "600000".to_owned()));
    let cluster = Cluster::start(options).await;
    let addr = cluster.api(0).addr();
    let body = embed(&cluster, &json!("x"));
    let (mut accepted, begin) = (Vec::new(), Instant::now());
    loop {
        let answer = client::post(addr, "/v1/jobs", &body).await.unwrap();
        match answer.status {
            202 => accepted.push(id(&answer.json()).to_owned()),
            503 => break assert_eq!(answer.json()["error"]["code"], "overloaded", "{}", answer.text()),
            _ => panic!("{}", answer.text()),
        }
        assert!(begin.elapsed() < LONG, "nothing was refused after {} jobs", accepted.len());
    }
    assert!(accepted.len() > 20, "{}", accepted.len());
    for job in &accepted {
        assert_eq!(show(addr, job, "20s").await["state"], "done");
    }
    cluster.stop().await;
}
