//! Why a model could not be loaded, and why a batch could not be computed.
//!
//! Every message is one line and says what to do about it: it is read by whoever starts a worker, not by a client.

use std::path::PathBuf;

/// A model that cannot be served. Raised at start-up or by a model reload, never while a batch runs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    #[error("no model folder at {}: check the path, or give a hub id such as sentence-transformers/all-MiniLM-L6-v2", path.display())]
    FolderMissing { path: PathBuf },
    #[error("{} has no {file}: {hint}", folder.display())]
    FileMissing { folder: PathBuf, file: String, hint: &'static str },
    #[error("cannot read {}: {reason}; check its permissions or download it again", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is not what is expected: {reason}; compare it with the file in the model's repository", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("{} is not a complete safetensors file ({reason}): download it again", path.display())]
    Weights { path: PathBuf, reason: String },
    #[error("the weights have no tensor {name}: the file does not belong to this config.json, download both again")]
    TensorMissing { name: String },
    #[error(
        "tensor {name} has shape {got:?}, config.json asks for {expected:?}: weights and config.json belong to different models, download both again"
    )]
    Shape { name: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("config.json names the architecture {found:?}, which is not supported: choose a model of one of {known}")]
    UnknownArchitecture { found: String, known: &'static str },
    #[error("{what} is not supported: choose another model")]
    Unsupported { what: String },
    #[error("cannot load the tokenizer {}: {reason}; download it again", path.display())]
    Tokenizer { path: PathBuf, reason: String },
    #[error("model id {id:?} is not valid: use owner/name as on huggingface.co, or an existing folder")]
    HubId { id: String },
    #[error(
        "{id} is not in the cache ({}) and {reason}: connect this machine, copy the folder here and pass its path, or set HF_HOME", cache.display()
    )]
    HubUnreachable { id: String, cache: PathBuf, reason: String },
    #[error("cannot download {id}: {reason}")]
    Hub { id: String, reason: String },
    #[error("the device cannot hold the model: {0}")]
    Device(String),
    #[error(transparent)]
    NoDevice(#[from] crate::device::DeviceError),
}

/// A batch that produced no answer. The driver decides whether to split, retry or fail its jobs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The batch itself is malformed (an empty row, an id outside the vocabulary, a row beyond the model's positions).
    /// The same batch fails again; its well-formed rows succeed without the others.
    #[error("malformed batch: {0}")]
    Batch(String),
    /// The device had no memory for a batch of this size: a smaller one may pass.
    #[error("out of memory for a batch of {tokens} tokens")]
    OutOfMemory { tokens: usize },
    /// The device is gone, or in a state that only a new process gets out of: every later batch would fail too.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The device or a kernel failed.
    #[error("computation failed: {0}")]
    Compute(String),
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(one_line(&error.to_string()))
    }
}

/// First line of a foreign error message: some append backtraces.
pub(crate) fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_end_matches(['.', ' ']).to_owned()
}
