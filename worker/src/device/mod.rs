//! The device that a worker's engine computes on (step ⑥ of the data path).
//!
//! A device says how a batch is laid over its parallel units and gives every unit an [`Exec`], which layers
//! compute with. Twin files expose the same functions per kind of device; models and layers do not know which one they run on.

pub mod choice;
pub mod counters;
pub mod cpu;
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

pub use choice::DeviceChoice;
pub use counters::{Counters, Op};
pub use cpu::{Cpu, Exec};
pub use precision::Precision;

/// A device, shared by the models that live on it. Cloning is cheap.
#[derive(Clone)]
pub enum Device {
    Cpu(Arc<Cpu>),
}

impl Device {
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
        }
    }

    /// Short name for labels, for example `cpu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
        }
    }
}
