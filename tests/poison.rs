//! A job that ends every worker it meets is put aside; its neighbours are answered. Work that nobody waits for is not done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_shared::async_jobs::row_id;
use forebay_shared::dead::{DeadLetter, DeadLetters, DeadReason};
use forebay_shared::ids::{BootId, JobId, Lane};
use forebay_shared::job::{EmbedParams, Input, Job, Task};
use forebay_shared::settings::StoreArgs;
use forebay_shared::streams::Stores;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use support::{Answer, Client, Cluster, ClusterOptions, eventually, queue, verify};

const LONG: Duration = Duration::from_secs(60);
/// A word that the tests' model dies of.
const POISON: &str = "xyzzy";
const NEIGHBOURS: usize = 7;

fn options(workers: usize, base: &str) -> ClusterOptions {
    ClusterOptions {
        workers,
        model: "simulated".to_owned(),
        env: vec![("FOREBAY_SIMULATED_BASE", base.to_owned()), ("FOREBAY_SIMULATED_KILL_ON", POISON.to_owned())],
        ..ClusterOptions::default()
    }
}

async fn ask(cluster: &Cluster, input: String) -> Answer {
    let mut client = Client::new(cluster.api(0).addr()).header("x-request-timeout", "90");
    client.post("/v1/embeddings", &json!({ "model": "simulated", "input": input })).await.unwrap()
}

