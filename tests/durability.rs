//! How safely the queue is kept: the modes of `forebay up`, streams that were made with other settings, encryption at rest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;
use support::{Cluster, ClusterOptions, Load, eventually, queue};

const LONG: Duration = Duration::from_secs(30);

/// A role started beside the cluster, which is expected to end by itself.
fn role(cluster: &Cluster, role: &str, flags: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args([role, "--broker", &cluster.broker_url(), "--broker-credentials", &cluster.credentials(role)]);
    let output = command.args(flags).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test]
async fn a_process_with_other_settings_than_the_streams_refuses_to_start_and_names_the_field() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let worker = ["--model", "identity", "--metrics-addr", "127.0.0.1:0", "--durability", "memory"];
    let (started, said) = role(&cluster, "worker", &worker);
    assert!(!started);
    assert!(said.contains("FOREBAY_JOBS_") && said.contains("storage = File, this process needs Memory"), "{said}");
    let (started, said) = role(&cluster, "api", &["--api-addr", "127.0.0.1:0", "--durability", "replicated"]);
    assert!(!started);
    assert!(said.contains("exists with num_replicas = 1, this process needs 3"), "{said}");
    assert_eq!(
        cluster.post("/v1/embeddings", &json!({ "model": "identity", "input": "still works" })).await.status,
        200
    );
}

#[tokio::test]
async fn a_stream_of_jobs_that_somebody_changed_is_refused_by_its_field() {
    let mut cluster = Cluster::start(ClusterOptions { aggregators: 0, ..ClusterOptions::default() }).await;
    let js = async_nats::jetstream::new(cluster.broker_client().await);
    let names: Vec<String> = futures::TryStreamExt::try_collect(js.stream_names()).await.unwrap();
    let name = names.iter().find(|name| name.starts_with("FOREBAY_JOBS_")).unwrap();
    let mut config = js.get_stream(name).await.unwrap().cached_info().config.clone();
    config.max_bytes = 1 << 20;
    #[expect(clippy::disallowed_methods, reason = "this is the somebody who changes it")]
    js.update_stream(&config).await.unwrap();
    let (started, said) = role(&cluster, "worker", &["--model", "identity", "--metrics-addr", "127.0.0.1:0"]);
    assert!(!started);
    assert!(said.contains("exists with max_bytes = 1048576"), "{said}");
    cluster.add_worker_with(&[]);
}

#[tokio::test]
async fn jobs_in_memory_are_answered_and_leave_nothing_also_after_the_broker_has_forgotten_them() {
    let env = vec![("FOREBAY_DURABILITY", "memory".to_owned())];
    let cluster = Cluster::start(ClusterOptions { env, apis: 2, ..ClusterOptions::default() }).await;
    let load = Load::new(&cluster).concurrency(8).timeout(Duration::from_secs(3)).start();
    load.progress(200, LONG).await;
    // The queue goes with the broker, and its numbers begin anew.
    cluster.restart_nats(Duration::from_millis(300)).await;
    load.progress(2_000, LONG).await;
    let report = load.stop().await;
    println!("broker with its queue in memory restarted: {report}");
    assert_eq!(report.wrong() + report.broken(), 0, "{report}");
    let calm = Load::new(&cluster).concurrency(8).timeout(Duration::from_secs(3)).run(Duration::from_secs(2)).await;
    assert!(calm.all_right(), "{calm}");
    queue::is_empty_in_the_end(&cluster).await;
    cluster.stop().await;
}

fn up(store: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args([
        "up",
        "--once",
        "--model",
        "identity",
        "--api-addr",
        "127.0.0.1:0",
        "--aggregator-addr",
        "127.0.0.1:0",
    ]);
    command.arg("--store").arg(store).args(flags).output().unwrap()
}

