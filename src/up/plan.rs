//! Which processes make up the system, where each listens, and how each is started. Decided once, before anything runs.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use forebay_shared::settings::LogFormat;
use forebay_worker::device::settle::VISIBLE;

use super::devices::Devices;
use super::monitoring::Monitoring;
use super::nats;
use super::store::Store;
use super::{UpArgs, UpDurability};
use crate::host;
use crate::keys::{self, Keys, User};
use crate::model::Model;

/// In the order in which they stop: first those who would raise the alarm, then the door, then the work, then those who watch, last the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Prometheus,
    Alertmanager,
    Api,
    Worker,
    Aggregator,
    NatsServer,
}

impl Kind {
    pub const STOP_ORDER: [Self; 6] =
        [Self::Prometheus, Self::Alertmanager, Self::Api, Self::Worker, Self::Aggregator, Self::NatsServer];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Aggregator => "aggregator",
            Self::NatsServer => "nats-server",
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
        }
    }

    /// Who it is for the broker.
    const fn user(self) -> Option<User> {
        match self {
            Self::Api => Some(User::Api),
            Self::Worker => Some(User::Worker),
            Self::Aggregator => Some(User::Aggregator),
            Self::NatsServer | Self::Prometheus | Self::Alertmanager => None,
        }
    }

    /// Path that answers 200 once the process does its work.
    pub const fn probe_path(self) -> &'static str {
        match self {
            Self::NatsServer => "/healthz",
            Self::Api => "/health/live",
            Self::Worker => "/health/ready",
            Self::Aggregator => "/metrics",
            Self::Prometheus | Self::Alertmanager => "/-/ready",
        }
    }
}

/// One process: what to start, and where to find it.
#[derive(Debug)]
pub struct Spec {
    pub kind: Kind,
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Beside the user's own.
    pub env: Vec<(&'static str, String)>,
    pub addr: SocketAddr,
    /// Only nats-server has its status pages at another address.
    pub monitor_addr: Option<SocketAddr>,
    /// What the board says until the process is ready.
    pub starting: String,
    /// The GPU that it computes on, for the board.
    pub gpu: Option<String>,
}

impl Spec {
    pub fn probe_addr(&self) -> SocketAddr {
        host::reachable(self.monitor_addr.unwrap_or(self.addr))
    }
}

/// Where the processes that there is one of listen.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub api: SocketAddr,
    pub aggregator: SocketAddr,
    pub nats: SocketAddr,
    pub nats_monitor: SocketAddr,
    pub prometheus: Option<SocketAddr>,
    pub alertmanager: Option<SocketAddr>,
}

#[derive(Debug)]
pub struct Plan {
    pub models: Vec<Model>,
    pub devices: Devices,
    pub addresses: Addresses,
    pub durability: UpDurability,
    /// Of the key with which the queue's files are encrypted.
    pub key_fingerprint: Option<String>,
    pub monitoring: Option<Monitoring>,
    pub processes: Vec<Spec>,
}

