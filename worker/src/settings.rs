//! The worker's own flags.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use forebay_sched::BatchLimits;
use forebay_shared::settings::SettingsError;

use crate::device::{DeviceChoice, Precision};
use crate::models::builtin::word_id;
use crate::models::{ModelSource, SimulatedConfig};

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Worker")]
pub struct WorkerArgs {
    /// Model to serve: a folder in Hugging Face layout, a hub id such as sentence-transformers/all-MiniLM-L6-v2,
    /// or one of the built-in models `identity` and `simulated`.
    #[arg(long, env = "FOREBAY_MODEL", value_name = "FOLDER|HUB ID")]
    pub model: String,
    /// Name under which clients ask for the model; default: the folder's name or the hub id.
    #[arg(long, env = "FOREBAY_SERVED_NAME", value_name = "NAME")]
    pub served_name: Option<String>,
    /// Device to compute on: cpu, cuda:N, cuda:UUID (a GPU or a MIG slice of one, as `nvidia-smi -L` prints it), or auto: the
    /// first GPU if there is one.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Type of weights and activations: f32, f16 or bf16 [default: f16 on a GPU; f32 on the CPU, which has no other].
    #[arg(long, env = "FOREBAY_DTYPE", value_name = "DTYPE")]
    pub dtype: Option<Precision>,
    /// What an hour of the device costs, in any currency: `forebay_device_price_per_hour`, for cost per inference.
    #[arg(long, env = "FOREBAY_DEVICE_PRICE", value_name = "PRICE")]
    pub device_price: Option<f64>,
    /// Threads to compute with; default: all processors.
    #[arg(long, env = "FOREBAY_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Threads that tokenise while the engine computes.
    #[arg(long, env = "FOREBAY_TOKENIZER_THREADS", default_value_t = 1, value_name = "N")]
    pub tokenizer_threads: usize,
    /// Address of this worker's own /metrics and /health pages.
    #[arg(long, env = "FOREBAY_WORKER_METRICS_ADDR", default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub metrics_addr: SocketAddr,
    /// Upper bound on tokens in one forward pass; less if the device has no memory for so many [default: 16384 on the CPU, 32768
    /// on a GPU].
    #[arg(long, env = "FOREBAY_BATCH_MAX_TOKENS", value_name = "N")]
    pub batch_max_tokens: Option<usize>,
    /// Upper bound on rows in one forward pass [default: 64 on the CPU, 512 on a GPU].
    #[arg(long, env = "FOREBAY_BATCH_MAX_ROWS", value_name = "N")]
    pub batch_max_rows: Option<usize>,
    /// Longest time the first job of a batch may wait for company while the device is idle.
    #[arg(long, env = "FOREBAY_BATCH_MAX_DELAY", default_value = "0ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub batch_max_delay: Duration,
    /// A forward pass that takes longer than this counts as stuck: the worker gives its work back and exits.
    #[arg(long, env = "FOREBAY_STALL_LIMIT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub stall_limit: Duration,
    /// Longest time to finish what was begun when asked to stop.
    #[arg(long, env = "FOREBAY_DRAIN_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// `simulated` model: time of a batch before its first token.
    #[arg(long, env = "FOREBAY_SIMULATED_BASE", default_value = "10ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub simulated_base: Duration,
    /// `simulated` model: time per token of a batch.
    #[arg(long, env = "FOREBAY_SIMULATED_PER_TOKEN", default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub simulated_per_token: Duration,
    /// `simulated` model: batches that may be under way at the same time. Above 1 a device of its own works them off, one
    /// after the other, while the worker goes on.
    #[arg(long, env = "FOREBAY_SIMULATED_DEPTH", default_value_t = 1, value_name = "N")]
    pub simulated_depth: usize,
    /// `simulated` model: most tokens of a batch that its memory holds; default: any number.
    #[arg(long, env = "FOREBAY_SIMULATED_MEMORY_TOKENS", value_name = "N")]
    pub simulated_memory_tokens: Option<usize>,
    /// `simulated` model, for tests: time in which the worker is busy handing a batch over, before the device begins it.
    #[arg(long, env = "FOREBAY_SIMULATED_SUBMIT", hide = true, default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub simulated_submit: Duration,
    /// `simulated` model, for tests: a word that loses the device when it is computed.
    #[arg(long, env = "FOREBAY_SIMULATED_LOSE_ON", hide = true, value_name = "WORD")]
    pub simulated_lose_on: Option<String>,
    /// `simulated` model, for tests: a word that ends the process when it is computed.
    #[arg(long, env = "FOREBAY_SIMULATED_KILL_ON", hide = true, value_name = "WORD")]
    pub simulated_kill_on: Option<String>,
}

impl WorkerArgs {
    /// Number of threads to compute with.
    pub fn compute_threads(&self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or(all).max(1)
    }

    /// The model asked for.
    pub fn source(&self) -> ModelSource {
        match ModelSource::parse(&self.model) {
            ModelSource::Simulated(_) => ModelSource::Simulated(SimulatedConfig {
                base: self.simulated_base,
                per_token: self.simulated_per_token,
                submit: self.simulated_submit,
                depth: self.simulated_depth,
                memory_tokens: self.simulated_memory_tokens,
                lost_by: self.simulated_lose_on.as_deref().map(word_id),
                dies_of: self.simulated_kill_on.as_deref().map(word_id),
            }),
            source => source,
        }
    }

    /// Tokens of one batch, as far as the device has memory for them.
    pub fn most_batch_tokens(&self) -> usize {
        self.batch_max_tokens.unwrap_or(if self.is_on_cpu() { 16_384 } else { 32_768 })
    }

    /// The device is settled by now: `auto` without a GPU is the CPU.
    fn is_on_cpu(&self) -> bool {
        self.device.kind() == "cpu"
    }

    /// The batcher's limits, checked against the longest input of the model.
    ///
    /// # Errors
    /// [`SettingsError`] names the flag under which some input could never run.
    pub fn limits(&self, longest_input_tokens: usize) -> Result<BatchLimits, SettingsError> {
        let limits = BatchLimits {
            max_tokens: self.most_batch_tokens(),
            max_rows: self.batch_max_rows.unwrap_or(if self.is_on_cpu() { 64 } else { 512 }),
            max_delay: self.batch_max_delay,
            ..BatchLimits::default()
        };
        limits.validate(longest_input_tokens).map_err(|error| SettingsError {
            flag: "--batch-max-rows / --batch-max-tokens",
            problem: error.to_string(),
        })?;
        Ok(limits)
    }

    /// # Errors
    /// [`SettingsError`] names the flag whose value cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let wrong = |flag, problem: &str| Err(SettingsError { flag, problem: problem.to_owned() });
        if self.device_price.is_some_and(|price| !price.is_finite() || price < 0.0) {
            return wrong("--device-price", "must be a number that is not negative");
        }
        if self.threads == Some(0) {
            return wrong("--threads", "must be at least 1");
        }
        if self.tokenizer_threads == 0 {
            return wrong("--tokenizer-threads", "must be at least 1");
        }
        if self.simulated_depth == 0 {
            return wrong("--simulated-depth", "must be at least 1");
        }
        if self.stall_limit < Duration::from_secs(1) {
            return wrong("--stall-limit", "must be at least 1s");
        }
        Ok(())
    }
}
