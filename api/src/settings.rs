//! Flags of `forebay api`. Each is also an environment variable; all are checked once, before anything listens.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forebay_shared::settings::{Secret, SettingsError};

use crate::cache::Scope;
use crate::http::limits::ConnectionLimits;
use crate::validate::RequestLimits;

/// Nobody waits longer on an open connection.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "API")]
pub struct ApiArgs {
    /// Address to serve clients on; port 0 picks a free one.
    #[arg(long, env = "FOREBAY_API_ADDR", default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    pub api_addr: String,
    /// A second address that serves `/metrics` and `/health` only, e.g. one that clients cannot reach.
    #[arg(long, env = "FOREBAY_METRICS_ADDR", value_name = "HOST:PORT")]
    pub metrics_addr: Option<String>,
    /// Largest request body in bytes; a larger one is answered with 413.
    #[arg(long, env = "FOREBAY_MAX_BODY_BYTES", default_value_t = 2 * 1024 * 1024, value_name = "BYTES")]
    pub max_body_bytes: usize,
    /// Most inputs in one request.
    #[arg(long, env = "FOREBAY_MAX_INPUTS", default_value_t = 2048, value_name = "COUNT")]
    pub max_inputs: usize,
    /// How long a request may take when it does not say so itself (header `x-request-timeout`).
    #[arg(long, env = "FOREBAY_REQUEST_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub request_timeout: Duration,
    /// The longest time a request can ask for; more is cut to this.
    #[arg(long, env = "FOREBAY_MAX_REQUEST_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub max_request_timeout: Duration,
    /// Most jobs that may wait for an answer in this process; more are refused with 503. A tenant may have as many as are
    /// still free: alone at most half.
    #[arg(long, env = "FOREBAY_MAX_IN_FLIGHT_JOBS", default_value_t = 16_384, value_name = "COUNT")]
    pub max_in_flight_jobs: usize,
    /// Most bytes of vectors that the jobs which wait in this process can be answered with, by the dimensions of their models;
    /// more are refused with 503. An answer in JSON takes about three times as much while it is written.
    #[arg(long, env = "FOREBAY_MAX_ANSWER_BYTES", default_value_t = 256 << 20, value_name = "BYTES")]
    pub max_answer_bytes: u64,
    /// Take requests also when they cannot be answered before their deadline at the measured rate.
    #[arg(long, env = "FOREBAY_NO_DEADLINE_ADMISSION")]
    pub no_deadline_admission: bool,
    /// Requests for a model are refused when no worker has served it for this long.
    #[arg(long, env = "FOREBAY_NO_WORKER_AFTER", default_value = "15s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub no_worker_after: Duration,
    /// Largest file that may be uploaded, in bytes; a larger one is answered with 413.
    #[arg(long, env = "FOREBAY_MAX_FILE_BYTES", default_value_t = 200 * 1024 * 1024, value_name = "BYTES")]
    pub max_file_bytes: usize,
    /// Largest part of the store of files that one tenant may have, in percent, where there are API keys; more is answered
    /// with 429.
    #[arg(long, env = "FOREBAY_FILES_TENANT_SHARE", default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub files_tenant_share: u8,
    /// How long the body of a request may take to arrive; its own timeout bounds it too.
    #[arg(long, env = "FOREBAY_BODY_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub body_timeout: Duration,
    #[command(flatten)]
    pub connections: ConnectionLimits,
    #[command(flatten)]
    pub jobs: crate::jobs::JobArgs,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Answers that are kept.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Most bytes of answers that this process keeps, so that the same input is not computed again; 0 keeps none.
    #[arg(long, env = "FOREBAY_CACHE_BYTES", default_value_t = 64 * 1024 * 1024, value_name = "BYTES")]
    pub cache_bytes: u64,
    /// Who may be answered with what was computed for whom.
    #[arg(long, env = "FOREBAY_CACHE_SCOPE", value_enum, default_value_t = Scope::Tenant)]
    pub cache_scope: Scope,
}

