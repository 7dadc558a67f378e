//! Findings about this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::model::Model;
use crate::{host, http, up};

/// `up` refuses to start below this.
const LITTLE_DISK_BYTES: u64 = 512 << 20;
/// A queue that fills while workers are away needs room.
const COMFORTABLE_DISK_BYTES: u64 = 5 << 30;
/// Below this, a few hundred clients exhaust the process.
const COMFORTABLE_OPEN_FILES: u64 = 8_192;

/// Free, or already used by what we would put there (`path` answers).
pub(super) async fn port(what: &'static str, addr: SocketAddr, path: &str, flag: &str) -> Finding {
    match host::port_is_free(addr) {
        Ok(true) => return Finding::ok(what, format!("{addr} is free")),
        Ok(false) => {}
        Err(error) => {
            return Finding::fail(
                what,
                format!("cannot listen on {addr}: {error}"),
                format!("choose another with {flag}"),
            );
        }
    }
    let answer = http::get(host::reachable(addr), path, Duration::from_secs(2)).await;
    let is_ours =
        answer.is_ok_and(|answer| answer.status == 200 && (path != "/metrics" || answer.text().contains("forebay_")));
    if is_ours {
        Finding::ok(what, format!("forebay answers on {addr}"))
    } else {
        Finding::fail(
            what,
            format!("{addr} is in use by another program"),
            format!("stop it or choose another with {flag}"),
        )
    }
}

pub(super) fn store(store: &Path) -> Finding {
    if !host::is_writable(store) {
        return Finding::fail(
            "store",
            format!("cannot write to {}", store.display()),
            "choose another folder with --store",
        );
    }
    let free = match host::disk_free_bytes(store) {
        Ok(free) => free,
        Err(error) => return Finding::fail("disk", format!("{error:#}"), "choose another folder with --store"),
    };
    let detail = format!("{} free under {}", host::gigabytes(free), store.display());
    match free {
        0..LITTLE_DISK_BYTES => Finding::fail("disk", detail, "free some, or choose another disk with --store"),
        LITTLE_DISK_BYTES..COMFORTABLE_DISK_BYTES => Finding::warn(
            "disk",
            detail,
            "a long queue or a large model may fill it; free some, or choose another disk with --store",
        ),
        COMFORTABLE_DISK_BYTES.. => Finding::ok("disk", detail),
    }
}

pub(super) fn model(model: &Model) -> Finding {
    match model.problem() {
        Some(problem) => Finding::fail("model", problem, "pass --model a folder in Hugging Face layout or a hub id"),
        None if model.is_folder() => Finding::ok("model", format!("{} is complete", model.source)),
        None if model.is_built_in() => Finding::ok("model", format!("{} is built in", model.source)),
        None => Finding::warn(
            "model",
            format!("{} is not in a local folder", model.source),
            "it is downloaded at the first start; this needs the internet",
        ),
    }
}

pub(super) fn nats_server(named: Option<&Path>) -> Finding {
    let found = up::find_server(named).and_then(|path| Ok((up::server_version(&path)?, path)));
    match found {
        Ok((version, path)) => Finding::ok("nats-server", format!("{} (version {version})", path.display())),
        // The remedy is part of the message.
        Err(error) => {
            let text = format!("{error:#}");
            let (problem, remedy) = text.split_once("; ").unwrap_or((&text, "run `make setup`"));
            Finding::fail("nats-server", problem, remedy)
        }
    }
}

pub(super) fn cpu() -> Finding {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags =
        flags.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap_or_default();
    let has = |name: &&str| flags.split_ascii_whitespace().any(|flag| flag == *name);
    let fast: Vec<&str> =
        ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd"].into_iter().filter(has).collect();
    let detail = format!(
        "{} cores, {}",
        host::cores(),
        if fast.is_empty() { "no vector extensions".to_owned() } else { fast.join(" ") }
    );
    if fast.contains(&"avx2") || fast.contains(&"asimd") {
        Finding::ok("cpu", detail)
    } else {
        Finding::warn("cpu", detail, "models will be slow; use a CPU with AVX2, or better AVX-512")
    }
}

pub(super) fn open_files() -> Finding {
    match host::open_file_limit() {
        None => Finding::warn("open files", "cannot read the limit", "check `ulimit -Hn`"),
        Some(limit) if limit < COMFORTABLE_OPEN_FILES => Finding::warn(
            "open files",
            format!("at most {limit}, and each connection is one"),
            format!("raise it: ulimit -Hn {}", 65_536),
        ),
        Some(limit) => Finding::ok("open files", format!("at most {limit}")),
    }
}
