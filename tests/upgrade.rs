//! A new version joins a running fleet: processes of two versions understand each other, every role is restarted under load
//! without a failed request, and definitions change by `forebay migrate` alone.
//!
//! The previous version is here as what it left behind: the bytes of its messages, as frozen in the codec's tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use forebay_shared::codec;
use forebay_shared::ids::{BootId, JobId, Lane, ModelToken, TenantName};
use forebay_shared::job::{
    Bundle, EmbedParams, Input, Job, Live, Output as Vector, Reply, ReplyBatch, ReplyGroup, Task,
};
use forebay_shared::model::{ModelRecord, record_key};
use forebay_shared::{streams, subjects};
use futures::StreamExt;
use serde_json::json;
use support::{Client, Cluster, ClusterOptions, Load, eventually, queue};

const LONG: Duration = Duration::from_secs(20);
/// What the release before this one speaks.
const PREVIOUS: u8 = 1;

async fn token(js: &jetstream::Context, model: &str) -> ModelToken {
    let models = js.get_key_value(streams::MODELS_BUCKET).await.unwrap();
    let record = models.get(record_key(&model.into())).await.unwrap().unwrap();
    serde_json::from_slice::<ModelRecord>(&record).unwrap().token
}

#[tokio::test]
async fn a_worker_answers_an_api_of_the_previous_version_in_its_version() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let client = cluster.broker_client().await;
    let js = jetstream::new(client.clone());
    let token = token(&js, "identity").await;
    let (api, job) = (BootId::random(), JobId::random());
    let mut answers = client.subscribe(subjects::replies(api)).await.unwrap();
    let in_a_while = 4_000_000_000_000_000;
    let bundle = Bundle {
        api,
        number: 3,
        jobs: vec![Job {
            id: job,
            generation: 0,
            tenant: TenantName::default(),
            enqueued_us: 0,
            deadline_us: in_a_while,
            trace: None,
            task: Task::Embed(EmbedParams::default()),
            input: Input::Text("from before".into()),
        }],
    };
    let bytes = codec::encode_for(&bundle, PREVIOUS).unwrap();
    assert_eq!(bytes[0], PREVIOUS);
    js.publish(subjects::jobs(&token, Lane::Normal, 1), bytes).await.unwrap().await.unwrap();
    let answer = tokio::time::timeout(LONG, answers.next()).await.unwrap().unwrap();
    assert_eq!(answer.payload[0], PREVIOUS, "an answer is written in the version of its question");
    let batch: ReplyBatch = codec::decode(&answer.payload).unwrap();
    assert_eq!((batch.groups[0].bundle, batch.groups[0].replies[0].id), (3, job));
    assert!(batch.groups[0].replies[0].outcome.is_ok());
    client.publish(batch.groups[0].ack.clone(), "+ACK".into()).await.unwrap();
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_api_writes_what_the_oldest_live_worker_reads() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let client = cluster.broker_client().await;
    let js = jetstream::new(client.clone());
    let token = token(&js, "identity").await;
    cluster.worker(0).terminate(LONG).await;
    // From here on a worker of the previous version is the only one: it announces itself, pulls, answers.
    let live = Live {
        boot: BootId::random(),
        process: "worker-before".into(),
        model: "identity".into(),
        token: token.clone(),
        ready: true,
        wire: PREVIOUS,
        max_rows: 0,
    };
    let announcing = {
        let (client, token) = (client.clone(), token.clone());
        tokio::spawn(async move {
            loop {
                let payload = codec::encode_for(&live, PREVIOUS).unwrap();
                client.publish(subjects::live(&token), payload).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        })
    };
    let path = "/health/ready?model=identity";
    eventually("the api sees it", LONG, || async { cluster.get(path).await.status == 200 }).await;
    let stream = js.get_stream(streams::jobs_stream(&token)).await.unwrap();
    let lane: PullConsumer = stream.get_consumer("normal").await.unwrap();
    let mut jobs = lane.messages().await.unwrap();
    let body = json!({ "model": "identity", "input": "to before" });
    let request = cluster.post("/v1/embeddings", &body);
    let work = async {
        let message = tokio::time::timeout(LONG, jobs.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload[0], PREVIOUS);
        let bundle: Bundle = codec::decode(&message.payload).unwrap();
        let vector = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        let outcome = Ok(Vector { tokens: 2, device_us: 0, vector });
        let reply = Reply { id: bundle.jobs[0].id, outcome };
        let ack = message.reply.as_ref().unwrap().to_string();
        let batch = ReplyBatch { groups: vec![ReplyGroup { bundle: bundle.number, ack, replies: vec![reply] }] };
        let payload = codec::encode_for(&batch, PREVIOUS).unwrap();
        client.publish(subjects::replies(bundle.api), payload).await.unwrap();
    };
    let (answer, ()) = tokio::join!(request, work);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"][0]["embedding"], json!([1.0, 2.0, 3.0, 4.0]));
    queue::is_empty_in_the_end(&cluster).await;
    announcing.abort();
    cluster.stop().await;
}

