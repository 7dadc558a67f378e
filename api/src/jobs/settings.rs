//! Flags of asynchronous jobs and webhooks, a group of `forebay api`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forebay_shared::settings::SettingsError;

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Asynchronous jobs")]
pub struct JobArgs {
    /// Most asynchronous jobs of one tenant that have not ended; more are refused with 429. Without tenants only the queue's
    /// own bound counts.
    #[arg(long, env = "FOREBAY_TENANT_MAX_WAITING_JOBS", default_value_t = 100_000, value_name = "COUNT")]
    pub tenant_max_waiting_jobs: usize,
    /// Most bytes that these take in the queue, which holds 2 GiB of everybody's.
    #[arg(long, env = "FOREBAY_TENANT_MAX_WAITING_BYTES", default_value_t = 256 << 20, value_name = "BYTES")]
    pub tenant_max_waiting_bytes: u64,
    /// File with the secret (`whsec_…`) that signs the webhooks of jobs which bring none of their own.
    #[arg(long, env = "FOREBAY_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Let webhooks reach private and local addresses; by default a client cannot make an api call its own network.
    #[arg(long, env = "FOREBAY_WEBHOOK_ALLOW_PRIVATE")]
    pub webhook_allow_private: bool,
    /// How long one call of a webhook may take.
    #[arg(long, env = "FOREBAY_WEBHOOK_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub webhook_timeout: Duration,
    /// Most calls of one webhook before it is given up.
    #[arg(long, env = "FOREBAY_WEBHOOK_ATTEMPTS", default_value_t = 10, value_name = "COUNT")]
    pub webhook_attempts: u32,
    /// Pause after the first call that failed; it doubles with each, and varies by half.
    #[arg(long, env = "FOREBAY_WEBHOOK_RETRY_MIN", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub webhook_retry_min: Duration,
    /// Longest pause between two calls.
    #[arg(long, env = "FOREBAY_WEBHOOK_RETRY_MAX", default_value = "1h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub webhook_retry_max: Duration,
}

impl JobArgs {
    /// # Errors
    /// [`SettingsError`] naming the first flag whose value cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.webhook_attempts == 0 {
            return Err(SettingsError { flag: "--webhook-attempts", problem: "must be at least 1".to_owned() });
        }
        if self.webhook_timeout.is_zero() {
            return Err(SettingsError { flag: "--webhook-timeout", problem: "must be longer than 0s".to_owned() });
        }
        if self.webhook_retry_max < self.webhook_retry_min {
            let problem = "is less than --webhook-retry-min".to_owned();
            return Err(SettingsError { flag: "--webhook-retry-max", problem });
        }
        Ok(())
    }

    /// The fleet's secret, if there is one.
    ///
    /// # Errors
    /// [`SettingsError`] for a file that cannot be read or holds no such secret.
    pub fn webhook_secret(&self) -> Result<Option<String>, SettingsError> {
        let Some(file) = &self.webhook_secret_file else { return Ok(None) };
        let fault = |problem| SettingsError { flag: "--webhook-secret-file", problem };
        let text = std::fs::read_to_string(file).map_err(|error| fault(format!("{}: {error}", file.display())))?;
        let secret = text.trim();
        super::webhooks::check_secret(secret).map_err(|problem| fault(problem.to_owned()))?;
        Ok(Some(secret.to_owned()))
    }
}