/// Who may use this api.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Access")]
#[group(id = "ApiAccessArgs")]
pub struct AccessArgs {
    /// JSON file of tenants with the hashes of their API keys and their limits; read again when it changes. Without keys
    /// everybody may do everything. `forebay api-key new` makes a key and its entry.
    #[arg(long, env = "FOREBAY_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// The same JSON itself instead of a file.
    #[arg(long, env = "FOREBAY_API_KEYS", hide_env_values = true, value_name = "JSON")]
    pub api_keys_json: Option<Secret>,
    /// Do not warn when an address that is not loopback is served without API keys.
    #[arg(long, env = "FOREBAY_ALLOW_OPEN")]
    pub allow_open: bool,
}

impl ApiArgs {
    /// What a single request is held to.
    ///
    /// # Errors
    /// [`SettingsError`] naming the first flag, of all flags in this group, whose value cannot be used.
    pub fn limits(&self) -> Result<RequestLimits, SettingsError> {
        address("--api-addr", &self.api_addr)?;
        self.metrics_addr.as_deref().map_or(Ok(()), |addr| address("--metrics-addr", addr))?;
        at_least_one("--max-body-bytes", self.max_body_bytes)?;
        at_least_one("--max-inputs", self.max_inputs)?;
        at_least_one("--max-in-flight-jobs", self.max_in_flight_jobs)?;
        at_least_one("--max-file-bytes", self.max_file_bytes)?;
        at_least_one("--max-answer-bytes", usize::try_from(self.max_answer_bytes).unwrap_or(usize::MAX))?;
        longer_than_zero("--request-timeout", self.request_timeout)?;
        longer_than_zero("--no-worker-after", self.no_worker_after)?;
        longer_than_zero("--body-timeout", self.body_timeout)?;
        self.connections.check()?;
        if self.max_request_timeout < self.request_timeout {
            let problem = format!(
                "{} is less than --request-timeout, which is {}",
                humantime::format_duration(self.max_request_timeout),
                humantime::format_duration(self.request_timeout)
            );
            return Err(SettingsError { flag: "--max-request-timeout", problem });
        }
        if self.max_request_timeout > LONGEST_TIMEOUT {
            return Err(SettingsError { flag: "--max-request-timeout", problem: "must be at most 24h".to_owned() });
        }
        Ok(RequestLimits {
            max_body_bytes: self.max_body_bytes,
            max_inputs: self.max_inputs,
            default_timeout: self.request_timeout,
            max_timeout: self.max_request_timeout,
            body_timeout: self.body_timeout,
        })
    }
}

fn address(flag: &'static str, addr: &str) -> Result<(), SettingsError> {
    match addr.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(SettingsError { flag, problem: format!("'{addr}' is no host:port; try 127.0.0.1:8000") }),
    }
}

fn at_least_one(flag: &'static str, value: usize) -> Result<(), SettingsError> {
    if value == 0 { Err(SettingsError { flag, problem: "must be at least 1".to_owned() }) } else { Ok(()) }
}

fn longer_than_zero(flag: &'static str, value: Duration) -> Result<(), SettingsError> {
    if value.is_zero() { Err(SettingsError { flag, problem: "must be longer than 0s".to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        api: ApiArgs,
    }

    fn limits(flags: &[&str]) -> Result<RequestLimits, SettingsError> {
        Command::parse_from(["api"].iter().chain(flags)).api.limits()
    }

    #[test]
    fn the_defaults_can_be_used() {
        let limits = limits(&[]).unwrap();
        assert_eq!(limits.max_body_bytes, 2 * 1024 * 1024);
        assert_eq!(limits.max_inputs, 2048);
        assert_eq!((limits.default_timeout, limits.max_timeout), (Duration::from_secs(30), Duration::from_secs(600)));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_under_the_name_of_its_flag() {
        for (flag, value) in [
            ("--api-addr", "nonsense"),
            ("--api-addr", ":8000"),
            ("--metrics-addr", "localhost"),
            ("--max-body-bytes", "0"),
            ("--max-inputs", "0"),
            ("--max-in-flight-jobs", "0"),
            ("--max-answer-bytes", "0"),
            ("--request-timeout", "0s"),
            ("--no-worker-after", "0s"),
            ("--max-request-timeout", "1s"),
            ("--max-request-timeout", "2days"),
        ] {
            let error = limits(&[flag, value]).unwrap_err();
            assert_eq!(error.flag, flag, "{value}");
            assert!(error.to_string().starts_with(flag));
        }
    }
}
