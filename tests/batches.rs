//! Batches end, whoever dies meanwhile, and every line is answered once. Real processes, real signals, a real broker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::PullConsumer};
use forebay_api::batches::part::{Segment, Step};
use forebay_api::batches::records::Records;
use forebay_api::files::Files;
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec;
use forebay_shared::ids::TenantName;
use forebay_shared::metrics::{ApiMetrics, StoreWrite};
use forebay_shared::subjects;
use serde_json::{Value, json};
use support::batch::{Batches, line, lines, occurrences};
use support::{Client, Cluster, ClusterOptions, eventually, queue, verify};

const LONG: Duration = Duration::from_secs(60);

async fn start(options: ClusterOptions) -> (Cluster, Batches) {
    let cluster = Cluster::start(options).await;
    let batches = Batches::new(cluster.api_addrs());
    (cluster, batches)
}

/// Output lines of `lines(model, count)`: all of them, once, in order, each with its own vector.
fn complete(output: &[Value], count: usize) {
    assert_eq!(output.len(), count);
    let verify = verify::built_in();
    for (i, line) in output.iter().enumerate() {
        assert_eq!(line["custom_id"], format!("row-{i}"), "line {i}");
        assert_eq!((&line["response"]["status_code"], &line["error"]), (&json!(200), &Value::Null), "line {i}");
        verify(&format!("input {i}"), &line["response"]["body"]).unwrap();
    }
}

