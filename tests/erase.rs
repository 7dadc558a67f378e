//! What is kept of whom: inputs are in the stores and nowhere else, and leave them when they should.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use forebay_shared::async_jobs::{AnswerForm, Envelope, row_id};
use forebay_shared::codec;
use forebay_shared::dead::{DeadLetter, DeadLetters, DeadReason};
use forebay_shared::ids::{BootId, JobId, Lane};
use forebay_shared::job::{EmbedParams, Input, Job, Task};
use forebay_shared::settings::StoreArgs;
use forebay_shared::streams::Stores;
use forebay_shared::subjects;
use futures::StreamExt;
use serde_json::{Value, json};
use support::{Answer, Client, Cluster, ClusterOptions, batch, eventually};

const LONG: Duration = Duration::from_secs(30);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// A word that the tests' model dies of.
const POISON: &str = "xyzzy";
/// SHA-256 of `one` and of `two`.
const ONE: &str = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
const TWO: &str = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";

/// A tenant as a client.
#[derive(Clone, Copy)]
struct Tenant {
    name: &'static str,
    key: &'static str,
    /// Part of every input that it sends.
    canary: &'static str,
}

const ERASED: Tenant = Tenant { name: "a-b", key: "one", canary: "canary7f3a91" };
const KEPT: Tenant = Tenant { name: "kept", key: "two", canary: "canary0c55e2" };

impl Tenant {
    async fn ask(self, cluster: &Cluster, method: &str, path: &str, body: &Value) -> Answer {
        self.ask_keyed(cluster, method, path, body, None).await
    }

    async fn ask_keyed(
        self,
        cluster: &Cluster,
        method: &str,
        path: &str,
        body: &Value,
        idempotency: Option<&str>,
    ) -> Answer {
        let mut client = Client::new(cluster.api(0).addr()).header("authorization", &format!("Bearer {}", self.key));
        if let Some(key) = idempotency {
            client = client.header("idempotency-key", key);
        }
        client.send(method, path, body.to_string().as_bytes()).await.unwrap()
    }

    async fn get(self, cluster: &Cluster, path: &str) -> Answer {
        self.ask(cluster, "GET", path, &json!({})).await
    }