/// Sends to whichever api takes connections, as a load balancer does.
async fn balanced(addrs: &[std::net::SocketAddr], number: usize) -> Result<(), String> {
    let body = json!({ "model": "identity", "input": format!("request {number}") });
    for attempt in 0..addrs.len() * 2 {
        let addr = addrs[(number + attempt) % addrs.len()];
        match Client::new(addr).post("/v1/embeddings", &body).await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => return Err(format!("{}: {}", answer.status, answer.text())),
            // Nothing was sent: another one is asked.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    Err("no api takes connections".to_owned())
}

#[tokio::test]
async fn every_role_is_restarted_one_by_one_under_load_without_a_failed_request() {
    let cluster =
        Cluster::start(ClusterOptions { apis: 2, workers: 2, aggregators: 2, ..ClusterOptions::default() }).await;
    let addrs = cluster.api_addrs();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let (addrs, stopped) = (addrs.clone(), stopped.clone());
        clients.spawn(async move {
            let mut sent = 0;
            while !*stopped.borrow() {
                balanced(&addrs, client + sent * 8).await.unwrap_or_else(|error| panic!("request {sent}: {error}"));
                sent += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            sent
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The order of docs/upgrade.md.
    let order = [cluster.aggregator(0), cluster.aggregator(1), cluster.worker(0), cluster.worker(1)];
    for process in order.into_iter().chain([cluster.api(0), cluster.api(1)]) {
        let status = process.terminate(LONG).await;
        assert!(status.success(), "{} ended with {status}", process.name());
        process.restart();
        process.ready(LONG).await;
        eventually("the apis see a worker", LONG, || async {
            for addr in &addrs {
                let ready = support::client::get(*addr, "/health/ready?model=identity").await;
                if !ready.is_ok_and(|answer| answer.status == 200) {
                    return false;
                }
            }
            true
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stop.send(true).unwrap();
    let mut sent = 0;
    while let Some(client) = clients.join_next().await {
        sent += client.unwrap_or_else(|error| panic!("a request failed: {error}"));
    }
    println!("{sent} requests while six processes were restarted, none failed");
    assert!(sent > 500, "{sent}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

fn migrate(cluster: &Cluster, env: &[(&str, &str)], flags: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["migrate", "--broker", &cluster.broker_url()]).args(flags).envs(env.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[tokio::test]
async fn definitions_change_by_migration_alone() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let report = Load::new(&cluster).run(Duration::from_millis(300)).await;
    assert!(report.all_right(), "{report}");
    let smaller = [("FOREBAY_QUEUE_MAX_MESSAGES", "5000")];
    // A process that wants another definition says what differs and does not start.
    cluster.add_worker_with(&smaller);
    let status = cluster.worker(1).ended(LONG).await;
    let log = cluster.worker(1).log();
    assert!(!status.success() && log.contains("max_msgs = 1000000") && log.contains("forebay migrate"), "{log}");

    let (output, text) = migrate(&cluster, &smaller, &[]);
    assert!(output.status.success() && text.contains("max_msgs: 1000000 → 5000") && text.contains("dry run"), "{text}");
    let (_, again) = migrate(&cluster, &smaller, &[]);
    assert_eq!(text, again, "a dry run changes nothing");
    let (output, text) = migrate(&cluster, &smaller, &["--apply"]);
    assert!(output.status.success() && text.contains("1 changed"), "{text}");
    let (_, text) = migrate(&cluster, &smaller, &[]);
    assert!(text.contains("nothing to change"), "{text}");
    // The running fleet goes on; a new process with these settings joins it.
    cluster.worker(1).restart();
    cluster.worker(1).ready(LONG).await;
    let report = Load::new(&cluster).run(Duration::from_millis(300)).await;
    assert!(report.all_right(), "{report}");

    // Another storage takes a new stream: not while anything waits in the old one.
    cluster.workers().iter().for_each(support::Process::kill9);
    let mut client = support::Client::new(cluster.api(0).addr()).header("x-request-timeout", "60");
    let waiting = tokio::spawn(async move {
        client.post("/v1/embeddings", &serde_json::json!({ "model": "identity", "input": "waits" })).await
    });
    support::eventually("it waits", LONG, || async { support::queue::depth(&cluster).await == 1 }).await;
    let (output, text) = migrate(&cluster, &[("FOREBAY_DURABILITY", "memory"), smaller[0]], &["--apply"]);
    assert!(!output.status.success() && text.contains("REFUSED"), "{text}");
    cluster.worker(1).restart();
    assert_eq!(waiting.await.unwrap().unwrap().status, 200);
    cluster.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// As docs/upgrade.md says: stop the fleet, copy the folder, start a broker on the copy, then a fleet.
#[tokio::test]
async fn a_fleet_on_a_copy_of_the_store_goes_on_where_the_first_one_stopped() {
    let first = Cluster::start(ClusterOptions::default()).await;
    let job = |input: &str| json!({ "task": "embed", "model": "identity", "input": input });
    let submit = async |cluster: &Cluster, key: &str, input: &str| {
        let mut client = Client::new(cluster.api(0).addr()).header("idempotency-key", key);
        let answer = client.post("/v1/jobs", &job(input)).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let show = async |cluster: &Cluster, id: &str| cluster.get(&format!("/v1/jobs/{id}?wait=10s")).await.json();
    let ended = submit(&first, "one", "ends before").await;
    let result = show(&first, &ended).await;
    assert_eq!(result["state"], "done", "{result}");
    // Nobody is left who could run the next.
    first.worker(0).terminate(LONG).await;
    let waiting = submit(&first, "two", "waits").await;
    let state = first.get(&format!("/v1/jobs/{waiting}")).await.json()["state"].clone();
    assert!(state == "queued" || state == "running", "{state}");
    for process in [first.api(0), first.aggregator(0), first.nats()] {
        assert!(process.terminate(LONG).await.success(), "{}", process.name());
    }
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("store");
    copy(&first.store(), &backup);
    drop(first);

    let second = Cluster::start(ClusterOptions { store: Some(backup), ..ClusterOptions::default() }).await;
    let done = show(&second, &waiting).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(show(&second, &ended).await, result, "what had ended is still ended, as it was");
    assert_eq!(submit(&second, "one", "ends before").await, ended, "and is not done again");
    let addr = second.aggregator(0).addr();
    eventually("the counters of before are counted on", LONG, || async move {
        let page = support::client::get(addr, "/metrics").await.unwrap().text();
        let jobs = page.lines().filter(|line| line.starts_with("forebay_jobs_total{"));
        let jobs = jobs.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        jobs.sum::<f64>() >= 2.0
    })
    .await;
    queue::is_empty_in_the_end(&second).await;
    second.stop().await;
}
