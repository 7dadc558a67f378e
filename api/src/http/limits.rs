//! What one connection, and all of them together, may cost. Flags of `forebay api`, checked before anything listens.

use std::time::Duration;

use clap::Args;
use forebay_shared::settings::SettingsError;

/// Less than this cannot hold the head of an ordinary request; it is also the smallest buffer of the HTTP parser.
const LEAST_HEADER_BYTES: usize = 8 * 1024;

#[derive(Args, Debug, Clone, Copy, PartialEq, Eq)]
#[command(next_help_heading = "API connections")]
pub struct ConnectionLimits {
    /// Most connections of clients at the same time; more are answered with 503 and closed.
    #[arg(long, env = "FOREBAY_MAX_CONNECTIONS", default_value_t = 8_192, value_name = "COUNT")]
    pub max_connections: usize,
    /// Largest head of a request (request line and headers) in bytes; a larger one is answered with 431.
    #[arg(long, env = "FOREBAY_MAX_HEADER_BYTES", default_value_t = 32 * 1024, value_name = "BYTES")]
    pub max_header_bytes: usize,
    /// A connection is closed when the head of a request has not arrived this long after its first byte.
    #[arg(long, env = "FOREBAY_HEAD_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub head_timeout: Duration,
    /// A connection without a request is closed after this time; longer than load balancers keep theirs.
    #[arg(long, env = "FOREBAY_IDLE_TIMEOUT", default_value = "75s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub idle_timeout: Duration,
    /// A connection is closed when its client takes nothing of its answer for this long, or has lost as much time by taking less than 1 KiB per second.
    #[arg(long, env = "FOREBAY_WRITE_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub write_timeout: Duration,
}

impl ConnectionLimits {
    /// Limits of an address that is not for clients: never so many that it could hurt those who are.
    pub fn own_page(self) -> Self {
        Self { max_connections: self.max_connections.min(256), ..self }
    }

    /// # Errors
    /// [`SettingsError`] naming the first flag whose value cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |flag, problem: String| Err(SettingsError { flag, problem });
        if self.max_connections == 0 {
            return wrong("--max-connections", "must be at least 1".to_owned());
        }
        if self.max_header_bytes < LEAST_HEADER_BYTES {
            return wrong("--max-header-bytes", format!("must be at least {LEAST_HEADER_BYTES}"));
        }
        for (flag, value) in [
            ("--head-timeout", self.head_timeout),
            ("--idle-timeout", self.idle_timeout),
            ("--write-timeout", self.write_timeout),
        ] {
            if value.is_zero() {
                return wrong(flag, "must be longer than 0s".to_owned());
            }
        }
        Ok(())
    }
}

impl Default for ConnectionLimits {
    /// The defaults of the flags.
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_header_bytes: 32 * 1024,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        limits: ConnectionLimits,
    }

    #[test]
    fn the_defaults_are_those_of_the_flags() {
        let limits = Command::parse_from(["api"]).limits;
        assert_eq!(limits, ConnectionLimits::default());
        limits.check().unwrap();
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_under_the_name_of_its_flag() {
        for (flag, value) in [
            ("--max-connections", "0"),
            ("--max-header-bytes", "100"),
            ("--head-timeout", "0s"),
            ("--idle-timeout", "0s"),
            ("--write-timeout", "0s"),
        ] {
            assert_eq!(Command::parse_from(["api", flag, value]).limits.check().unwrap_err().flag, flag);
        }
    }
}
