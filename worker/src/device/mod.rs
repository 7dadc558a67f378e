//! The device that a worker's engine computes on (step ⑥ of the data path).
//!
//! A device takes the layers of a model and gives them an [`Exec`] to compute with; a CPU also says how a batch is laid over its
//! threads. Twin files expose the same functions per kind of device; models and layers do not know which one they run on.

pub mod budget;
pub mod choice;
pub mod counters;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
pub mod cuda;
pub mod error;
pub mod exec;
pub mod list;
#[cfg(feature = "nvml")]
pub mod nvml;
#[cfg(not(feature = "nvml"))]
#[path = "no_nvml.rs"]
pub mod nvml;
pub mod plan;
pub mod precision;
pub mod readings;
pub mod settle;

use std::sync::Arc;

use candle_core::Device as CandleDevice;

use crate::models::EngineError;
pub use choice::DeviceChoice;
pub use counters::{Counters, Op};
pub use cpu::Cpu;
pub use cuda::Cuda;
pub use error::DeviceError;
pub use exec::Exec;
pub use precision::Precision;

/// A device, shared by the models that live on it. Cloning is cheap.
#[derive(Clone)]
pub enum Device {
    Cpu(Arc<Cpu>),
    Cuda(Arc<Cuda>),
}

/// Memory of a device in bytes, as its allocator counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceMemory {
    /// In tensors.
    pub used_bytes: u64,
    /// Taken from the driver, in use or kept for later.
    pub reserved_bytes: u64,
    /// Largest `used_bytes` so far.
    pub peak_bytes: u64,
    /// What this process may fill.
    pub capacity_bytes: u64,
}

/// What an error means for the batches after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A smaller batch may pass.
    OutOfMemory,
    /// Nothing will pass until a new process opens the device.
    Lost,
    /// The next batch may pass.
    Other,
}

impl Device {
    /// Opens the device that was asked for. `threads` is for the CPU: `None` takes as many as this process may use.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing, or what to choose instead.
    pub fn open(
        choice: &DeviceChoice,
        threads: Option<usize>,
        precision: Option<Precision>,
    ) -> Result<Self, DeviceError> {
        let cpu = || {
            if let Some(other) = precision.filter(|precision| *precision != Precision::F32) {
                return Err(DeviceError::Precision(other.as_str()));
            }
            let failed =
                |error: std::io::Error| DeviceError::Failed { device: "cpu".to_owned(), reason: error.to_string() };
            Self::cpu(threads).map_err(failed)
        };
        match choice {
            DeviceChoice::Cpu => cpu(),
            DeviceChoice::Auto => match Cuda::open(choice, precision) {
                Ok(cuda) => Ok(Self::Cuda(Arc::new(cuda))),
                Err(reason @ (DeviceError::NotBuilt | DeviceError::Unavailable { .. })) => {
                    tracing::debug!(%reason, "computing on the CPU");
                    cpu()
                }
                Err(error) => Err(error),
            },
            DeviceChoice::Ordinal(_) | DeviceChoice::Uuid(_) => {
                Ok(Self::Cuda(Arc::new(Cuda::open(choice, precision)?)))
            }
        }
    }

    /// The CPU with `threads` threads; `None` takes as many as this process may use.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub fn cpu(threads: Option<usize>) -> std::io::Result<Self> {
        Ok(Self::Cpu(Arc::new(Cpu::new(threads)?)))
    }

    /// For a status line, for example `cpu, 2 threads, avx512`.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => format!("cpu, {} threads, {}", cpu.threads(), cpu.level().as_str()),
            Self::Cuda(cuda) => cuda.describe(),
        }
    }

    /// Short name for labels, for example `cpu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// Type of weights and activations.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu(_) => Precision::F32,
            Self::Cuda(cuda) => cuda.precision(),
        }
    }

    /// Where candle's tensors live.
    pub fn tensors(&self) -> &CandleDevice {
        match self {
            Self::Cpu(_) => &CandleDevice::Cpu,
            Self::Cuda(cuda) => cuda.tensors(),
        }
    }

    /// What the device's allocator holds; `None` where it is the system's.
    pub fn memory(&self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(cuda) => cuda.memory().ok(),
        }
    }

    /// Blocks until the device has done what it was given.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn synchronize(&self) -> candle_core::Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(cuda) => cuda.synchronize(),
        }
    }

    /// Measures every operation from now on, also where that slows the device down: see [`Cuda::profile`].
    pub fn profile(&self, on: bool) {
        if let Self::Cuda(cuda) = self {
            cuda.profile(on);
        }
    }

    /// Runs `work` with the device's hands for one operation or a few: on a CPU, the calling thread alone.
    pub fn with_exec<T>(&self, counters: &Counters, work: impl FnOnce(&Exec<'_>) -> T) -> T {
        match self {
            Self::Cpu(cpu) => work(&Exec::on_cpu(cpu.level(), None, counters)),
            Self::Cuda(cuda) => work(&cuda.exec(counters)),
        }
    }
}

/// What a failure means for a batch of `tokens` tokens.
pub(crate) fn engine_error(error: candle_core::Error, tokens: usize) -> EngineError {
    match cuda::fault::classify(&error) {
        Fault::OutOfMemory => EngineError::OutOfMemory { tokens },
        Fault::Lost => EngineError::DeviceLost(crate::models::error::one_line(&error.to_string())),
        Fault::Other => error.into(),
    }
}
