//! Models by hub id: from the local cache of `hf-hub`, or downloaded into it.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and `HF_TOKEN` mean what they mean elsewhere; with `HF_HUB_OFFLINE` set, the cache is
//! all there is. Online, the revision is asked for again and only what is missing is downloaded. A machine that cannot
//! reach the hub finds out within three seconds, and serves from the cache if the model is complete there.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::error::one_line;
use super::{LoadProgress, ModelError};

/// Longest wait for name resolution and a TCP connection to the hub.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Files that serving needs. A repository often holds the same weights in three more formats.
const WANTED: [&str; 6] = [
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "modules.json",
];

/// Whether a file of the repository is needed, and so must be fetched.
fn is_wanted(file: &str) -> bool {
    let is_weights = file.starts_with("model") && file.ends_with(".safetensors") && !file.contains('/');
    is_weights || WANTED.contains(&file) || file.ends_with("_Pooling/config.json")
}

/// Folder of a hub model in the local cache, after downloading what is missing.
///
/// # Errors
/// [`ModelError::HubId`], [`ModelError::HubUnreachable`] if it is neither in the cache nor reachable, and [`ModelError::Hub`]
/// for what the hub answers (no such repository, access denied, …).
pub fn fetch(id: &str, revision: Option<&str>, progress: &dyn Fn(LoadProgress)) -> Result<PathBuf, ModelError> {
    let valid = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !id.split('/').all(valid) || id.matches('/').count() > 1 {
        return Err(ModelError::HubId { id: id.to_owned() });
    }
    let cache = env("HF_HUB_CACHE").map_or_else(Cache::from_env, |folder| Cache::new(folder.into()));
    let endpoint = env("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.unwrap_or("main").to_owned());
    let unreachable = match reachable(&endpoint) {
        Ok(()) => match download(&cache, &endpoint, repo.clone(), progress) {
            Ok(folder) => return Ok(folder),
            Err(ApiError::IoError(error)) => one_line(&error.to_string()),
            Err(error) => return Err(ModelError::Hub { id: id.to_owned(), reason: one_line(&error.to_string()) }),
        },
        Err(reason) => reason,
    };
    match cache.repo(repo).get("config.json").and_then(|file| Some(file.parent()?.to_owned())) {
        Some(folder) => Ok(folder),
        None => {
            let cache = cache.path().clone();
            Err(ModelError::HubUnreachable { id: id.to_owned(), cache, reason: unreachable })
        }
    }
}

/// A variable that is set to something.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Asks the hub what the revision holds and fetches what is not in the cache.
fn download(cache: &Cache, endpoint: &str, repo: Repo, progress: &dyn Fn(LoadProgress)) -> Result<PathBuf, ApiError> {
    let token = env("HF_TOKEN").or_else(|| cache.token());
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(endpoint.trim_end_matches('/').to_owned())
        .with_token(token)
        .with_retries(2)
        .with_progress(false)
        .build()?;
    let api: ApiRepo = api.repo(repo.clone());
    let info = api.info()?;
    let cached = cache.repo(repo);
    let mut tally = Tally { progress, file: String::new(), done_bytes: 0, total_bytes: 0 };
    for file in info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).filter(|file| is_wanted(file)) {
        if cached.pointer_path(&info.sha).join(file).exists() {
            continue;
        }
        api.download_with_progress(file, &mut tally)?;
    }
    cached.create_ref(&info.sha)?;
    Ok(cached.pointer_path(&info.sha))
}

/// Adds up the files of one download.
struct Tally<'a> {
    progress: &'a dyn Fn(LoadProgress),
    /// The one that arrives at present.
    file: String,
    done_bytes: u64,
    total_bytes: u64,
}

impl Progress for &mut Tally<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        // Called again for each attempt.
        if self.file != filename {
            self.file = filename.to_owned();
            self.total_bytes += size as u64;
        }
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        (self.progress)(LoadProgress::Downloading { done_bytes: self.done_bytes, total_bytes: self.total_bytes });
    }

    fn finish(&mut self) {}
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
