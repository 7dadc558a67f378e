//! Why a device could not be opened.

/// One line for whoever started the process, saying what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("this build computes on the CPU only: use --device cpu, or build with `make cuda`")]
    NotBuilt,
    #[error(
        "{asked} cannot be used: {reason}; install NVIDIA's driver and CUDA 13's libraries (docs/gpu.md), or use --device cpu"
    )]
    Unavailable { asked: String, reason: String },
    #[error("there is no device {asked}: this process sees {seen}")]
    Unknown { asked: String, seen: String },
    #[error("the CPU computes in f32 only, not in {0}: leave the type out, or use a GPU")]
    Precision(&'static str),
    #[error("cannot open {device}: {reason}")]
    Failed { device: String, reason: String },
}
