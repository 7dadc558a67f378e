//! `forebay up` as a user meets it: it serves, it mends what dies, it says why it cannot start, and it leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{client, eventually};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

/// One `forebay up` with a store of its own, on ports that it picks.
struct Up {
    child: Child,
    store: TempDir,
}

impl Up {
    fn command(store: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command
            .args(["up", "--api-addr", "127.0.0.1:0", "--aggregator-addr", "127.0.0.1:0", "--store"])
            .arg(store)
            .args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it has answered its first request.
    async fn ready(flags: &[&str]) -> Self {
        let store = tempfile::tempdir().unwrap();
        let greeting = store.path().join("greeting");
        let mut command = Self::command(store.path(), flags);
        // Nobody reads standard error, and a full pipe would stop it.
        command.stdout(File::create(&greeting).unwrap()).stderr(Stdio::null());
        let up = Self { child: command.spawn().unwrap(), store };
        let greeted = || async { std::fs::read_to_string(&greeting).unwrap().contains("Ctrl-C stops everything") };
        eventually("the first request is answered", LONG, greeted).await;
        up
    }

    fn processes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.store.path().join("processes.json")).unwrap_or_default();
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        list["processes"].as_array().cloned().unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<Value> {
        self.processes().into_iter().find(|process| process["name"] == name)
    }

    fn addr(&self, name: &str) -> SocketAddr {
        self.find(name).unwrap()["addr"].as_str().unwrap().parse().unwrap()
    }

    fn pids(&self) -> Vec<i32> {
        self.processes().iter().map(|process| process["pid"].as_i64().unwrap() as i32).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    async fn embed(&self) -> u16 {
        let body = json!({ "model": "identity", "input": "a sentence" });
        client::post(self.addr("api-1"), "/v1/embeddings", &body).await.map_or(0, |answer| answer.status)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A process that was killed may be a zombie until whoever inherited it has waited for it.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .is_some_and(|state| !["Z", "X"].contains(&state))
}

async fn none_runs(pids: &[i32]) {
    eventually("no process is left", Duration::from_secs(5), || async { !pids.iter().any(|pid| runs(*pid)) }).await;
}

fn output(flags: &[&str]) -> (Output, String) {
    let store = tempfile::tempdir().unwrap();
    let output = Up::command(store.path(), flags).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

#[tokio::test]
async fn whatever_dies_is_started_again_and_interrupt_stops_everything() {
    let mut up = Up::ready(&["--model", "identity", "--workers", "2"]).await;
    assert_eq!(up.embed().await, 200);
    for name in ["worker-1", "nats-server", "api-1", "aggregator-1"] {
        let before = up.find(name).unwrap()["pid"].as_i64().unwrap();
        kill(Pid::from_raw(before as i32), Signal::SIGKILL).unwrap();
        let replaced = || async { up.find(name).is_some_and(|process| process["pid"] != before) };
        eventually(&format!("{name} is started again"), LONG, replaced).await;
    }
    eventually("requests are answered again", LONG, || async { up.embed().await == 200 }).await;

    let pids = up.pids();
    assert_eq!(pids.len(), 5);
    up.signal(Signal::SIGINT);
    let ended = tokio::task::spawn_blocking(move || (up.child.wait().unwrap(), up)).await.unwrap();
    assert!(ended.0.success(), "{}", ended.0);
    assert!(!pids.iter().any(|pid| runs(*pid)), "everything has been waited for when it ends");
    assert!(ended.1.processes().is_empty());
}

#[tokio::test]
async fn nothing_outlives_a_supervisor_that_is_killed() {
    let up = Up::ready(&["--model", "identity"]).await;
    let pids = up.pids();
    up.signal(Signal::SIGKILL);
    none_runs(&pids).await;
}

#[tokio::test]
async fn a_second_signal_ends_everything_at_once() {
    let mut up = Up::ready(&["--model", "identity"]).await;
    let pids = up.pids();
    // The api cannot finish, so the ordered stop would take its whole grace.
    let api = up.find("api-1").unwrap()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(api as i32), Signal::SIGSTOP).unwrap();
    up.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(up.child.try_wait().unwrap().is_none(), "the first signal waits for the api");
    up.signal(Signal::SIGTERM);
    eventually("it ends", Duration::from_secs(5), || {
        let ended = up.child.try_wait().unwrap().is_some();
        async move { ended }
    })
    .await;
    none_runs(&pids).await;
}

#[test]
fn once_prints_one_answer_and_ends_with_success() {
    let (output, stderr) = output(&["--once", "--model", "identity"]);
    assert!(output.status.success(), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["data"][0]["embedding"].as_array().unwrap().len(), 4);
}

#[test]
fn a_model_that_cannot_be_loaded_is_named_with_the_workers_own_words() {
    let model = tempfile::tempdir().unwrap();
    std::fs::write(model.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    std::fs::write(model.path().join("tokenizer.json"), "{}").unwrap();
    std::fs::write(model.path().join("model.safetensors"), "").unwrap();
    let (output, stderr) = output(&["--model", &model.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr.lines().last().unwrap();
    assert!(error.starts_with("error: worker-1 ended 3 times while starting: "), "{stderr}");
    assert!(error.contains("model.safetensors"), "{stderr}");
}

#[tokio::test]
async fn two_systems_on_one_store_are_refused() {
    let up = Up::ready(&["--model", "identity"]).await;
    let mut second = Up::command(up.store.path(), &["--once", "--model", "identity"]).spawn().unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(1));
    let mut stderr = String::new();
    second.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains(&format!("is used by another forebay up (process {})", up.child.id())), "{stderr}");
    assert_eq!(up.embed().await, 200, "the first is not disturbed");
}