#[tokio::test]
async fn a_batch_is_answered_line_by_line_and_its_files_can_be_listed_and_deleted() {
    let (cluster, batches) = start(ClusterOptions::default()).await;
    let mut file = lines("identity", 1_200);
    file.push('\n');
    file += &line("too many dimensions", "identity", "x").replace("\"input\"", "\"dimensions\":7,\"input\"");
    file += &line("unknown model", "no-such-model", "x");
    file += line("last", "identity", "x").trim_end();
    let id = batches.begin(file.as_bytes()).await;
    let batch = batches.ends(&id, LONG).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({ "total": 1_203, "completed": 1_201, "failed": 2 }));
    for stamp in ["created_at", "in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[stamp].as_u64().is_some_and(|at| at > 1_700_000_000), "{stamp}: {batch}");
    }

    let mut output = batches.lines(&batch["output_file_id"]).await;
    assert_eq!(output.pop().unwrap()["custom_id"], "last");
    complete(&output, 1_200);
    let errors = batches.lines(&batch["error_file_id"]).await;
    let said: Vec<_> = errors
        .iter()
        .map(|line| {
            let response = &line["response"];
            (line["custom_id"].as_str().unwrap(), response["status_code"].clone(), response["body"]["error"].clone())
        })
        .collect();
    assert_eq!(
        (said[0].0, &said[0].1, &said[0].2["param"]),
        ("too many dimensions", &json!(400), &json!("dimensions"))
    );
    assert_eq!((said[1].0, &said[1].1, &said[1].2["code"]), ("unknown model", &json!(404), &json!("model_not_found")));

    // Pages, newest first.
    let second = batches.begin(lines("identity", 1).as_bytes()).await;
    let page = batches.get("/v1/batches?limit=1").await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(second), &json!(true)), "{page}");
    let page = batches.get(&format!("/v1/batches?after={second}")).await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(id), &json!(false)), "{page}");
    batches.ends(&second, LONG).await;
    let inputs = batches.get("/v1/files?purpose=batch").await.json();
    assert_eq!(inputs["data"].as_array().unwrap().len(), 2, "{inputs}");

    let answer = batches.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    let output = format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap());
    assert_eq!(batches.get(&output).await.json()["purpose"], "batch_output");
    let gone = batches.ask("DELETE", &output, "application/json", b"").await.json();
    assert_eq!(gone["deleted"], true);
    for path in [output.clone(), format!("{output}/content"), "/v1/batches/batch_none".to_owned()] {
        assert_eq!(batches.get(&path).await.status, 404, "{path}");
    }
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_fails_with_the_lines_named_and_a_large_one_is_refused() {
    let api_args = ["--max-file-bytes", "100000"].map(str::to_owned).into();
    let (cluster, batches) = start(ClusterOptions { api_args, ..ClusterOptions::default() }).await;
    let file = [
        line("a", "identity", "x"),
        "{\"custom_id\": \n".to_owned(),
        line("a", "identity", "y"),
        line("b", "identity", "x").replace("POST", "GET"),
        line("c", "identity", "x").replace("\"model\"", "\"nodel\""),
    ];
    let id = batches.begin(file.concat().as_bytes()).await;
    let batch = batches.ends(&id, LONG).await;
    assert_eq!(batch["status"], "failed", "{batch}");
    let faults: Vec<_> = batch["errors"]["data"].as_array().unwrap().iter().map(|e| (&e["line"], &e["code"])).collect();
    let expected = [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_method"),
        (5, "missing_required_parameter"),
    ];
    let expected: Vec<_> = expected.iter().map(|(line, code)| (json!(line), json!(code))).collect();
    assert_eq!(faults, expected.iter().map(|(line, code)| (line, code)).collect::<Vec<_>>(), "{batch}");

    let empty = batches.ends(&batches.begin(b"\n").await, LONG).await;
    assert_eq!(empty["errors"]["data"][0]["code"], "empty_file", "{empty}");
    assert_eq!(batches.upload("fine-tune", b"x").await.status, 400);
    for bytes in [110_000, 3_000_000] {
        let answer = batches.upload("batch", &vec![b'x'; bytes]).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    assert_eq!(batches.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 2, "what was refused is gone");
    cluster.stop().await;
}

#[tokio::test]
async fn a_cancelled_batch_stops_and_keeps_what_has_run() {
    let options = ClusterOptions {
        model: "simulated".to_owned(),
        env: vec![("FOREBAY_SIMULATED_BASE", "20ms".to_owned()), ("FOREBAY_BATCH_MAX_ROWS", "32".to_owned())],
        ..ClusterOptions::default()
    };
    let (cluster, batches) = start(options).await;
    let id = batches.begin(lines("simulated", 20_000).as_bytes()).await;
    batches.reaches(&id, 500, LONG).await;
    let begin = Instant::now();
    let answer = batches.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await.json();
    assert_eq!(answer["status"], "cancelling", "{answer}");
    let batch = batches.ends(&id, LONG).await;
    println!("cancelled within {:?}", begin.elapsed());
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let output = batches.lines(&batch["output_file_id"]).await;
    let errors = batches.lines(&batch["error_file_id"]).await;
    assert!(output.len() >= 500 && errors.len() > 1_000, "{} and {}", output.len(), errors.len());
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_cancelled"));
    let seen = occurrences(output.iter().chain(&errors));
    assert!(seen.len() == 20_000 && seen.values().all(|times| *times == 1));
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_batch_waits_for_a_worker_and_for_the_broker_and_no_line_fails() {
    let api_args = ["--no-worker-after", "1s"].map(str::to_owned).into();
    let (cluster, batches) = start(ClusterOptions { api_args, ..ClusterOptions::default() }).await;
    cluster.worker(0).kill9();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let id = batches.begin(lines("identity", 4_000).as_bytes()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let batch = batches.show(&id).await;
    assert_eq!((&batch["status"], &batch["request_counts"]["failed"]), (&json!("in_progress"), &json!(0)), "{batch}");
    cluster.worker(0).restart();
    batches.reaches(&id, 500, LONG).await;
    cluster.restart_nats(Duration::from_millis(300)).await;
    let batch = batches.ends(&id, LONG).await;
    assert_eq!(batch["request_counts"], json!({ "total": 4_000, "completed": 4_000, "failed": 0 }), "{batch}");
    complete(&batches.lines(&batch["output_file_id"]).await, 4_000);
    cluster.stop().await;
}

#[tokio::test]
async fn a_full_store_refuses_what_is_new_and_a_batch_goes_on_when_something_is_removed_or_ends_by_cancelling() {
    const BOUND: usize = 3_500_000;
    let env = vec![("FOREBAY_FILES_MAX_BYTES", BOUND.to_string())];
    let (cluster, batches) = start(ClusterOptions { env, ..ClusterOptions::default() }).await;
    // Answers of 8 kB, so that the lines that are written off in the end are few beside them.
    let (count, inputs) = (300, json!(vec!["x"; 80]).to_string());
    let file: String =
        (0..count).map(|i| line(&format!("row-{i}"), "identity", "INPUT").replace("\"INPUT\"", &inputs)).collect();
    let filler = vec![b'x'; BOUND * 6 / 10];
    let full_and_begun = async || {
        let filler = batches.upload("batch", &filler).await;
        assert_eq!(filler.status, 200, "{}", filler.text());
        let id = batches.begin(file.as_bytes()).await;
        let given_back = || cluster.api(0).log().matches("a part of a batch is given back to the queue").count();
        let before = given_back();
        eventually("parts wait for room", LONG, || async { given_back() > before }).await;
        (filler.json()["id"].as_str().unwrap().to_owned(), id)
    };

    let (filler, id) = full_and_begun().await;
    let waits = batches.show(&id).await;
    assert_eq!((&waits["status"], &waits["request_counts"]["failed"]), (&json!("in_progress"), &json!(0)), "{waits}");
    let api = || Client::new(cluster.api(0).addr());
    let wanted =
        json!({ "input_file_id": waits["input_file_id"], "endpoint": "/v1/embeddings", "completion_window": "24h" });
    for refused in [
        api().post("/v1/batches", &wanted).await.unwrap(),
        api().send_as("multipart/form-data; boundary=x", "POST", "/v1/files", &[b'x'; 1_000]).await.unwrap(),
    ] {
        assert_eq!(refused.status, 507, "{}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "insufficient_storage", "{}", refused.text());
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    // A full store lets go of what is removed, and what waited goes on.
    let gone = batches.ask("DELETE", &format!("/v1/files/{filler}"), "application/json", b"").await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    let batch = batches.ends(&id, 2 * LONG).await;
    assert_eq!(batch["request_counts"], json!({ "total": count, "completed": count, "failed": 0 }), "{batch}");
    let output = batches.lines(&batch["output_file_id"]).await;
    for (i, line) in output.iter().enumerate() {
        let vectors = line["response"]["body"]["data"].as_array().map(Vec::len);
        assert_eq!((line["custom_id"].as_str(), vectors), (Some(format!("row-{i}").as_str()), Some(80)));
    }
    assert_eq!(output.len(), count);
    for file in [&batch["output_file_id"], &batch["input_file_id"]] {
        let path = format!("/v1/files/{}", file.as_str().unwrap());
        assert_eq!(batches.ask("DELETE", &path, "application/json", b"").await.status, 200);
    }
    assert!(used_bytes(&cluster).await < 1_000, "what is removed leaves nothing");

    let (_, id) = full_and_begun().await;
    batches.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await;
    let batch = batches.ends(&id, 2 * LONG).await;
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let (output, errors) =
        (batches.lines(&batch["output_file_id"]).await, batches.lines(&batch["error_file_id"]).await);
    assert!(!errors.is_empty() && errors.iter().all(|line| line["error"]["code"] == "batch_cancelled"));
    let seen = occurrences(output.iter().chain(&errors));
    assert!(seen.len() == count && seen.values().all(|times| *times == 1), "{} of {count}", seen.len());
    cluster.stop().await;
}

#[tokio::test]
async fn a_file_of_more_pieces_than_one_message_can_list_is_read_and_removed_like_any_other() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let js = jetstream::new(cluster.broker_client().await);
    let records = Records::new(js.get_key_value("FOREBAY_BATCHES").await.unwrap());
    let objects = js.get_object_store("FOREBAY_FILES").await.unwrap();
    let (clock, keep) = (BrokerClock::from_wall_clock(), Duration::from_secs(3_600));
    let failed = ApiMetrics::new().store_write_errors_total.with(&(StoreWrite::Object,));
    let files = Files::new(records.clone(), objects, js.clone(), clock, failed, 1 << 30, keep);
    let (tenant, id) = (TenantName::default(), "file-of-many");
    // Their names alone are more than a message carries.
    let segments: Vec<Segment> = (0..20_000).map(|i| Segment { object: format!("part-{i:032}"), bytes: 3 }).collect();
    files.keep_segments(&tenant, id, "x.jsonl".to_owned(), segments.clone(), None).await.unwrap();
    let file = files.find(&tenant, id).await.unwrap().unwrap();
    assert_eq!(file.bytes, 60_000);
    assert_eq!(files.segments(&file).await.unwrap(), segments);
    assert_eq!(records.count(&js, "segments.file-of-many.").await.unwrap(), 2);
    files.remove(&file).await.unwrap();
    assert_eq!(records.count(&js, "segments.file-of-many.").await.unwrap(), 0);
    assert!(files.find(&tenant, id).await.unwrap().is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn lines_that_wait_for_a_worker_do_not_fail_however_often_their_api_is_restarted() {
    let api_args = ["--no-worker-after", "1s"].map(str::to_owned).into();
    let (cluster, batches) = start(ClusterOptions { api_args, ..ClusterOptions::default() }).await;
    cluster.worker(0).kill9();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let id = batches.begin(lines("identity", 3).as_bytes()).await;
    let js = jetstream::new(cluster.broker_client().await);
    let deliveries = async || {
        let run: PullConsumer = js.get_consumer_from_stream("run", "FOREBAY_PARTS").await.unwrap();
        run.cached_info().delivered.consumer_sequence
    };
    // More than would be a part's own fault.
    for restart in 1..=18 {
        let what = format!("the part is held for the time number {restart}");
        eventually(&what, LONG, || async { deliveries().await >= restart }).await;
        cluster.api(0).terminate(LONG).await;
        cluster.api(0).restart();
    }
    cluster.worker(0).restart();
    let batch = batches.ends(&id, LONG).await;
    assert_eq!(batch["request_counts"], json!({ "total": 3, "completed": 3, "failed": 0 }), "{batch}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_batch_that_ends_without_files_leaves_no_answers_behind() {
    let options = ClusterOptions {
        model: "simulated".to_owned(),
        env: vec![("FOREBAY_SIMULATED_BASE", "20ms".to_owned()), ("FOREBAY_BATCH_MAX_ROWS", "32".to_owned())],
        ..ClusterOptions::default()
    };
    let (cluster, batches) = start(options).await;
    let id = batches.begin(lines("simulated", 20_000).as_bytes()).await;
    let batch = batches.reaches(&id, 500, LONG).await;
    let input = format!("/v1/files/{}", batch["input_file_id"].as_str().unwrap());
    assert_eq!(batches.ask("DELETE", &input, "application/json", b"").await.status, 200);
    assert!(used_bytes(&cluster).await > 100_000, "parts have ended");
    // As a repair does, which takes minutes to come to it.
    let js = jetstream::new(cluster.broker_client().await);
    let step = Step { batch: id.clone(), tenant: TenantName::default() };
    let subject = subjects::batch_step(&step.tenant);
    js.publish(subject, codec::encode(&step).unwrap()).await.unwrap().await.unwrap();
    let batch = batches.ends(&id, LONG).await;
    assert_eq!((&batch["status"], &batch["output_file_id"]), (&json!("failed"), &Value::Null), "{batch}");
    queue::is_empty_in_the_end(&cluster).await;
    eventually("nothing is left in the store", LONG, || async { used_bytes(&cluster).await == 0 }).await;
    cluster.stop().await;
}

/// Bytes in the store of files.
async fn used_bytes(cluster: &Cluster) -> u64 {
    let js = jetstream::new(cluster.broker_client().await);
    forebay_shared::streams::level(&js, "OBJ_FOREBAY_FILES").await.unwrap().used_bytes
}

/// Runs a batch of `count` lines on two apis and two workers, and kills one after the other at these shares of its way.
/// Returns the seconds that the batch took.
async fn with_kills(count: usize, kills: &[(f64, Kill)]) -> f64 {
    let (cluster, batches) =
        start(ClusterOptions { apis: 2, workers: 2, reapers: true, ..ClusterOptions::default() }).await;
    let file = lines("identity", count);
    let begin = Instant::now();
    let id = batches.begin(file.as_bytes()).await;
    drop(file);
    for (share, kill) in kills {
        let batch = batches.reaches(&id, (share * count as f64) as u64, LONG).await;
        let killed = match kill {
            Kill::Api(n) => cluster.api(*n),
            Kill::Worker(n) => cluster.worker(*n),
        };
        killed.kill9();
        println!("{:.2} s: killed {} at {}", begin.elapsed().as_secs_f64(), killed.name(), batch["request_counts"]);
        killed.restart();
    }
    let batch = batches.ends(&id, 5 * LONG).await;
    let took = begin.elapsed().as_secs_f64();
    println!("{took:.2} s: {}", batch["status"]);
    assert_eq!(batch["request_counts"], json!({ "total": count, "completed": count, "failed": 0 }), "{batch}");
    assert_eq!(batch["error_file_id"], Value::Null);
    complete(&batches.lines(&batch["output_file_id"]).await, count);
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
    took
}

#[derive(Debug, Clone, Copy)]
enum Kill {
    Api(usize),
    Worker(usize),
}

#[tokio::test]
async fn every_line_is_answered_once_while_apis_and_workers_are_killed() {
    let kills =
        [(0.0, Kill::Api(0)), (0.1, Kill::Worker(0)), (0.3, Kill::Api(1)), (0.5, Kill::Worker(1)), (0.7, Kill::Api(0))];
    with_kills(20_000, &kills).await;
}

#[tokio::test]
#[ignore = "a bench: make bench-batch"]
async fn bench_a_batch_with_and_without_kills() {
    let count = std::env::var("BATCH_LINES").ok().and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let undisturbed = with_kills(count, &[]).await;
    let kills = [(0.2, Kill::Worker(0)), (0.4, Kill::Api(0)), (0.6, Kill::Worker(1)), (0.8, Kill::Api(1))];
    let both: Vec<(&str, Vec<(f64, Kill)>)> = vec![
        ("one worker", vec![(0.4, Kill::Worker(0))]),
        ("one api", vec![(0.4, Kill::Api(0))]),
        ("both workers and both apis, one after the other", kills.to_vec()),
    ];
    println!("\n| killed meanwhile | lines/s | time lost, s |\n|---|---|---|");
    let row = |what: &str, took: f64, lost: f64| println!("| {what} | {:.0} | {lost:.1} |", count as f64 / took);
    let mut rows = vec![("nobody", undisturbed)];
    for (what, kills) in &both {
        rows.push((what, with_kills(count, kills).await));
    }
    println!(
        "\n{count} lines, identity model, 2 apis, 2 workers\n| killed meanwhile | lines/s | time lost, s |\n|---|---|---|"
    );
    for (what, took) in rows {
        row(what, took, took - undisturbed);
    }
}
