//! Models by hub id: from the local cache of `hf-hub`, or downloaded into it.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and `HF_TOKEN` mean what they mean elsewhere; with `HF_HUB_OFFLINE` set, the cache is
//! all there is. Online, the revision is asked for again and only what is missing is downloaded. A machine that cannot
//! reach the hub finds out within [`CONNECT_TIMEOUT`], and serves from the cache if the model is complete there.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFClientSync, HFError, split_id};

use super::error::one_line;
use super::{LoadProgress, ModelError};

/// Longest wait for name resolution and a TCP connection to the hub.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Files that serving needs, as globs. A repository often holds the same weights in three more formats.
const WANTED: [&str; 9] = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "modules.json",
    "*_Pooling/config.json",
];

/// Folder of a hub model in the local cache, after downloading what is missing.
///
/// # Errors
/// [`ModelError::HubId`], [`ModelError::HubUnreachable`] if it is neither in the cache nor reachable, and [`ModelError::Hub`]
/// for what the hub answers (no such repository, access denied, …).
pub fn fetch(id: &str, revision: Option<&str>, progress: &dyn Fn(LoadProgress)) -> Result<PathBuf, ModelError> {
    let hub_error = |error: HFError| ModelError::Hub { id: id.to_owned(), reason: one_line(&error.to_string()) };
    let valid = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let (owner, name) = split_id(id);
    if name.is_empty() || !valid(owner) || !valid(name) {
        return Err(ModelError::HubId { id: id.to_owned() });
    }
    let client = HFClient::builder().retry_max_attempts(2).build().map_err(hub_error)?;
    let (endpoint, cache) = (client.endpoint().to_owned(), client.cache_dir().to_owned());
    let client = HFClientSync::from_inner(client).map_err(hub_error)?;
    let unreachable = match reachable(&endpoint) {
        Ok(()) => match snapshot(&client, id, revision, false, progress) {
            Ok(path) => return Ok(path),
            Err(HFError::Request { source, .. }) => one_line(&source.to_string()),
            Err(error) => return Err(hub_error(error)),
        },
        Err(reason) => reason,
    };
    match snapshot(&client, id, revision, true, progress) {
        Ok(path) if path.join("config.json").exists() => Ok(path),
        _ => Err(ModelError::HubUnreachable { id: id.to_owned(), cache, reason: unreachable }),
    }
}

/// One snapshot download. Progress events come from the client's threads and are told on this one.
fn snapshot(
    client: &HFClientSync,
    id: &str,
    revision: Option<&str>,
    local_only: bool,
    progress: &dyn Fn(LoadProgress),
) -> Result<PathBuf, HFError> {
    let (owner, name) = split_id(id);
    let (sender, events) = mpsc::channel();
    std::thread::scope(|scope| {
        let download = scope.spawn(move || {
            client
                .model(owner, name)
                .snapshot_download()
                .maybe_revision(revision)
                .allow_patterns(WANTED.map(str::to_owned).to_vec())
                .local_files_only(local_only)
                .progress(Forward(Mutex::new(Tally {
                    sender,
                    files: Default::default(),
                    total_bytes: 0,
                    batch_bytes: 0,
                })))
                .send()
        });
        // Some task of the client may keep its end of the channel: the download's own end is what counts.
        while !download.is_finished() {
            if let Ok(event) = events.recv_timeout(Duration::from_millis(50)) {
                progress(event);
            }
        }
        download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Adds up what the client reports per file, and passes totals on.
struct Forward(Mutex<Tally>);

struct Tally {
    sender: mpsc::Sender<LoadProgress>,
    /// Bytes by file of plain downloads.
    files: rustc_hash::FxHashMap<String, u64>,
    total_bytes: u64,
    /// Bytes of files that arrive as one deduplicated batch.
    batch_bytes: u64,
}

impl ProgressHandler for Forward {
    fn on_progress(&self, event: &ProgressEvent) {
        let (ProgressEvent::Download(event), Ok(mut tally)) = (event, self.0.lock()) else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => tally.total_bytes = *total_bytes,
            DownloadEvent::Progress { files } => {
                for file in files {
                    tally.files.insert(file.filename.clone(), file.bytes_completed);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => tally.batch_bytes = *bytes_completed,
            _ => return,
        }
        let total_bytes = tally.total_bytes;
        let done_bytes = (tally.files.values().sum::<u64>().max(tally.batch_bytes)).min(total_bytes);
        // The receiver is gone only if loading was given up.
        let _ = tally.sender.send(LoadProgress::Downloading { done_bytes, total_bytes });
    }
}

/// Whether it makes sense to ask the hub, decided quickly. Behind a proxy the proxy decides.
fn reachable(endpoint: &str) -> Result<(), String> {
    let set = |name: &str| {
        std::env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&value.to_lowercase().as_str()))
    };
    if set("HF_HUB_OFFLINE") {
        return Err("HF_HUB_OFFLINE is set".to_owned());
    }
    if ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].iter().any(|name| set(name)) {
        return Ok(());
    }
    let host = endpoint.split("://").last().unwrap_or(endpoint).split('/').next().unwrap_or(endpoint).to_owned();
    let host = match (host.contains(':'), endpoint.starts_with("http://")) {
        (true, _) => host,
        (false, true) => format!("{host}:80"),
        (false, false) => format!("{host}:443"),
    };
    // The resolver has no time-out of its own: it gets a thread that may outlive this call.
    let (sender, answer) = mpsc::channel();
    let target = host.clone();
    std::thread::spawn(move || sender.send(connect(&target)));
    match answer.recv_timeout(2 * CONNECT_TIMEOUT) {
        Ok(result) => result.map_err(|error| format!("{host} cannot be reached ({error})")),
        Err(_) => Err(format!("{host} does not answer")),
    }
}

fn connect(host: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::other("the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
