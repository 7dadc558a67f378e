//! Models: from a folder or a hub id to something that turns token ids into vectors.
//!
//! [`load`] is called once per model at start-up. It recognises the architecture from `config.json` and hands over to the
//! one file that knows it ([`bert`]); pooling, normalisation and limits come from the files that sentence-transformers
//! writes. A new architecture is a new file with an `Encoder`, and one line in [`architecture`].

pub mod architecture;
pub mod batch;
pub mod bert;
pub mod builtin;
pub mod error;
pub mod flight;
pub mod folder;
pub mod hub;
pub mod ragged;
pub mod simulated;
pub mod source;
pub mod weights;

use std::sync::Arc;

use forebay_shared::ids::ModelToken;
use forebay_shared::model;

pub use batch::{Embeddings, TokenBatch};
pub use error::{EngineError, ModelError};
pub use flight::{Flight, Pending};
pub use simulated::SimulatedConfig;
pub use source::ModelSource;

use crate::device::{Counters, Device};
pub use crate::layers::pooling::Pooling;
use crate::tokenize::{HubTokenizer, Tokenize};
use folder::ModelFolder;

/// What is known of a model before it has answered anything.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Served name: the folder's last component, or the hub id.
    pub name: String,
    /// Name in subjects and streams; differs as soon as anything differs that changes the answers.
    pub token: ModelToken,
    /// `model_type` of `config.json`, for example `bert`.
    pub architecture: String,
    /// Type of the weights and activations while computing, for example `f32`.
    pub dtype: String,
    /// Length of an answer.
    pub dimensions: usize,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
    pub pooling: Pooling,
    /// Whether answers are scaled to length 1 unless a request says otherwise.
    pub normalize: bool,
    /// Prefix lengths that the model was trained to be cut to; empty if it was not.
    pub matryoshka_dimensions: Vec<usize>,
    pub vocab_size: usize,
    /// sha256 of the weight files in hex.
    pub weights_digest: String,
    /// Size of the weight files.
    pub size_bytes: u64,
    /// Last training loss in `trainer_state.json`.
    pub training_loss: Option<f64>,
    /// Last evaluation loss in `trainer_state.json`.
    pub validation_loss: Option<f64>,
}

/// A model that is ready to serve. The tokenizer is shared by threads, the encoder belongs to the device's thread.
pub struct LoadedModel {
    pub info: ModelInfo,
    pub tokenizer: Arc<dyn Tokenize>,
    pub encoder: Box<dyn Encoder>,
}

/// Turns a batch of token rows into one vector per row (step ⑥ of the data path).
pub trait Encoder: Send {
    /// Computes all rows of `batch`.
    ///
    /// Returns `[rows, dimensions]` in `f32`, in the order of the batch, pooled and not scaled. The answer for a row does not depend on its company.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for rows that are empty, too long, or hold ids outside the vocabulary; an empty batch is fine.
    fn encode(&mut self, batch: &TokenBatch) -> Result<Embeddings, EngineError>;

    /// Hands a batch to the device. Where the device works by itself this returns before the batch is computed, and up to
    /// [`depth`](Self::depth) batches may be under way; elsewhere it is [`encode`](Self::encode).
    ///
    /// # Errors
    /// As [`encode`](Self::encode), as far as they show before the batch is computed.
    fn submit(&mut self, batch: &TokenBatch) -> Result<Flight, EngineError> {
        self.encode(batch).map(Flight::Landed)
    }

    /// Batches that may be under way at the same time.
    fn depth(&self) -> usize {
        1
    }

    /// Finds out how many tokens of one batch the device has memory for, at most `wanted`, by running such batches. `longest` is the
    /// model's longest input. Called once, before the first batch.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] if not even one input of that length fits.
    fn fit(&mut self, wanted: usize, longest: usize) -> Result<usize, EngineError> {
        let _ = longest;
        Ok(wanted)
    }

    /// True if encoding costs next to nothing, so that handing work to another thread would cost more than doing it.
    fn runs_inline(&self) -> bool;

    /// Token rows computed and time spent so far; none where nothing is computed.
    fn counters(&self) -> Option<Arc<Counters>> {
        None
    }
}

/// How far loading is. Meant for a status line: cheap, may repeat, arrives on the thread that loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadProgress {
    /// Bytes of the model's files that have arrived; `total_bytes` is 0 while unknown.
    Downloading {
        done_bytes: u64,
        total_bytes: u64,
    },
    /// Weights are being read and laid out for the device.
    Loading {
        size_bytes: u64,
    },
    Ready,
}

/// Loads a model onto `device`: downloads it if it is a hub id that is not in the cache, reads its files, lays out its weights.
///
/// Blocks for as long as that takes; call it from a thread that may. Tells `progress` on the way.
///
/// # Errors
/// One line for whoever started the worker, saying what to do; see [`ModelError`].
pub fn load(source: &ModelSource, device: &Device, progress: &dyn Fn(LoadProgress)) -> Result<LoadedModel, ModelError> {
    let model = match source {
        ModelSource::Identity => builtin::identity(),
        ModelSource::Simulated(config) => builtin::simulated(*config),
        ModelSource::Folder(path) => {
            let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            let folder = ModelFolder::open(path)?;
            load_folder(&name.unwrap_or_else(|| "model".to_owned()), &folder, device, progress)?
        }
        ModelSource::Hub { id, revision } => {
            let path = hub::fetch(id, revision.as_deref(), progress)?;
            load_folder(id, &ModelFolder::open(&path)?, device, progress)?
        }
    };
    progress(LoadProgress::Ready);
    Ok(model)
}

fn load_folder(
    name: &str,
    folder: &ModelFolder,
    device: &Device,
    progress: &dyn Fn(LoadProgress),
) -> Result<LoadedModel, ModelError> {
    let weights = folder.weights()?;
    let size_bytes = weights.size_bytes();
    progress(LoadProgress::Loading { size_bytes });
    let weights_digest = weights.digest()?;
    let built = architecture::build(folder, weights, device)?;
    let max_tokens = folder.max_tokens(built.max_positions);
    let tokenizer = HubTokenizer::open(&folder.file("tokenizer.json")?, max_tokens, built.vocab_size)?;
    let (dtype, pooling, normalize) = (device.precision().as_str(), folder.pooling, folder.normalize);
    let info = ModelInfo {
        name: name.to_owned(),
        token: model::token(name, &weights_digest, dtype, pooling.as_str(), normalize),
        architecture: folder.model_type.clone(),
        dtype: dtype.to_owned(),
        dimensions: built.dimensions,
        max_tokens,
        pooling,
        normalize,
        matryoshka_dimensions: folder.matryoshka_dimensions.clone(),
        vocab_size: built.vocab_size,
        weights_digest,
        size_bytes,
        training_loss: folder.training_loss,
        validation_loss: folder.validation_loss,
    };
    Ok(LoadedModel { info, tokenizer: Arc::new(tokenizer), encoder: built.encoder })
}