    /// Sends a job; its id.
    async fn job(self, cluster: &Cluster, input: Value, idempotency: Option<&str>) -> String {
        let webhook = json!({ "url": format!("http://127.0.0.1:1/?token={}", self.canary), "secret": SECRET });
        let body = json!({ "task": "embed", "model": "simulated", "input": input, "webhook": webhook });
        let answer = self.ask_keyed(cluster, "POST", "/v1/jobs", &body, idempotency).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// The job once it is in this state.
    async fn reaches(self, cluster: &Cluster, job: &str, state: &str) -> Value {
        let path = format!("/v1/jobs/{job}");
        eventually(&format!("job {job} is {state}"), LONG, || async {
            self.get(cluster, &path).await.json()["state"] == state
        })
        .await;
        self.get(cluster, &path).await.json()
    }

    async fn begin_batch(self, cluster: &Cluster) -> String {
        let mut file = String::new();
        for row in 0..3 {
            file += &batch::line(&format!("row-{row}"), "simulated", &format!("{} {row}", self.canary));
        }
        batch::Batches::new(cluster.api_addrs()).with_key(self.key).begin(file.as_bytes()).await
    }
}

/// What every tenant does while there is a worker. Returns the id of a job and of a batch that are done.
async fn work(cluster: &Cluster, tenant: Tenant) -> (String, String) {
    let said = |what: &str| format!("{} {what}", tenant.canary);
    let request = json!({ "model": "simulated", "input": said("now") });
    for key in [None, Some("key-1")] {
        let answer = tenant.ask_keyed(cluster, "POST", "/v1/embeddings", &request, key).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // What is refused is shown to who sent it, and to nobody else.
    let wrong = json!({ "model": said("model"), "input": said("x"), "dimensions": said("three") });
    assert!((400..500).contains(&tenant.ask(cluster, "POST", "/v1/embeddings", &wrong).await.status));
    let many: Vec<String> = (0..400).map(|row| said(&row.to_string())).collect();
    let job = tenant.job(cluster, json!(many), Some("key-2")).await;
    let batch = tenant.begin_batch(cluster).await;
    tenant.reaches(cluster, &job, "done").await;
    let batches = batch::Batches::new(cluster.api_addrs()).with_key(tenant.key);
    assert_eq!(batches.ends(&batch, LONG).await["status"], "completed");
    (job, batch)
}

/// A job that ends its workers until it is put aside.
async fn die(cluster: &Cluster, tenant: Tenant) -> String {
    let stop = Arc::new(AtomicBool::new(false));
    let job = tenant.job(cluster, json!(format!("{POISON} {}", tenant.canary)), None).await;
    let nurse = async {
        while !stop.load(Ordering::Relaxed) {
            if !cluster.worker(0).is_running() {
                cluster.worker(0).restart();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let death = async {
        tenant.reaches(cluster, &job, "dead").await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(nurse, death);
    job
}

/// Somebody whose name is the erased tenant's in a subject. The file of keys does not allow such names.
const TWIN: &str = "a--b";

/// Work of the twin waits under the very subject of the tenant that is erased.
async fn queue_work_of_the_twin(cluster: &Cluster) {
    let envelope = Envelope {
        job: JobId::from_bytes([8; 16]),
        generation: 0,
        tenant: TWIN.into(),
        model: "nobody-serves-it".into(),
        token: "nobody-serves-it-0123456789".into(),
        lane: Lane::Low,
        deadline_us: u64::MAX,
        trace: None,
        task: Task::Embed(EmbedParams::default()),
        form: AnswerForm::Tei,
        rows: vec![Input::Text("twin5d20".into())],
    };
    let subject = subjects::async_work(&envelope.token, &envelope.tenant);
    assert_eq!(subject, subjects::async_work(&envelope.token, &ERASED.name.into()), "they do not share a subject");
    let js = jetstream::new(cluster.broker_client().await);
    js.publish(subject, codec::encode(&envelope).unwrap()).await.unwrap().await.unwrap();
}

const DEAD: JobId = JobId::from_bytes([9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0]);

fn letter(tenant: Tenant) -> DeadLetter {
    DeadLetter {
        job: Job {
            id: row_id(&DEAD, 0, 0),
            generation: 0,
            tenant: tenant.name.into(),
            enqueued_us: 1,
            deadline_us: 2,
            trace: None,
            task: Task::Embed(EmbedParams::default()),
            input: Input::Text(tenant.canary.into()),
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

async fn dead_letters(cluster: &Cluster, args: &StoreArgs) -> DeadLetters {
    let js = jetstream::new(cluster.broker_client().await);
    DeadLetters::open(&Stores::new(js.clone(), args), js).await.unwrap()
}

/// `forebay` with arguments, against the cluster's broker: success, and all that it said.
async fn forebay(cluster: &Cluster, args: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(args).args(["--broker", &cluster.broker_url()]).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The names of the streams that hold `text`, in any message that is there at this moment.
async fn holding(cluster: &Cluster, text: &str) -> Vec<String> {
    let js = jetstream::new(cluster.broker_client().await);
    let names: Vec<String> = js.stream_names().map(Result::unwrap).collect().await;
    let mut holding = Vec::new();
    for name in names {
        let stream = js.get_stream(&name).await.unwrap();
        let mut from = 1;
        while let Ok(message) = stream.raw_message_builder().sequence(from).next_by_subject(">").send().await {
            from = message.sequence + 1;
            let whole = format!("{} {:?}", message.subject, message.headers);
            let in_payload = message.payload.windows(text.len()).any(|window| window == text.as_bytes());
            if in_payload || whole.contains(text) {
                holding.push(name);
                break;
            }
        }
    }
    holding.sort();
    holding
}

fn options(folder: &std::path::Path) -> ClusterOptions {
    let tenant = |tenant: Tenant, hash: &str| {
        json!({ "name": tenant.name, "keys": [{ "id": "k", "sha256": hash }],
        "tokens_per_day": 1_000_000 })
    };
    let file = folder.join("keys.json");
    std::fs::write(&file, json!({ "tenants": [tenant(ERASED, ONE), tenant(KEPT, TWO)] }).to_string()).unwrap();
    ClusterOptions {
        model: "simulated".to_owned(),
        env: vec![
            ("FOREBAY_SIMULATED_BASE", "100us".to_owned()),
            ("FOREBAY_SIMULATED_KILL_ON", POISON.to_owned()),
            ("FOREBAY_CACHE_BYTES", (1 << 20).to_string()),
            ("FOREBAY_LOG", "trace".to_owned()),
            ("FOREBAY_LOG_FORMAT", "json".to_owned()),
        ],
        api_args: ["--api-keys", &file.display().to_string(), "--webhook-allow-private"].map(str::to_owned).into(),
        ..ClusterOptions::default()
    }
}

/// No log, no page and no list shows what a tenant has sent.
async fn nobody_tells(cluster: &Cluster, tenant: Tenant) {
    let mut pages = Vec::new();
    for process in cluster.workers().iter().chain([cluster.api(0), cluster.aggregator(0)]) {
        assert!(process.log().contains("\"TRACE\""), "{} does not log in full", process.name());
        pages.push((format!("log of {}", process.name()), process.log()));
        if process.is_running() {
            let page = support::client::get(process.addr(), "/metrics").await.unwrap().text();
            pages.push((format!("metrics of {}", process.name()), page));
        }
    }
    pages.push(("nats-server".to_owned(), cluster.nats().log()));
    let fleet = support::client::get(cluster.aggregator(0).addr(), "/v1/fleet").await.unwrap();
    pages.push(("fleet".to_owned(), fleet.text()));
    for path in ["/v1/jobs?limit=100", "/v1/dead", "/v1/batches", "/v1/files"] {
        let page = tenant.get(cluster, path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        // Where a webhook goes is its owner's own word.
        let text = page.text().replace(&format!("?token={}", tenant.canary), "");
        pages.push((path.to_owned(), text));
    }
    for args in [&["dead", "list"][..], &["dead", "list", "--json"]] {
        pages.push((args.join(" "), forebay(cluster, args).await.1));
    }
    for (what, text) in pages {
        if let Some(line) = text.lines().find(|line| line.contains(tenant.canary)) {
            panic!("{what} shows an input: {}", line.chars().take(2_000).collect::<String>());
        }
    }
}

#[tokio::test]
async fn inputs_are_in_the_stores_alone_and_a_tenant_is_erased_from_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(folder.path())).await;
    let (erased, kept) = tokio::join!(work(&cluster, ERASED), work(&cluster, KEPT));
    dead_letters(&cluster, &StoreArgs::default()).await.write(&letter(KEPT)).await.unwrap();
    queue_work_of_the_twin(&cluster).await;
    let dead = die(&cluster, ERASED).await;
    // Nobody computes any more: what comes now waits.
    cluster.worker(0).kill9();
    for tenant in [ERASED, KEPT] {
        let cancelled = tenant.job(&cluster, json!(format!("{} cancelled", tenant.canary)), None).await;
        let answer = tenant.ask(&cluster, "DELETE", &format!("/v1/jobs/{cancelled}"), &json!({})).await;
        assert_eq!(answer.json()["state"], "cancelled", "{}", answer.text());
    }
    let (waiting, theirs) = tokio::join!(
        ERASED.job(&cluster, json!(format!("{} waits", ERASED.canary)), None),
        KEPT.job(&cluster, json!(format!("{} waits", KEPT.canary)), None)
    );
    // Lines of two batches could share a message, which stays until the other's deadline: only one batch runs.
    let running = ERASED.begin_batch(&cluster).await;
    for tenant in [ERASED, KEPT] {
        nobody_tells(&cluster, tenant).await;
    }
    // Its lines are cut into parts when an api comes to it.
    eventually("the running batch is on the queue", LONG, || async {
        holding(&cluster, ERASED.canary).await.iter().any(|name| name == "FOREBAY_PARTS")
    })
    .await;
    let lasting = |names: Vec<String>| names.into_iter().filter(|name| !is_queue(name)).collect::<Vec<_>>();
    let before = holding(&cluster, ERASED.canary).await;
    for store in ["FOREBAY_ASYNC", "FOREBAY_DEAD", "FOREBAY_PARTS", "OBJ_FOREBAY_FILES", "OBJ_FOREBAY_RESULTS"] {
        assert!(before.iter().any(|name| name == store), "the test does not reach {store}: {before:?}");
    }

    let (done, said) = forebay(&cluster, &["erase", "--tenant", ERASED.name]).await;
    assert!(!done && said.contains("--yes erases this"), "{said}");
    for part in [&waiting, &running, "would be cancelled", "FOREBAY_RECORDS", "FOREBAY_QUOTAS", "FOREBAY_WEBHOOKS"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert_eq!(lasting(holding(&cluster, ERASED.canary).await), lasting(before), "it was only looked");
    let others = lasting(holding(&cluster, KEPT.canary).await);
    let (done, said) = forebay(&cluster, &["erase", "--tenant", ERASED.name, "--yes"]).await;
    println!("{said}");
    assert!(done && said.contains(&format!("cancelled: job {waiting}")), "{said}");
    let left = holding(&cluster, ERASED.canary).await;
    assert!(left.iter().all(|name| name.starts_with("FOREBAY_JOBS_")), "it is still there: {left:?}");
    // Rows beside which others' may stand are dropped by a worker, or by their deadline.
    cluster.worker(0).restart();
    eventually("nothing is left of what was running", LONG, || async {
        holding(&cluster, ERASED.canary).await.is_empty()
    })
    .await;
    // An api that ended the last of the work since has written down once more how many tokens it used; nothing else is new.
    let (done, said) = forebay(&cluster, &["erase", "--tenant", ERASED.name, "--yes"]).await;
    let mut stores = said.lines().filter(|line| line.starts_with("FOREBAY_"));
    assert!(done && stores.all(|line| line.starts_with("FOREBAY_QUOTAS")), "{said}");
    let (done, said) = forebay(&cluster, &["erase", "--tenant", ERASED.name, "--yes"]).await;
    assert!(done && said == "nothing is kept of it\n", "{said}");
    for path in ["/v1/jobs", "/v1/dead", "/v1/batches", "/v1/files"] {
        assert_eq!(ERASED.get(&cluster, path).await.json()["data"], json!([]), "{path}");
    }
    for job in [&erased.0, &dead, &waiting] {
        assert_eq!(ERASED.get(&cluster, &format!("/v1/jobs/{job}")).await.status, 404);
    }

    // The other tenant lost nothing, and goes on.
    KEPT.reaches(&cluster, &theirs, "done").await;
    assert_eq!(lasting(holding(&cluster, KEPT.canary).await), others);
    assert_eq!(holding(&cluster, "twin5d20").await, ["FOREBAY_ASYNC"]);
    assert_eq!(KEPT.reaches(&cluster, &kept.0, "done").await["result"]["data"].as_array().unwrap().len(), 400);
    let batches = batch::Batches::new(cluster.api_addrs()).with_key(KEPT.key);
    let done = batches.show(&kept.1).await;
    assert_eq!(batches.lines(&done["output_file_id"]).await.len(), 3);
    assert_eq!(KEPT.get(&cluster, "/v1/dead").await.json()["data"][0]["id"], DEAD.to_string());

    // One job, by an operator.
    let (done, said) = forebay(&cluster, &["erase", "--job", &kept.0, "--tenant", ERASED.name, "--yes"]).await;
    assert!(done && said.contains("nothing is kept"), "{said}");
    let (done, said) = forebay(&cluster, &["erase", "--job", &kept.0, "--yes", "--json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert!(done && report["found"]["messages"]["FOREBAY_IDEMPOTENCY"] == 1, "{said}");
    assert!(!holding(&cluster, KEPT.canary).await.iter().any(|name| name == "OBJ_FOREBAY_RESULTS"), "{said}");
    assert_eq!(KEPT.get(&cluster, &format!("/v1/jobs/{}", kept.0)).await.status, 404);
    assert_eq!(batches.lines(&done_file(&batches, &kept.1).await).await.len(), 3, "only the job went");
    let (done, said) = forebay(&cluster, &["erase"]).await;
    assert!(!done && said.contains("--job"), "{said}");
}

/// What is there leaves it by being done.
fn is_queue(stream: &str) -> bool {
    stream == "FOREBAY_ASYNC" || stream.starts_with("FOREBAY_JOBS_")
}

async fn done_file(batches: &batch::Batches, id: &str) -> Value {
    batches.show(id).await["output_file_id"].clone()
}

#[tokio::test]
async fn what_is_kept_for_a_short_time_is_gone_after_it() {
    let keep = Duration::from_secs(2);
    let env = ["FOREBAY_RESULTS_KEEP", "FOREBAY_FILES_KEEP", "FOREBAY_DEAD_LETTERS_KEEP"];
    let env = env.map(|name| (name, "2s".to_owned())).to_vec();
    let cluster = Cluster::start(ClusterOptions { env, aggregators: 0, ..ClusterOptions::default() }).await;
    let stores = StoreArgs { results_keep: keep, files_keep: keep, dead_letters_keep: keep, ..StoreArgs::default() };
    dead_letters(&cluster, &stores).await.write(&letter(KEPT)).await.unwrap();
    let keyed = |input: Value| {
        let mut client = Client::new(cluster.api(0).addr()).header("idempotency-key", "k");
        async move { client.post("/v1/jobs", &json!({ "task": "embed", "model": "identity", "input": input })).await }
    };
    let many: Vec<String> = (0..400).map(|row| format!("row {row}")).collect();
    let job = keyed(json!(many)).await.unwrap();
    assert_eq!(job.status, 202, "{}", job.text());
    assert_eq!(keyed(json!("another")).await.unwrap().status, 422, "the key is taken");
    let path = format!("/v1/jobs/{}", job.json()["id"].as_str().unwrap());
    assert_eq!(cluster.get(&format!("{path}?wait=10s")).await.json()["state"], "done");
    let file = batch::Batches::new(cluster.api_addrs()).upload("batch", b"{}\n").await;
    let file = format!("/v1/files/{}", file.json()["id"].as_str().unwrap());
    assert_eq!(cluster.get(&file).await.status, 200);

    let js = jetstream::new(cluster.broker_client().await);
    for stream in [
        "KV_FOREBAY_RECORDS",
        "OBJ_FOREBAY_RESULTS",
        "KV_FOREBAY_IDEMPOTENCY",
        "KV_FOREBAY_BATCHES",
        "OBJ_FOREBAY_FILES",
        "FOREBAY_DEAD",
    ] {
        eventually(&format!("{stream} is empty"), LONG, || async {
            js.get_stream(stream).await.unwrap().cached_info().state.messages == 0
        })
        .await;
    }
    assert_eq!(cluster.get(&path).await.status, 404);
    assert_eq!(cluster.get(&file).await.status, 404);
    assert_eq!(keyed(json!("another")).await.unwrap().status, 202, "the key is free again");
    cluster.stop().await;
}
