//! Prometheus and Alertmanager beside the system, when asked for: which binaries, with which files, where they listen.
//!
//! Both read what this writes into `monitoring/` of the store: the same rules as everywhere else, the aggregator and the
//! list that it keeps of all processes as targets, and, unless the user has a file, an Alertmanager that shows what fires
//! and tells nobody. Nothing of the system waits for them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, bail};
use clap::Args;

use super::plan::{Addresses, Kind, Spec};
use super::programs::Program;
use super::store::Store;
use crate::host;

/// Name and text of each file with rules.
const RULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/rules.rs"));

const PROMETHEUS: Program = Program { name: "prometheus", flag: "--prometheus", env: "FOREBAY_PROMETHEUS" };
const ALERTMANAGER: Program = Program { name: "alertmanager", flag: "--alertmanager", env: "FOREBAY_ALERTMANAGER" };

/// Shows alerts and tells nobody.
const SILENT_ALERTMANAGER: &str = "\
# Written by forebay up; changes are lost at the next start. Use a file of your own with --alertmanager-config.
route:
  receiver: none
  group_by: [alertname, model]
receivers:
  - name: none
";

#[derive(Args, Debug)]
pub struct MonitoringArgs {
    /// Run Prometheus and Alertmanager beside the system, with the project's rules.
    #[arg(long, env = "FOREBAY_MONITORING")]
    monitoring: bool,
    /// Where Prometheus listens.
    #[arg(long, env = "FOREBAY_PROMETHEUS_ADDR", default_value = "127.0.0.1:9090", value_name = "ADDR")]
    prometheus_addr: SocketAddr,
    /// Where Alertmanager listens.
    #[arg(long, env = "FOREBAY_ALERTMANAGER_ADDR", default_value = "127.0.0.1:9093", value_name = "ADDR")]
    alertmanager_addr: SocketAddr,
    /// How long Prometheus keeps what it has read.
    #[arg(long, env = "FOREBAY_PROMETHEUS_RETENTION", default_value = "30d", value_parser = humantime::parse_duration, value_name = "DURATION")]
    prometheus_retention: Duration,
    /// Whom Alertmanager tells, as monitoring/alertmanager/alertmanager.yml does [default: nobody].
    #[arg(long, env = "FOREBAY_ALERTMANAGER_CONFIG", value_name = "FILE")]
    alertmanager_config: Option<PathBuf>,
    /// The prometheus to run [default: the one on PATH or in .cache/bin].
    #[arg(long, env = "FOREBAY_PROMETHEUS", value_name = "FILE")]
    prometheus: Option<PathBuf>,
    /// The alertmanager to run [default: the one on PATH or in .cache/bin].
    #[arg(long, env = "FOREBAY_ALERTMANAGER", value_name = "FILE")]
    alertmanager: Option<PathBuf>,
}

/// What to run, decided before anything runs.
#[derive(Debug)]
pub struct Monitoring {
    prometheus: PathBuf,
    pub prometheus_addr: SocketAddr,
    alertmanager: PathBuf,
    pub alertmanager_addr: SocketAddr,
    retention: Duration,
    alertmanager_config: Option<PathBuf>,
}

impl Monitoring {
    /// `None` unless it is asked for. `pick` puts a free port in place of 0.
    ///
    /// # Errors
    /// A program or a file that is not there: who asks for alarms must not go without them unnoticed.
    pub fn new(
        args: &MonitoringArgs,
        mut pick: impl FnMut(SocketAddr) -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<Option<Self>> {
        if !args.monitoring {
            return Ok(None);
        }
        let without = || "--monitoring cannot run; drop it to go without";
        let config = args.alertmanager_config.as_deref().map(|path| {
            if !path.is_file() {
                bail!("there is no {}; correct --alertmanager-config / FOREBAY_ALERTMANAGER_CONFIG", path.display());
            }
            Ok(std::path::absolute(path)?)
        });
        Ok(Some(Self {
            prometheus: PROMETHEUS.find(args.prometheus.as_deref()).with_context(without)?,
            prometheus_addr: pick(args.prometheus_addr)?,
            alertmanager: ALERTMANAGER.find(args.alertmanager.as_deref()).with_context(without)?,
            alertmanager_addr: pick(args.alertmanager_addr)?,
            retention: args.prometheus_retention,
            alertmanager_config: config.transpose()?,
        }))
    }

    pub fn specs(&self, store: &Store) -> [Spec; 2] {
        let folder = folder(store);
        let of = |kind: Kind, program: &Path, addr: SocketAddr, own: [(&str, OsString); 4]| {
            let url = format!("http://{}/", host::reachable(addr));
            let own = own.into_iter().chain([("--web.listen-address", addr.to_string().into())]);
            let flags = own.chain([("--web.external-url", url.into())]);
            Spec {
                kind,
                name: kind.as_str().to_owned(),
                program: program.to_owned(),
                args: flags.map(|(flag, value)| flag_with(flag, &value)).collect(),
                env: Vec::new(),
                addr,
                monitor_addr: None,
                starting: "starting".to_owned(),
                gpu: None,
            }
        };
        let told = self.alertmanager_config.clone().unwrap_or_else(|| folder.join("alertmanager.yml"));
        let alertmanager = [
            ("--config.file", told.into()),
            ("--storage.path", folder.join("alertmanager").into()),
            // One of a kind: it has nobody to gossip with.
            ("--cluster.listen-address", OsString::new()),
            ("--log.level", "info".into()),
        ];
        let prometheus = [
            ("--config.file", folder.join("prometheus.yml").into()),
            ("--storage.tsdb.path", folder.join("prometheus").into()),
            ("--storage.tsdb.retention.time", format!("{}s", self.retention.as_secs()).into()),
            ("--log.level", "info".into()),
        ];
        [
            of(Kind::Alertmanager, &self.alertmanager, self.alertmanager_addr, alertmanager),
            of(Kind::Prometheus, &self.prometheus, self.prometheus_addr, prometheus),
        ]
    }

    /// Writes what both read into the store.
    pub fn write_config(&self, aggregator: SocketAddr, store: &Store) -> anyhow::Result<()> {
        let (folder, rules) = (folder(store), folder(store).join("rules"));
        let write = || -> io::Result<()> {
            // Rules of an earlier version would go on.
            match fs::remove_dir_all(&rules) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::create_dir_all(&rules)?,
            }
            for (name, text) in RULES {
                fs::write(rules.join(name), text)?;
            }
            fs::write(folder.join("prometheus.yml"), self.prometheus_config(aggregator))?;
            fs::write(folder.join("alertmanager.yml"), SILENT_ALERTMANAGER)
        };
        write().with_context(|| format!("cannot write to {}", folder.display()))
    }

