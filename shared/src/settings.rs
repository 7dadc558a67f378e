//! Settings that every role takes. Each flag is also an environment variable; the role's own flags live with the role.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use crate::ids::{ProcessName, Role};
use crate::telemetry::TraceArgs;

/// A value that must not show up in logs, `--help` output or error messages.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// How to reach NATS.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Broker")]
pub struct BrokerArgs {
    /// Address of a nats-server with JetStream enabled; of a cluster, several, separated by commas.
    #[arg(long, env = "FOREBAY_BROKER", default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    pub broker: String,
    #[command(flatten)]
    pub access: BrokerAccessArgs,
    /// How long to wait for the broker at start before giving up.
    #[arg(long, env = "FOREBAY_BROKER_WAIT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub broker_wait: Duration,
    #[command(flatten)]
    pub stores: StoreArgs,
}

impl BrokerArgs {
    /// The same broker, as somebody else: for a second connection with rights of its own.
    pub fn with_credentials(&self, file: &Path) -> Self {
        let access =
            BrokerAccessArgs { broker_token: None, broker_credentials: Some(file.to_owned()), ..self.access.clone() };
        Self { access, ..self.clone() }
    }
}

/// What the broker asks of those who connect, and how it is recognised.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Broker")]
pub struct BrokerAccessArgs {
    /// Token to authenticate with, if the broker asks for one.
    #[arg(long, env = "FOREBAY_BROKER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub broker_token: Option<Secret>,
    /// File with this role's nkey seed, as `forebay keys` writes it, or a .creds file.
    #[arg(long, env = "FOREBAY_BROKER_CREDENTIALS", value_name = "FILE")]
    pub broker_credentials: Option<PathBuf>,
    /// Certificate authority that the broker's certificate must come from; turns TLS on.
    #[arg(long, env = "FOREBAY_BROKER_CA", value_name = "FILE")]
    pub broker_ca: Option<PathBuf>,
    /// Certificate to show to a broker that asks for one.
    #[arg(long, env = "FOREBAY_BROKER_CERT", value_name = "FILE")]
    pub broker_cert: Option<PathBuf>,
    /// Private key of that certificate.
    #[arg(long, env = "FOREBAY_BROKER_KEY", value_name = "FILE")]
    pub broker_key: Option<PathBuf>,
}

/// How safely the fleet's queues and stores keep what they are given. The same for all processes of a fleet.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Jobs in the broker's memory: lost when the broker ends.
    Memory,
    /// On the broker's disk: survives its process; a power loss can cost up to two minutes.
    #[default]
    File,
    /// On the disks of three brokers of a cluster: survives the loss of any one.
    Replicated,
}

impl Durability {
    pub const fn replicas(self) -> usize {
        match self {
            Self::Memory | Self::File => 1,
            Self::Replicated => 3,
        }
    }
}

/// What is kept in the broker, and how long. The same for all processes of a fleet: a process refuses to start on streams
/// that were made with other settings.
#[derive(Args, Debug, Clone, PartialEq, Eq)]
#[command(next_help_heading = "Stores")]
pub struct StoreArgs {
    /// How safely jobs are kept: in memory, on file, or replicated over three brokers.
    #[arg(long, env = "FOREBAY_DURABILITY", value_enum, default_value_t = Durability::File)]
    pub durability: Durability,
    /// Most messages in the queue of one model; a message holds up to 32 jobs. More is refused with 503.
    #[arg(long, env = "FOREBAY_QUEUE_MAX_MESSAGES", default_value_t = 1_000_000, value_name = "COUNT")]
    pub queue_max_messages: u32,
    /// Most bytes in the queue of one model; the broker reserves them.
    #[arg(long, env = "FOREBAY_QUEUE_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES")]
    pub queue_max_bytes: u32,
    /// How long dead letters are kept.
    #[arg(long, env = "FOREBAY_DEAD_LETTERS_KEEP", default_value = "7d", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub dead_letters_keep: Duration,
    /// How long states and results of asynchronous jobs and idempotency keys are kept.
    #[arg(long, env = "FOREBAY_RESULTS_KEEP", default_value = "24h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub results_keep: Duration,
    /// How long files and batches are kept.
    #[arg(long, env = "FOREBAY_FILES_KEEP", default_value = "30d", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub files_keep: Duration,
    /// Most bytes of files and of the output of batches, all tenants together; the broker reserves them. A million vectors of
    /// 384 numbers are about 5 GB.
    #[arg(long, env = "FOREBAY_FILES_MAX_BYTES", default_value_t = 16 << 30, value_name = "BYTES", value_parser = store_bytes())]
    pub files_max_bytes: u64,
    /// Most bytes of the states of asynchronous jobs, their small results included; the broker reserves them. Jobs are
    /// refused with 503 when four fifths are used, so that those that were accepted can end.
    #[arg(long, env = "FOREBAY_RECORDS_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES", value_parser = store_bytes())]
    pub records_max_bytes: u64,
    /// The same for results of 64 KiB and more.
    #[arg(long, env = "FOREBAY_RESULTS_MAX_BYTES", default_value_t = 2 << 30, value_name = "BYTES", value_parser = store_bytes())]
    pub results_max_bytes: u64,
}

