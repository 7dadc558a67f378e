//! What `forebay self-test` can be asked.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::device::{DeviceChoice, Precision};

#[derive(Args, Debug, Clone)]
pub struct SelfTestArgs {
    /// Device to test: cpu, cuda:N, cuda:UUID (a GPU or a MIG slice of one, as `nvidia-smi -L` prints it), or auto: the first
    /// GPU if there is one.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Type of weights and activations: f32, f16, bf16, or all that the device has [default: what a worker would use].
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<DtypeChoice>,
    /// Threads to compute with on the CPU; default: all processors.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// A model to test beside the small one that is inside the binary: a folder in Hugging Face layout; repeat it for more.
    #[arg(long = "model", value_name = "FOLDER")]
    pub models: Vec<PathBuf>,
    /// What a model should answer, in the format of tests/fixtures/minilm/expected.json; the model is the one whose folder has
    /// the name that the file says, or the only one. Without a file the CPU is asked, in f32.
    #[arg(long = "references", value_name = "FILE")]
    pub references: Vec<PathBuf>,
    /// Where the random shapes and numbers begin: a seed repeats a run.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Batches of random sizes over which memory must not grow.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub batches: usize,
    /// For tests: kernels whose name begins like this have one number of each answer changed.
    #[arg(long, hide = true, value_name = "NAME")]
    pub sabotage: Option<String>,
}

impl SelfTestArgs {
    /// Everything by default, on one device in one precision.
    pub fn new(device: DeviceChoice, dtype: Option<Precision>) -> Self {
        Self {
            device,
            dtype: dtype.map(DtypeChoice::One),
            threads: None,
            models: Vec::new(),
            references: Vec::new(),
            seed: 1,
            batches: 200,
            sabotage: None,
        }
    }
}

/// `--dtype`: one, or all that the device computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypeChoice {
    One(Precision),
    All,
}

impl FromStr for DtypeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            one => one.parse().map(Self::One).map_err(|error| format!("{error}, all")),
        }
    }
}
