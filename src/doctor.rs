//! `forebay doctor`: what keeps the system from running here, one line per finding, each with its remedy.
//!
//! Changes nothing. Fails only on what would keep `forebay up`, or a role with these settings, from working.

mod broker;
mod gpu;
mod machine;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use forebay_shared::settings::BrokerAccessArgs;

use crate::model::Model;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Model to look for: a folder or a hub id; repeat it for more [default: all-MiniLM-L6-v2].
    #[arg(long = "model", env = "FOREBAY_MODEL", value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// Broker to ask [default: nats://127.0.0.1:4222, and nothing is wrong when it is not there].
    #[arg(long, env = "FOREBAY_BROKER", value_name = "URL")]
    broker: Option<String>,
    #[command(flatten)]
    access: BrokerAccessArgs,
    /// Where the api is to listen.
    #[arg(long, env = "FOREBAY_API_ADDR", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    api_addr: SocketAddr,
    /// Where the aggregator is to listen.
    #[arg(long, env = "FOREBAY_AGGREGATOR_ADDR", default_value = "127.0.0.1:9600", value_name = "ADDR")]
    aggregator_addr: SocketAddr,
    /// Folder for the queue and the logs.
    #[arg(long, env = "FOREBAY_STORE", default_value = ".forebay", value_name = "DIR")]
    store: PathBuf,
    /// The nats-server that `forebay up` is to run [default: the one on PATH or in .cache/bin].
    #[arg(long, env = "FOREBAY_NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Debug)]
struct Finding {
    level: Level,
    what: &'static str,
    detail: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, detail: detail.into(), remedy: None }
    }

    fn warn(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {}: {}", self.level.as_str(), self.what, self.detail)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, " → {remedy}"))
    }
}

pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(Box::pin(examine(&args)));
    for finding in &findings {
        println!("{finding}");
    }
    let healthy = findings.iter().all(|finding| finding.level < Level::Fail);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let models: Vec<Model> = match args.models.as_slice() {
        [] => vec![Model::demo()],
        given => given.iter().map(|source| Model::parse(source)).collect(),
    };
    let mut findings = vec![
        machine::port("api port", args.api_addr, "/health/live", "--api-addr").await,
        machine::port("aggregator port", args.aggregator_addr, "/metrics", "--aggregator-addr").await,
        machine::store(&args.store),
    ];
    findings.extend(models.iter().map(machine::model));
    findings.push(machine::nats_server(args.nats_server.as_deref()));
    findings.extend(gpu::examine());
    findings.extend([machine::cpu(), machine::open_files()]);
    findings.extend(broker::examine(args.broker.as_deref(), args.access.clone()).await);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_ends_with_its_remedy() {
        let finding = Finding::fail("api port", "127.0.0.1:8000 is in use", "stop it");
        assert_eq!(finding.to_string(), "fail  api port: 127.0.0.1:8000 is in use → stop it");
        assert_eq!(Finding::ok("disk", "9.0 GB free").to_string(), "ok    disk: 9.0 GB free");
    }
}
