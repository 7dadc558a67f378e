//! Why a device could not be opened.

/// One line for whoever started the process, saying what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("this build computes on the CPU only: use --device cpu, or build with `make cuda`")]
    NotBuilt,
    #[error(
        "no GPU can be used: {0}; install NVIDIA's driver and CUDA 13's libraries (docs/gpu.md), or use --device cpu"
    )]
    Unavailable(String),
    #[error("there is no device {asked}: this process sees {seen}")]
    Unknown { asked: String, seen: String },
    #[error("{what} does not compute in {dtype}: {remedy}")]
    Precision { what: &'static str, dtype: &'static str, remedy: &'static str },
    #[error("cannot open {device}: {reason}")]
    Failed { device: String, reason: String },
}
