//! `forebay up --monitoring`: a Prometheus that sees everything and an Alertmanager that it tells, which come and go with the rest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{client, eventually};

const LONG: Duration = Duration::from_secs(60);

fn up(store: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["up", "--monitoring", "--model", "identity", "--store"]).arg(store);
    for addr in ["--api-addr", "--aggregator-addr", "--prometheus-addr", "--alertmanager-addr"] {
        command.args([addr, "127.0.0.1:0"]);
    }
    command.args(flags).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn processes(store: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(store.join("processes.json")).unwrap_or_default();
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    list["processes"].as_array().cloned().unwrap_or_default()
}

fn addr(store: &Path, role: &str) -> SocketAddr {
    let found = processes(store).into_iter().find(|process| process["role"] == role);
    found.unwrap_or_else(|| panic!("no {role} runs"))["addr"].as_str().unwrap().parse().unwrap()
}

async fn ask(addr: SocketAddr, path: &str) -> Value {
    let answer = client::get(addr, path).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Job and state of every target, sorted.
async fn targets(prometheus: SocketAddr) -> Vec<(String, String)> {
    let found = ask(prometheus, "/api/v1/targets?state=active").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let targets = found["data"]["activeTargets"].as_array().unwrap().iter();
    let mut targets: Vec<_> = targets.map(|target| (text(&target["labels"]["job"]), text(&target["health"]))).collect();
    targets.sort();
    targets
}

#[tokio::test]
async fn everything_is_watched_and_stops_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (store, greeting) = (folder.path().join("store"), folder.path().join("greeting"));
    let mut command = up(&store, &["--workers", "2", "--prometheus-retention", "2h"]);
    let mut running = Running(command.stdout(File::create(&greeting).unwrap()).spawn().unwrap());
    let greeted = || async { std::fs::read_to_string(&greeting).unwrap().contains("Ctrl-C stops everything") };
    eventually("the first request is answered", LONG, greeted).await;

    let (prometheus, alertmanager) = (addr(&store, "prometheus"), addr(&store, "alertmanager"));
    let text = std::fs::read_to_string(&greeting).unwrap();
    assert!(text.contains(&format!("queries   http://{prometheus} (Prometheus)")), "{text}");
    assert!(text.contains(&format!("alerts    http://{alertmanager} (Alertmanager)")), "{text}");

    let jobs = ["alertmanager", "forebay", "forebay", "forebay", "forebay-aggregator", "prometheus"];
    let all_up: Vec<_> = jobs.iter().map(|job| ((*job).to_owned(), "up".to_owned())).collect();
    eventually("every target is up", LONG, || async { targets(prometheus).await == all_up }).await;
    let known = ask(prometheus, "/api/v1/alertmanagers").await;
    assert!(known["data"]["activeAlertmanagers"][0]["url"].as_str().unwrap().contains(&alertmanager.to_string()));

    let files = std::fs::read_dir(store.join("monitoring/rules")).unwrap().count();
    assert!(files > 0);
    let loaded = ask(prometheus, "/api/v1/rules").await;
    let groups = loaded["data"]["groups"].as_array().unwrap();
    let of: std::collections::HashSet<_> = groups.iter().map(|group| group["file"].as_str().unwrap()).collect();
    assert_eq!(of.len(), files, "every file of rules is loaded");
    let rules = || groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    assert!(rules().any(|rule| rule["type"] == "alerting"));
    let evaluated = || async {
        let loaded = ask(prometheus, "/api/v1/rules").await;
        let groups = loaded["data"]["groups"].as_array().unwrap().clone();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules.into_iter().all(|rule| {
            assert_ne!(rule["health"], "err", "{rule:#}");
            rule["health"] == "ok"
        })
    };
    eventually("every rule is evaluated", LONG * 2, evaluated).await;
    assert_eq!(ask(prometheus, "/api/v1/status/flags").await["data"]["storage.tsdb.retention.time"], "2h");
    let told = || async { !ask(alertmanager, "/api/v2/alerts").await.as_array().unwrap().is_empty() };
    eventually("the watchdog reaches Alertmanager", LONG, told).await;

    assert_eq!(processes(&store).len(), 7);
    kill(Pid::from_raw(running.0.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = tokio::task::spawn_blocking(move || running.0.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    for addr in [prometheus, alertmanager] {
        assert!(client::get(addr, "/-/ready").await.is_err(), "nothing listens on {addr} any more");
    }
}

#[test]
fn without_the_binaries_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = up(folder.path(), &["--alertmanager", "/no/such/alertmanager"]);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: --monitoring cannot run; drop it to go without: there is no alertmanager at /no/such/alertmanager; \
         correct --alertmanager / FOREBAY_ALERTMANAGER\n"
    );
}

#[test]
fn a_file_for_alertmanager_that_it_refuses_ends_the_start_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alertmanager.yml");
    std::fs::write(&file, "route: {receiver: somebody}\nreceivers: [{name: none}]\n").unwrap();
    let mut command = up(&folder.path().join("store"), &["--alertmanager-config", &file.display().to_string()]);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("error: alertmanager ended 3 times while starting: "), "{stderr}");
    assert!(stderr.contains("undefined receiver \\\"somebody\\\""), "{stderr}");
}