#[test]
fn up_serves_in_every_mode_that_it_offers() {
    for mode in ["memory", "file", "fsync"] {
        let store = tempfile::tempdir().unwrap();
        let output = up(store.path(), &["--durability", mode]);
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        let config = std::fs::read_to_string(store.path().join("nats.conf")).unwrap();
        assert_eq!(config.contains("sync_interval: always"), mode == "fsync", "{config}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Files under `dir` that hold `canary`.
fn holding(dir: &Path, canary: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
    };
    files(dir).into_iter().filter(holds).collect()
}

/// One `forebay up` whose worker is stopped, so that a request waits in the queue; where its text is found on the disk.
async fn canary_in_store(flags: &[&str]) -> (Vec<PathBuf>, String) {
    const CANARY: &str = "canary-3f1c77-in-the-queue";
    let store = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args([
        "up",
        "--model",
        "identity",
        "--api-addr",
        "127.0.0.1:0",
        "--aggregator-addr",
        "127.0.0.1:0",
        "--store",
    ]);
    let mut child = command
        .arg(store.path())
        .args(flags)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = |name: &str| {
        let text = std::fs::read_to_string(store.path().join("processes.json")).unwrap_or_default();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        list["processes"].as_array()?.iter().find(|process| process["name"] == name).cloned()
    };
    let answers = || async {
        let Some(api) = process("api-1") else { return false };
        let addr = api["addr"].as_str().unwrap().parse().unwrap();
        let body = json!({ "model": "identity", "input": "warm" });
        support::client::post(addr, "/v1/embeddings", &body).await.is_ok_and(|answer| answer.status == 200)
    };
    eventually("the system serves", Duration::from_secs(60), answers).await;
    let worker = nix::unistd::Pid::from_raw(process("worker-1").unwrap()["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let addr = process("api-1").unwrap()["addr"].as_str().unwrap().parse().unwrap();
    let waiting = tokio::spawn(async move {
        let _unanswered =
            support::client::post(addr, "/v1/embeddings", &json!({ "model": "identity", "input": CANARY })).await;
    });
    let aggregator = process("aggregator-1").unwrap()["addr"].as_str().unwrap().parse().unwrap();
    let waits = || async {
        let Ok(fleet) = support::client::get(aggregator, "/v1/fleet").await else { return false };
        let fleet: serde_json::Value = serde_json::from_slice(&fleet.body).unwrap_or_default();
        let jobs =
            |model: &serde_json::Value| model["pending"].as_u64() > Some(0) || model["in_flight"].as_u64() > Some(0);
        fleet["models"].as_array().is_some_and(|models| models.iter().any(jobs))
    };
    eventually("the request waits in the queue", Duration::from_secs(20), waits).await;
    if flags.is_empty() {
        let is_there = || async { !holding(store.path(), CANARY).is_empty() };
        eventually("its text is in a file", Duration::from_secs(20), is_there).await;
    }
    let found = holding(store.path(), CANARY);
    let stream = files(&store.path().join("jetstream"));
    assert!(stream.iter().any(|path| path.to_string_lossy().contains("FOREBAY_JOBS_")), "{stream:?}");
    waiting.abort();
    let config = std::fs::read_to_string(store.path().join("nats.conf")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    (found, config)
}

#[tokio::test]
async fn what_waits_in_an_encrypted_queue_is_in_no_file() {
    let keys = tempfile::tempdir().unwrap();
    support::cluster::make_keys(keys.path());
    let key_file = keys.path().join("keys/store.key");
    let (found, config) = canary_in_store(&["--store-key-file", key_file.to_str().unwrap()]).await;
    assert!(found.is_empty(), "{found:?}");
    assert!(!config.contains(std::fs::read_to_string(&key_file).unwrap().trim()), "the key is in the configuration");
    // And it is this, not how the queue is written, that hides it.
    let (found, _) = canary_in_store(&[]).await;
    assert!(!found.is_empty());
}

#[test]
fn an_encrypted_queue_is_not_opened_without_its_key() {
    let (store, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    support::cluster::make_keys(keys.path());
    let key_file = keys.path().join("keys/store.key");
    let with_key = ["--store-key-file", key_file.to_str().unwrap()];
    assert!(up(store.path(), &with_key).status.success());
    let error = |flags: &[&str]| String::from_utf8_lossy(&up(store.path(), flags).stderr).into_owned();
    assert!(error(&[]).contains("is encrypted; name its key with --store-key-file"));
    let other = keys.path().join("other.key");
    std::fs::write(&other, "k".repeat(65)).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!error(&["--store-key-file", other.to_str().unwrap()]).contains("another key"), "everybody may read it");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(error(&["--store-key-file", other.to_str().unwrap()]).contains("another key"));
    assert!(up(store.path(), &with_key).status.success(), "and with it, it still is");
}

/// Of the folder `nats/`: what stands in comments is tried as well.
#[test]
fn the_example_configurations_are_what_nats_server_understands() {
    let dir = tempfile::tempdir().unwrap();
    support::cluster::make_keys(dir.path());
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["broker".to_owned()]).unwrap();
    for (name, text) in
        [("broker.pem", made.cert.pem()), ("ca.pem", made.cert.pem()), ("broker.key", made.signing_key.serialize_pem())]
    {
        std::fs::write(certs.join(name), text).unwrap();
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats");
    let settings = ["# include", "# sync_interval", "# cipher", "# key:", "# ca_file", "# verify"];
    for name in ["tls.conf", "server.conf", "cluster.conf"] {
        let text = std::fs::read_to_string(examples.join(name)).unwrap();
        let on = settings.iter().fold(text.clone(), |text, setting| text.replace(setting, &setting[2..]));
        std::fs::write(dir.path().join(format!("plain-{name}")), text).unwrap();
        std::fs::write(dir.path().join(name), on).unwrap();
    }
    for name in ["plain-server.conf", "plain-cluster.conf", "server.conf", "cluster.conf"] {
        let mut command = Command::new(support::cluster::nats_server());
        command
            .current_dir(dir.path())
            .args(["-t", "-c", name])
            .env("FOREBAY_STORE_KEY", format!("k{}", "0".repeat(64)));
        command
            .env("NODE", "a")
            .env("PEER_1", "nats://a:6222")
            .env("PEER_2", "nats://b:6222")
            .env("PEER_3", "nats://c:6222");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
