//! The weights of a model: memory-mapped safetensors, read tensor by tensor into candle.
//!
//! The mapping lives only while a model is built: tensors are copied out (and converted to `f32`) so that a file that is
//! replaced or truncated later cannot reach a running worker.

use std::path::PathBuf;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device as CandleDevice, Tensor};
use sha2::{Digest, Sha256};

use super::ModelError;
use super::error::one_line;
use forebay_shared::ids::hex;

/// Mapped weight files of one model.
pub struct Weights {
    mapped: MmapedSafetensors,
    paths: Vec<PathBuf>,
    size_bytes: u64,
    /// In front of every name: checkpoints of a model with a head on top call the encoder `bert.…`.
    prefix: &'static str,
}

impl Weights {
    /// Maps the files and reads their headers.
    ///
    /// # Errors
    /// [`ModelError::Weights`] for the first file that is not complete safetensors.
    pub fn open(paths: Vec<PathBuf>) -> Result<Self, ModelError> {
        let mut size_bytes = 0;
        for path in &paths {
            let unreadable =
                |error: std::io::Error| ModelError::Unreadable { path: path.clone(), reason: error.to_string() };
            size_bytes += std::fs::metadata(path).map_err(unreadable)?.len();
            // SAFETY: as below; one by one first, so that an error names its file.
            if let Err(error) = unsafe { MmapedSafetensors::new(path) } {
                return Err(ModelError::Weights { path: path.clone(), reason: reason(&error) });
            }
        }
        // SAFETY: the files must not shrink while they are mapped. They are model files that nobody writes to while a worker
        // starts, and the mapping ends with this value, before the model serves.
        let mapped = unsafe { MmapedSafetensors::multi(&paths) }.map_err(|error| ModelError::Weights {
            path: paths.first().cloned().unwrap_or_default(),
            reason: reason(&error),
        })?;
        Ok(Self { mapped, paths, size_bytes, prefix: "" })
    }

    /// Uses `prefix` in front of all names if a tensor `probe` exists only under it.
    pub fn detect_prefix(mut self, prefix: &'static str, probe: &str) -> Self {
        if self.mapped.get(probe).is_err() && self.mapped.get(&format!("{prefix}{probe}")).is_ok() {
            self.prefix = prefix;
        }
        self
    }

    /// One tensor in `f32` on the host, with the shape that the configuration promises.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`], [`ModelError::Shape`], or [`ModelError::Unsupported`] for a dtype candle does not read.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let full = format!("{}{name}", self.prefix);
        let view = self.mapped.get(&full).map_err(|_| ModelError::TensorMissing { name: full.clone() })?;
        if view.shape() != shape {
            return Err(ModelError::Shape { name: full, expected: shape.to_vec(), got: view.shape().to_vec() });
        }
        let unsupported = |_| ModelError::Unsupported { what: format!("the type {:?} of tensor {full}", view.dtype()) };
        let tensor = self.mapped.load(&full, &CandleDevice::Cpu).map_err(unsupported)?;
        tensor.to_dtype(DType::F32).map_err(unsupported)
    }

    /// Size of all files.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// sha256 over all files in order, in hex.
    ///
    /// # Errors
    /// [`ModelError::Unreadable`].
    pub fn digest(&self) -> Result<String, ModelError> {
        let mut hash = Sha256::new();
        for path in &self.paths {
            let copied = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hash));
            copied.map_err(|error| ModelError::Unreadable { path: path.clone(), reason: error.to_string() })?;
        }
        Ok(hex(&hash.finalize()))
    }
}

fn reason(error: &candle_core::Error) -> String {
    one_line(&error.to_string())
}