    /// The jobs have the names that the rules know.
    fn prometheus_config(&self, aggregator: SocketAddr) -> String {
        let [aggregator, prometheus, alertmanager] =
            [aggregator, self.prometheus_addr, self.alertmanager_addr].map(host::reachable);
        format!(
            r#"# Written by forebay up; changes are lost at the next start.
global:
  scrape_interval: 15s
  evaluation_interval: 15s
rule_files: ["rules/*.yml"]
alerting:
  alertmanagers:
    - static_configs: [{{targets: ["{alertmanager}"]}}]
scrape_configs:
  - job_name: forebay-aggregator
    static_configs: [{{targets: ["{aggregator}"]}}]
  - job_name: forebay
    http_sd_configs: [{{url: "http://{aggregator}/sd", refresh_interval: 5s}}]
  - job_name: prometheus
    static_configs: [{{targets: ["{prometheus}"]}}]
  - job_name: alertmanager
    static_configs: [{{targets: ["{alertmanager}"]}}]
"#
        )
    }
}

/// Where to ask and where to look, for the greeting.
pub fn directions(addresses: &Addresses) -> Vec<(&'static str, String)> {
    let line = |what, addr: Option<SocketAddr>, whose: &str| {
        addr.map(|addr| (what, format!("http://{} ({whose})", host::reachable(addr))))
    };
    let lines =
        [line("queries", addresses.prometheus, "Prometheus"), line("alerts", addresses.alertmanager, "Alertmanager")];
    lines.into_iter().flatten().collect()
}

fn folder(store: &Store) -> PathBuf {
    store.dir().join("monitoring")
}

fn flag_with(flag: &str, value: &OsString) -> OsString {
    let mut text = OsString::from(format!("{flag}="));
    text.push(value);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitoring(alertmanager_config: Option<&str>) -> Monitoring {
        Monitoring {
            prometheus: "prometheus".into(),
            prometheus_addr: "0.0.0.0:9090".parse().unwrap(),
            alertmanager: "alertmanager".into(),
            alertmanager_addr: "127.0.0.1:9093".parse().unwrap(),
            retention: Duration::from_secs(7200),
            alertmanager_config: alertmanager_config.map(Into::into),
        }
    }

    fn args(spec: &Spec) -> Vec<String> {
        spec.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_the_binary_carries_are_the_rules() {
        assert!(RULES.iter().any(|(_, text)| text.contains("- alert:")));
        assert!(RULES.iter().all(|(name, text)| name.ends_with(".yml") && text.contains("groups:")));
    }

    #[test]
    fn a_server_on_all_addresses_is_told_to_listen_there_and_reached_over_loopback() {
        let dir = tempfile::tempdir().unwrap();
        let [_, prometheus] = monitoring(None).specs(&Store::open(dir.path()).unwrap());
        let args = args(&prometheus);
        assert!(args.contains(&"--web.listen-address=0.0.0.0:9090".to_owned()), "{args:?}");
        assert!(args.contains(&"--web.external-url=http://127.0.0.1:9090/".to_owned()), "{args:?}");
        assert!(args.contains(&"--storage.tsdb.retention.time=7200s".to_owned()), "{args:?}");
        let config = monitoring(None).prometheus_config("0.0.0.0:9600".parse().unwrap());
        assert!(config.contains(r#"url: "http://127.0.0.1:9600/sd""#) && !config.contains("0.0.0.0"), "{config}");
    }

    #[test]
    fn alertmanager_tells_nobody_unless_there_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let of = |config| args(&monitoring(config).specs(&store)[0])[0].clone();
        assert!(of(None).ends_with("/monitoring/alertmanager.yml"));
        assert_eq!(of(Some("/etc/alertmanager.yml")), "--config.file=/etc/alertmanager.yml");
    }

    #[test]
    fn rules_of_an_earlier_version_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let rules = folder(&store).join("rules");
        fs::create_dir_all(&rules).unwrap();
        fs::write(rules.join("old.yml"), "").unwrap();
        monitoring(None).write_config("127.0.0.1:9600".parse().unwrap(), &store).unwrap();
        assert!(!rules.join("old.yml").exists());
        assert_eq!(fs::read_dir(&rules).unwrap().count(), RULES.len());
    }
}
