//! What `forebay device-bench` can be asked.

use std::path::PathBuf;

use clap::Args;

use crate::device::{DeviceChoice, Precision};

#[derive(Args, Debug, Clone)]
pub struct DeviceBenchArgs {
    /// Device to measure: cpu, cuda:N, cuda:UUID (a GPU or a MIG slice of one, as `nvidia-smi -L` prints it), or auto: the first
    /// GPU if there is one.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Type of weights and activations: f32, f16 or bf16 [default: what a worker would use].
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Precision>,
    /// Threads to compute with on the CPU; default: all processors.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Model to measure with: a folder in Hugging Face layout.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Rows per batch, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 64, 256], value_name = "N,…")]
    pub rows: Vec<usize>,
    /// Tokens per row, separated by commas; more than the model takes are left out.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 25, 64, 128, 256, 512], value_name = "N,…")]
    pub lengths: Vec<usize>,
    /// Least time per figure in seconds.
    #[arg(long, default_value_t = 0.7, value_name = "SECONDS")]
    pub seconds: f64,
    /// What the device's memory transfers, in TB/s, for the floor under each operation [default: 4.3 on an H200].
    #[arg(long, value_name = "TB/S")]
    pub bandwidth: Option<f64>,
    /// What the device multiplies and adds in this type, in TFLOP/s [default: 790 on an H200 in f16 and bf16].
    #[arg(long, value_name = "TFLOP/S")]
    pub peak: Option<f64>,
    /// Where the random ids begin, and those of the self-test.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}