/// Starts every worker again that has ended, until told to stop; returns how many it started.
async fn keep_alive(cluster: &Cluster, stop: Arc<AtomicBool>) -> usize {
    let mut started = 0;
    while !stop.load(Ordering::Relaxed) {
        for worker in cluster.workers() {
            if !worker.is_running() {
                worker.restart();
                started += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started
}

/// A metric's value, summed over its series with `labels`, on one process' own page.
async fn metric(process: &support::Process, name: &str, labels: &str) -> f64 {
    let page = support::client::get(process.addr(), "/metrics").await.unwrap().text();
    let of_it = |line: &&str| line.starts_with(name) && line.contains(labels);
    page.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// `forebay` with arguments, against the cluster's broker.
async fn forebay(cluster: &Cluster, args: &[&str]) -> (bool, String, String) {
    let (binary, broker) = (env!("CARGO_BIN_EXE_forebay"), cluster.broker_url());
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(binary).args(args).args(["--broker", &broker]).output().unwrap()
    });
    let output = output.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

async fn letters(cluster: &Cluster) -> Vec<Value> {
    let (ok, out, error) = forebay(cluster, &["dead", "list", "--json"]).await;
    assert!(ok, "{error}");
    serde_json::from_str::<Value>(&out).unwrap()["dead"].as_array().unwrap().clone()
}

/// Sends a poison request among others that share its message, with workers that are started again; returns its answer.
async fn poison_a_bundle(cluster: &Cluster) -> (Answer, usize) {
    let stop = Arc::new(AtomicBool::new(false));
    // With nobody there the requests wait in the queue, where the test can see how they travel.
    cluster.worker(0).kill9();
    let poison = async { ask(cluster, format!("please {POISON} now")).await };
    let neighbours = join_all((0..NEIGHBOURS).map(|i| ask(cluster, format!("neighbour {i}"))));
    let all = async {
        let answers = tokio::join!(poison, neighbours);
        stop.store(true, Ordering::Relaxed);
        answers
    };
    let disturbance = async {
        eventually("all requests are in the stream", LONG, || async {
            queue::messages(cluster).await.iter().map(queue::Queued::jobs).sum::<usize>() == NEIGHBOURS + 1
        })
        .await;
        let messages = queue::messages(cluster).await;
        let contains = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        let poisoned = messages.iter().find(|message| contains(&message.payload, POISON)).unwrap();
        assert!(poisoned.jobs() > 1, "the poison travels alone: {:?}", messages.iter().map(queue::Queued::jobs));
        println!("the poison has {} neighbours in its message", poisoned.jobs() - 1);
        keep_alive(cluster, Arc::clone(&stop)).await
    };
    let ((answer, neighbours), started) = tokio::join!(all, disturbance);
    for (i, neighbour) in neighbours.into_iter().enumerate() {
        assert_eq!(neighbour.status, 200, "neighbour {i}: {}", neighbour.text());
        verify::built_in()(&format!("neighbour {i}"), &neighbour.json()).unwrap();
    }
    (answer, started)
}

#[tokio::test]
async fn a_poison_request_is_put_aside_and_its_neighbours_are_answered() {
    let mut cluster = Cluster::start(options(1, "2ms")).await;
    let (answer, started) = poison_a_bundle(&cluster).await;
    println!("workers started again: {started}");
    assert_eq!(answer.status, 500, "{}", answer.text());
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "dead_lettered", "{error}");
    // One start after the test has put its messages there, then at most one death among others, and two alone: where the
    // first delivery lapses before it is run, the job is alone at once.
    assert!((3..=4).contains(&started), "it ended {} workers", started - 1);

    let letters = letters(&cluster).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    let id = letter["id"].as_str().unwrap();
    assert!(error["message"].as_str().unwrap().contains(id), "{error}");
    assert_eq!(letter["reason"], "repeated_starts");
    assert_eq!(letter["starts"].as_array().unwrap().len(), 2);
    assert!(letter["starts"].as_array().unwrap().iter().all(|start| start["process"] == "worker-1"), "{letter}");
    assert!(!letter.to_string().contains(POISON), "a list holds an input: {letter}");
    assert!(!cluster.worker(0).log().contains(POISON), "a log holds an input");
    eventually("the worker counts it", LONG, || async {
        metric(cluster.worker(0), "forebay_worker_dead_lettered_total", "repeated_starts").await == 1.0
    })
    .await;
    eventually("the fleet shows it", LONG, || async {
        metric(cluster.aggregator(0), "forebay_dead_letters", "").await == 1.0
    })
    .await;
    queue::is_empty_in_the_end(&cluster).await;

    let (ok, out, error) = forebay(&cluster, &["dead", "show", id]).await;
    assert!(ok && out.contains("worker-1") && !out.contains(POISON), "{out}{error}");
    let page = cluster.get("/v1/dead").await;
    assert_eq!(page.json()["data"][0]["id"], id, "{}", page.text());
    let page = cluster.get(&format!("/v1/dead/{id}")).await;
    assert_eq!((page.status, &page.json()["input_bytes"]), (200, &json!(16)), "{}", page.text());
    assert!(!page.text().contains(POISON));

    // Begun anew where the fault is still there, it is put aside again under the next generation.
    let stop = Arc::new(AtomicBool::new(false));
    let again = async {
        let replayed = cluster.post(&format!("/v1/dead/{id}/replay"), &json!({})).await;
        assert_eq!(replayed.status, 202, "{}", replayed.text());
        assert_eq!(replayed.json(), json!({ "id": id, "job": id, "generation": 1, "status": "queued" }));
        let job = ends(&cluster, id, "dead").await;
        eventually("it is a dead letter again", LONG, || async { self::letters(&cluster).await.len() == 1 }).await;
        stop.store(true, Ordering::Relaxed);
        job
    };
    let (job, _) = tokio::join!(again, keep_alive(&cluster, Arc::clone(&stop)));
    // The id that the caller was told the first time is the job's, for good.
    assert_eq!(job["id"], id, "{job}");
    assert!(job["error"]["message"].as_str().unwrap().contains(id), "{job}");
    let letters = self::letters(&cluster).await;
    assert_eq!((&letters[0]["id"], &letters[0]["generation"]), (&json!(id), &json!(1)), "{letters:?}");
    let row = row_id(&id.parse().unwrap(), 0, 1).to_string();
    assert_eq!(cluster.get(&format!("/v1/dead/{row}")).await.json()["id"], id, "an id from a log");
    assert_eq!(cluster.get(&format!("/v1/jobs/{row}")).await.json()["id"], id, "an id from a log");

    // And where it was mended, it is done.
    cluster.worker(0).kill9();
    cluster.add_worker_with(&[("FOREBAY_SIMULATED_KILL_ON", "another-word")]);
    cluster.worker(1).ready(LONG).await;
    let (ok, out, error) = forebay(&cluster, &["dead", "replay", id, "--json"]).await;
    assert!(ok, "{out}{error}");
    let replayed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(replayed["jobs"][0]["result"], json!({ "id": id, "job": id, "generation": 2 }));
    let done = ends(&cluster, id, "done").await;
    verify::built_in()(&format!("please {POISON} now"), &done["result"]).unwrap();
    assert!(self::letters(&cluster).await.is_empty());
    let (ok, _, error) = forebay(&cluster, &["dead", "show", id]).await;
    assert!(!ok && error.contains("no dead letter"), "{error}");
    assert_eq!(cluster.get(&format!("/v1/dead/{id}")).await.status, 404);
    cluster.stop().await;
}

/// Waits until an asynchronous job is in this state; returns it.
async fn ends(cluster: &Cluster, job: &str, state: &str) -> Value {
    let path = format!("/v1/jobs/{job}");
    eventually(&format!("job {job} is {state}"), 2 * LONG, || async {
        cluster.get(&path).await.json()["state"] == state
    })
    .await;
    cluster.get(&path).await.json()
}

#[tokio::test]
async fn dead_letters_are_dropped_by_hand_and_only_their_owner_sees_them() {
    let cluster = Cluster::start(options(1, "1ms")).await;
    let client = async_nats::connect(cluster.broker_url()).await.unwrap();
    let js = async_nats::jetstream::new(client);
    let stores = Stores::new(js.clone(), &StoreArgs::default());
    let dead = DeadLetters::open(&stores, js.clone()).await.unwrap();
    for (n, tenant) in [(1, "default"), (2, "somebody-else"), (3, "default")] {
        dead.write(&letter(n, tenant)).await.unwrap();
        dead.write(&letter(n, tenant)).await.unwrap();
    }
    let id = |n: u8| job(n).to_string();
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();

    let all = letters(&cluster).await;
    assert_eq!(ids(&json!(all)), [id(3), id(2), id(1)], "newest first, a repeat is one letter");
    let page = cluster.get("/v1/dead").await;
    assert_eq!(ids(&page.json()["data"]), [id(3), id(1)], "{}", page.text());
    assert_eq!(ids(&cluster.get("/v1/dead?limit=1").await.json()["data"]), [id(3)]);
    assert_eq!(cluster.get("/v1/dead?limit=0").await.status, 400);
    let lists = join_all((0..20).map(|_| cluster.get("/v1/dead"))).await;
    assert!(lists.iter().all(|list| list.json() == page.json()), "{lists:?}");
    // One whose caller leaves in the middle.
    let _left = tokio::time::timeout(Duration::from_millis(2), cluster.get("/v1/dead")).await;
    eventually("no list leaves a reader behind", Duration::from_secs(5), || async { readers(&js).await == 0 }).await;
    for (method, path) in [
        ("GET", format!("/v1/dead/{}", id(2))),
        ("DELETE", format!("/v1/dead/{}", id(2))),
        ("POST", format!("/v1/dead/{}/replay", id(2))),
        ("GET", "/v1/dead/nonsense".to_owned()),
    ] {
        let answer = Client::new(cluster.api(0).addr()).send(method, &path, b"").await.unwrap();
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
    }
    let path = format!("/v1/dead/{}", id(1));
    let answer = Client::new(cluster.api(0).addr()).send("DELETE", &path, b"").await.unwrap();
    assert_eq!(answer.json(), json!({ "id": id(1), "deleted": true }));
    assert_eq!(cluster.get(&path).await.status, 404);
    let row = row_id(&job(2), 0, 0).to_string();
    let (ok, out, error) = forebay(&cluster, &["dead", "show", &row]).await;
    assert!(ok && out.contains(&id(2)) && !out.contains(&row), "{out}{error}");
    let (ok, out, error) = forebay(&cluster, &["dead", "drop", &row, &id(9)]).await;
    assert!(!ok && out.contains(&row) && error.contains("no dead letter has the id"), "{out}{error}");
    assert_eq!(ids(&json!(letters(&cluster).await)), [id(3)]);
    let (ok, out, error) = forebay(&cluster, &["dead", "list"]).await;
    assert!(ok && out.contains(&id(3)) && !out.contains("hidden"), "{out}{error}");
    cluster.stop().await;
}

/// Consumers on the stream of dead letters.
async fn readers(js: &async_nats::jetstream::Context) -> usize {
    js.get_stream("FOREBAY_DEAD").await.unwrap().cached_info().state.consumer_count
}

/// A job whose one row is put aside.
fn job(n: u8) -> JobId {
    let mut id = [n; 16];
    id[12..].fill(0);
    JobId::from_bytes(id)
}

/// A message that reaches its greatest number of deliveries, in a stream made for it.
#[expect(clippy::disallowed_methods, reason = "a stream of this test's own")]
async fn give_up_on_a_message(cluster: &Cluster) {
    use async_nats::jetstream::{consumer::pull, stream};
    let js = async_nats::jetstream::new(async_nats::connect(cluster.broker_url()).await.unwrap());
    let config = stream::Config {
        name: "BACKSTOP".to_owned(),
        subjects: vec!["forebay.backstop".to_owned()],
        ..Default::default()
    };
    let stream = js.create_stream(config).await.unwrap();
    let once = pull::Config {
        durable_name: Some("normal".to_owned()),
        max_deliver: 1,
        ack_wait: Duration::from_millis(200),
        ..Default::default()
    };
    let consumer = stream.create_consumer(once).await.unwrap();
    js.publish("forebay.backstop", "x".into()).await.unwrap().await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    assert!(messages.next().await.is_some());
}

fn letter(n: u8, tenant: &str) -> DeadLetter {
    DeadLetter {
        job: Job {
            id: row_id(&job(n), 0, 0),
            generation: 0,
            tenant: tenant.into(),
            enqueued_us: 1,
            deadline_us: 2,
            trace: None,
            task: Task::Embed(EmbedParams::default()),
            input: Input::Text("hidden".into()),
        },
        model: "simulated".into(),
        token: "simulated-0123456789".into(),
        lane: Lane::Normal,
        api: BootId::from_bytes([1; 16]),
        died_us: 1_800_000_000_000_000,
        reason: DeadReason::RepeatedStarts,
        starts: Vec::new(),
    }
}

#[tokio::test]
async fn what_the_broker_gives_up_delivering_is_listed() {
    let cluster = Cluster::start(options(1, "1ms")).await;
    give_up_on_a_message(&cluster).await;
    eventually("it is listed", LONG, || async {
        let (ok, out, error) = forebay(&cluster, &["dead", "list", "--json"]).await;
        assert!(ok, "{error}");
        serde_json::from_str::<Value>(&out).unwrap()["undeliverable"][0]["stream"] == "BACKSTOP"
    })
    .await;
    let (_, out, _) = forebay(&cluster, &["dead", "list"]).await;
    assert!(out.contains("no dead letters") && out.contains("BACKSTOP/normal  sequence 1, 1 deliveries"), "{out}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_work_along() {
    const REQUESTS: usize = 40;
    // Eight rows in three tenths of a second. The clients leave when the first batch has ended: the second runs, about one
    // more waits in the worker or its queue, and the rest is held back in the api.
    let mut options = options(1, "300ms");
    options.env.push(("FOREBAY_BATCH_MAX_ROWS", "8".to_owned()));
    let cluster = Cluster::start(options).await;
    let ask_all = join_all((0..REQUESTS).map(|i| ask(&cluster, format!("leaving {i}"))));
    let worker = cluster.worker(0);
    let first_batch = eventually("the first batch has ended", LONG, || async {
        metric(worker, "forebay_worker_rows_total", "").await >= 1.0
    });
    tokio::select! {
        _ = ask_all => panic!("they were all answered"),
        () = first_batch => {}
    }
    let when_they_left = metric(worker, "forebay_worker_rows_total", "").await;
    queue::is_empty_in_the_end(&cluster).await;
    let computed = metric(worker, "forebay_worker_rows_total", "").await;
    let cancelled = metric(worker, "forebay_worker_cancelled_total", "").await;
    let saved = metric(worker, "forebay_worker_work_saved_seconds_total", "cancelled").await;
    println!("computed {computed}, cancelled {cancelled}, saved {saved} s");
    // What was running, and a batch that began before the news of it arrived.
    assert!(computed <= when_they_left + 16.0, "{computed} rows, {when_they_left} of them before they left");
    assert!(cancelled >= 1.0 && computed + cancelled <= REQUESTS as f64, "{cancelled}");
    // Two words each, from 0.02 s (a full batch) to 0.15 s (a lone row) a word.
    assert!((0.02 * cancelled..0.7 * cancelled).contains(&saved), "{saved}");
    let in_vain = metric(cluster.api(0), "forebay_api_replies_duplicate_total", "").await;
    assert!(in_vain <= 16.0, "only what was running when they left: {in_vain}");
    assert_eq!(ask(&cluster, "still here".to_owned()).await.status, 200);
    cluster.stop().await;
}

/// Asks again where the answer says that another try may help; returns the last answer and how often it was asked.
async fn insist(cluster: &Cluster, input: &str) -> (Answer, usize) {
    for asked in 1.. {
        let answer = ask(cluster, input.to_owned()).await;
        if answer.status != 503 || asked == 5 {
            return (answer, asked);
        }
        assert_eq!(answer.json()["error"]["code"], "broker_unavailable", "{}", answer.text());
    }
    unreachable!("a range without end")
}

/// Each costs three deaths, and each death is one more delivery of everything that the worker held.
#[tokio::test]
async fn more_poison_than_the_broker_delivers_leaves_no_message_behind() {
    const POISONED: usize = 12;
    let cluster = Cluster::start(ClusterOptions { reapers: true, ..options(1, "1ms") }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let poison = join_all((0..POISONED).map(|i| ask(&cluster, format!("{POISON} {i}"))));
    let inputs: Vec<String> = (0..POISONED).map(|i| format!("innocent {i}")).collect();
    let innocent = join_all(inputs.iter().map(|input| insist(&cluster, input)));
    let all = async {
        let answers = tokio::join!(poison, innocent);
        stop.store(true, Ordering::Relaxed);
        answers
    };
    cluster.worker(0).kill9();
    let ((poison, innocent), started) = tokio::join!(all, keep_alive(&cluster, Arc::clone(&stop)));
    let again = innocent.iter().filter(|(_, asked)| *asked > 1).count();
    let codes: Vec<Value> = poison.iter().map(|answer| answer.json()["error"]["code"].clone()).collect();
    println!("workers started again: {started}; innocents asked again: {again}; poison: {codes:?}");
    for ((answer, _), input) in innocent.iter().zip(&inputs) {
        assert_eq!(answer.status, 200, "{input}: {}", answer.text());
        verify::built_in()(input, &answer.json()).unwrap();
    }
    assert!(codes.iter().all(|code| code == "dead_lettered" || code == "broker_unavailable"), "{codes:?}");
    assert!(codes.iter().any(|code| code == "broker_unavailable"), "the last delivery was never made: {codes:?}");
    queue::is_empty_in_the_end(&cluster).await;
    let (ok, out, error) = forebay(&cluster, &["dead", "list", "--json"]).await;
    assert!(ok, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["undeliverable"], json!([]), "{out}");
    cluster.stop().await;
}