impl Plan {
    pub fn new(args: &UpArgs, devices: Devices, server: &Path, store: &Store) -> anyhow::Result<Self> {
        let mut models: Vec<Model> = match args.models.as_slice() {
            [] => vec![Model::demo()],
            given => given.iter().map(|source| Model::parse(source)).collect(),
        };
        match (&args.served_name, models.as_mut_slice()) {
            (None, _) => {}
            (Some(name), [model]) => model.name.clone_from(name),
            (Some(_), _) => {
                bail!("--served-name names one model, and there are {}; drop it or serve one", models.len())
            }
        }
        if let Some((i, twice)) =
            models.iter().enumerate().find(|(i, model)| models[..*i].iter().any(|other| other.name == model.name))
        {
            bail!(
                "--model {} and another are both served as {}; name each once, or rename a folder",
                models[i].source,
                twice.name
            );
        }
        let dealt = devices.deal(models.len(), args.workers);
        let workers: usize = dealt.iter().map(Vec::len).sum();
        let mut free =
            host::free_ports(workers + 6)?.into_iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut pick = |given: Option<SocketAddr>| match given {
            Some(addr) if addr.port() != 0 => Ok(addr),
            Some(addr) => free.next().map(|port| SocketAddr::new(addr.ip(), port.port())).context("no free port"),
            None => free.next().context("no free port"),
        };
        let nats = pick(args.nats_addr)?;
        let nats_monitor = pick(None)?;
        let api = pick(Some(args.api_addr))?;
        let aggregator = pick(Some(args.aggregator_addr))?;
        let monitoring = Monitoring::new(&args.monitoring, |addr| pick(Some(addr)))?;
        let threads = args.threads_per_worker.map_or((host::cores() / workers).max(1), usize::from);

        let store_key = args.store_key_file.as_deref().map(keys::read_store_key).transpose()?;
        let role = RoleCommand::new(args, nats, store)?;
        let mut processes = vec![
            Spec {
                kind: Kind::NatsServer,
                name: "nats-server".to_owned(),
                program: server.to_owned(),
                args: vec!["-c".into(), nats::config_path(store).into()],
                env: store_key.iter().map(|key| (nats::STORE_KEY_ENV, key.clone())).collect(),
                addr: nats,
                monitor_addr: Some(nats_monitor),
                starting: "starting".to_owned(),
                gpu: None,
            },
            role.spec(Kind::Aggregator, 1, aggregator, &["--aggregator-addr", &aggregator.to_string()]),
            role.spec(Kind::Api, 1, api, &["--api-addr", &api.to_string()]),
        ];
        let of_model = |(model, on): (_, Vec<_>)| on.into_iter().map(move |device| (model, device));
        for (i, (model, device)) in models.iter().zip(dealt).flat_map(of_model).enumerate() {
            let addr = pick(None)?;
            let (metrics, threads, choice) = (addr.to_string(), threads.to_string(), device.choice.to_string());
            let model_flags = ["--model", &model.source, "--served-name", &model.name];
            let flags = [&model_flags[..], &["--device", &choice, "--metrics-addr", &metrics, "--threads", &threads]];
            let mut spec = role.spec(Kind::Worker, i + 1, addr, &flags.concat());
            spec.starting = format!("starting {}", model.name);
            spec.env.extend(device.visible().map(|uuid| (VISIBLE, uuid.to_owned())));
            spec.gpu = Some(device).filter(|device| device.is_gpu()).map(|device| device.choice.label());
            processes.push(spec);
        }
        processes.extend(monitoring.iter().flat_map(|monitoring| monitoring.specs(store)));
        let key_fingerprint = store_key.as_deref().map(keys::fingerprint);
        let addresses = Addresses {
            api,
            aggregator,
            nats,
            nats_monitor,
            prometheus: monitoring.as_ref().map(|monitoring| monitoring.prometheus_addr),
            alertmanager: monitoring.as_ref().map(|monitoring| monitoring.alertmanager_addr),
        };
        Ok(Self { models, devices, addresses, durability: args.durability, key_fingerprint, monitoring, processes })
    }
}

/// How a role of this same program is started here.
struct RoleCommand {
    program: PathBuf,
    shared: Vec<String>,
    keys: Keys,
}