/// Bounds that the broker can be told: 0 would be none.
fn store_bytes() -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(1..=i64::MAX.unsigned_abs())
}

impl Default for StoreArgs {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            durability: Durability::File,
            queue_max_messages: 1_000_000,
            queue_max_bytes: 1 << 30,
            dead_letters_keep: 7 * DAY,
            results_keep: DAY,
            files_keep: 30 * DAY,
            files_max_bytes: 16 << 30,
            records_max_bytes: 1 << 30,
            results_max_bytes: 2 << 30,
        }
    }
}

/// Who this process is and what it prints.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Stable name of this process in metrics and service discovery; default: role, host name and process id.
    #[arg(long, env = "FOREBAY_PROCESS_NAME", value_name = "NAME")]
    pub process_name: Option<String>,
    /// host:port under which Prometheus can reach this process' metrics; default: the address it listens on, or this host's
    /// name with that port when it listens on all addresses.
    #[arg(long, env = "FOREBAY_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub advertise_addr: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
}

impl ProcessArgs {
    /// The name given, or one made of role, host and process id.
    pub fn name(&self, role: Role) -> ProcessName {
        match &self.process_name {
            Some(name) => ProcessName::new(name.as_str()),
            None => ProcessName::new(format!("{}-{}-{}", role.as_str(), host_name(), std::process::id())),
        }
    }

    /// Where others find the page that is served on `page`. "All addresses" is none that anybody could ask; a host's name is
    /// what containers on one network know each other by.
    pub fn advertised(&self, page: SocketAddr) -> String {
        match &self.advertise_addr {
            Some(address) => address.clone(),
            None if page.ip().is_unspecified() => format!("{}:{}", host_name(), page.port()),
            None => page.to_string(),
        }
    }
}

pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// What is logged, and how.
#[derive(Args, Debug, Clone)]
pub struct LogArgs {
    /// Least severe level to log, or a filter such as `info,forebay_worker=debug`.
    #[arg(long, env = "FOREBAY_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Text for people, JSON for machines.
    #[arg(long, env = "FOREBAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct SettingsError {
    pub flag: &'static str,
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret: Secret = "hunter2".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_page_on_all_addresses_is_advertised_under_the_hosts_name() {
        let mut process = ProcessArgs {
            process_name: None,
            advertise_addr: None,
            log: LogArgs { log: "info".to_owned(), log_format: LogFormat::Text },
            traces: TraceArgs::default(),
        };
        assert_eq!(process.advertised("127.0.0.1:9401".parse().unwrap()), "127.0.0.1:9401");
        for all in ["0.0.0.0:9401", "[::]:9401"] {
            assert_eq!(process.advertised(all.parse().unwrap()), format!("{}:9401", host_name()));
        }
        process.advertise_addr = Some("worker-1:9401".to_owned());
        assert_eq!(process.advertised("0.0.0.0:9401".parse().unwrap()), "worker-1:9401");
    }
}