impl RoleCommand {
    fn new(args: &UpArgs, nats: SocketAddr, store: &Store) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find my own executable")?;
        let format = match args.log.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let broker = format!("nats://{}", host::reachable(nats));
        let durability = args.durability.of_streams();
        let shared = [
            ["--broker", broker.as_str()],
            ["--durability", durability],
            ["--log", &args.log.log],
            ["--log-format", format],
        ];
        let shared = shared.as_flattened().iter().map(ToString::to_string).collect();
        Ok(Self { program, shared, keys: Keys::ensure(&store.keys(), false)? })
    }

    /// The connections with which an aggregator brings back the work of dead workers.
    fn reaper_env(&self) -> Vec<(&'static str, String)> {
        let file = |user| self.keys.seed(user).to_string_lossy().into_owned();
        vec![("FOREBAY_SYSTEM_CREDENTIALS", file(User::System)), ("FOREBAY_REAPER_CREDENTIALS", file(User::Reaper))]
    }

    fn spec(&self, kind: Kind, number: usize, addr: SocketAddr, own: &[&str]) -> Spec {
        let name = format!("{}-{number}", kind.as_str());
        let advertised = host::reachable(addr).to_string();
        let named = ["--process-name", &name, "--advertise-addr", &advertised];
        // An aggregator is in nobody's list of targets: Prometheus is told of it.
        let named = if kind == Kind::Aggregator { &named[..2] } else { &named[..] };
        let shared = self.shared.iter().map(String::as_str);
        let credentials = kind.user().map(|user| ["--broker-credentials".into(), self.keys.seed(user).into()]);
        let args = [kind.as_str()]
            .into_iter()
            .chain(own.iter().copied())
            .chain(shared)
            .chain(named.iter().copied())
            .map(OsString::from)
            .chain(credentials.into_iter().flatten())
            .collect();
        Spec {
            kind,
            name,
            program: self.program.clone(),
            args,
            env: if kind == Kind::Aggregator { self.reaper_env() } else { Vec::new() },
            addr,
            monitor_addr: None,
            starting: "starting".to_owned(),
            gpu: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpArgs,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        let dir = tempfile::tempdir().unwrap();
        let line = Line::parse_from(format!("up {line}").split_whitespace());
        let devices = Devices::find(&line.up.devices)?;
        Plan::new(&line.up, devices, Path::new("nats-server"), &Store::open(dir.path()).unwrap())
    }

    #[test]
    fn each_model_gets_its_workers_and_each_process_its_name() {
        let plan = plan("--model identity --model simulated --workers 2").unwrap();
        let names: Vec<_> = plan.processes.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["nats-server", "aggregator-1", "api-1", "worker-1", "worker-2", "worker-3", "worker-4"]);
        let has = |spec: &Spec, model: &str| spec.args.iter().any(|arg| arg == model);
        assert!(plan.processes[3..5].iter().all(|spec| has(spec, "identity")));
        assert!(plan.processes[5..7].iter().all(|spec| has(spec, "simulated")));
    }

    #[test]
    fn every_process_has_an_address_of_its_own() {
        let plan = plan("--model identity --workers 8 --api-addr 127.0.0.1:0 --aggregator-addr 127.0.0.1:0").unwrap();
        let mut addrs: Vec<_> =
            plan.processes.iter().map(|spec| spec.addr).chain([plan.addresses.nats_monitor]).collect();
        addrs.sort();
        addrs.dedup();
        assert_eq!(addrs.len(), 12);
        assert!(addrs.iter().all(|addr| addr.port() != 0));
    }

    #[test]
    fn threads_are_divided_unless_they_are_given() {
        let threads = |plan: &Plan| {
            let args = &plan.processes.last().unwrap().args;
            args[args.iter().position(|arg| arg == "--threads").unwrap() + 1].to_string_lossy().into_owned()
        };
        assert_eq!(threads(&plan("--model identity --workers 200").unwrap()), "1");
        assert_eq!(threads(&plan("--model identity --threads-per-worker 3").unwrap()), "3");
    }

    #[test]
    fn each_worker_is_told_its_device() {
        let plan = plan("--model identity --workers 2 --device cpu").unwrap();
        for worker in &plan.processes[3..] {
            let at = worker.args.iter().position(|arg| arg == "--device").unwrap();
            assert_eq!(worker.args[at + 1], "cpu");
            assert!(worker.gpu.is_none() && worker.env.is_empty());
        }
    }

    #[test]
    fn a_served_name_is_for_one_model() {
        assert_eq!(plan("--model identity --served-name other").unwrap().models[0].name, "other");
        assert!(plan("--model identity --model simulated --served-name other").is_err());
    }

    #[test]
    fn two_models_under_one_name_are_refused() {
        assert!(plan("--model identity --model identity").unwrap_err().to_string().contains("both served as identity"));
    }
}
