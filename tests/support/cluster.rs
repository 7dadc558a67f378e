//! A broker, apis, workers and an aggregator, each a process.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::client::{self, Answer};
use super::netns::Netns;
use super::ports::Port;
use super::process::{Process, Spec};

/// Loading a real model in a debug build on a busy machine takes a while.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A role is expected to have drained by then.
const STOP_LIMIT: Duration = Duration::from_secs(40);
const LOG_LINES: usize = 40;

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub apis: usize,
    pub workers: usize,
    pub aggregators: usize,
    /// `identity`, `simulated`, a folder or a hub id.
    pub model: String,
    /// Environment of all roles.
    pub env: Vec<(&'static str, String)>,
    /// Additional flags of each worker and each api.
    pub worker_args: Vec<String>,
    pub api_args: Vec<String>,
    /// Whether aggregators give the work of dead workers back at once.
    pub reapers: bool,
    /// Lets processes in other network namespaces reach the broker.
    pub listen_everywhere: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            apis: 1,
            workers: 1,
            aggregators: 1,
            model: "identity".to_owned(),
            env: Vec::new(),
            worker_args: Vec::new(),
            api_args: Vec::new(),
            reapers: false,
            listen_everywhere: false,
        }
    }
}

/// A running system. Processes end with it: apis first, the broker last.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    apis: Vec<Process>,
    workers: Vec<Process>,
    aggregators: Vec<Process>,
    nats: Process,
    nats_port: Port,
    /// All others: a process that is down keeps its own.
    ports: Vec<Port>,
    folder: Option<TempDir>,
}

impl Cluster {
    /// Starts everything and waits until requests can be answered.
    pub async fn start(options: ClusterOptions) -> Self {
        let folder =
            tempfile::Builder::new().prefix("forebay-test-").tempdir().expect("the temporary folder can be written");
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        let (nats_port, nats_monitor) = (Port::reserve(), Port::reserve());
        let mut listen = nats_port.addr();
        if options.listen_everywhere {
            listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
        }
        let config = write_nats_config(folder.path(), listen, nats_monitor.addr());
        let nats = Spec {
            name: "nats-server".to_owned(),
            program: nats_server(),
            args: vec!["-c".to_owned(), config.display().to_string()],
            env: Vec::new(),
            addr: nats_port.addr(),
            ready_addr: nats_monitor.addr(),
            ready_path: "/healthz",
        };
        let nats = Process::start(nats, &folder.path().join("logs"));
        let mut cluster = Self {
            apis: Vec::new(),
            workers: Vec::new(),
            aggregators: Vec::new(),
            nats,
            nats_port,
            ports: vec![nats_monitor],
            folder: Some(folder),
            options,
        };
        cluster.nats.ready(START_LIMIT).await;
        (0..cluster.options.aggregators).for_each(|_| cluster.add_aggregator());
        (0..cluster.options.apis).for_each(|_| cluster.add_api());
        (0..cluster.options.workers).for_each(|_| cluster.add_worker());
        cluster.ready().await;
        cluster
    }

    /// Waits until every process is there and every api can serve the model.
    pub async fn ready(&self) {
        for process in self.workers.iter().chain(&self.apis).chain(&self.aggregators) {
            process.ready(START_LIMIT).await;
        }
        let path = format!("/health/ready?model={}", self.model_name());
        for api in &self.apis {
            super::eventually(&format!("{} is ready", api.name()), START_LIMIT, || async {
                client::get(api.addr(), &path).await.is_ok_and(|answer| answer.status == 200)
            })
            .await;
        }
    }

    pub fn add_worker(&mut self) {
        self.add_worker_with(&[]);
    }

    /// A worker that differs from the others in `env`.
    pub fn add_worker_with(&mut self, env: &[(&'static str, &str)]) {
        let model = self.options.model.clone();
        let args = [vec!["--model".to_owned(), model], self.options.worker_args.clone()].concat();
        let worker = self.role("worker", self.workers.len(), "--metrics-addr", "/health/ready", args, env);
        self.workers.push(worker);
    }

    /// A worker on the other side of a cable that can be cut.
    pub fn add_worker_in(&mut self, netns: &Netns) {
        let port = Port::reserve();
        let addr = SocketAddr::from((netns.guest, port.addr().port()));
        let broker = format!("nats://{}:{}", netns.host, self.nats_port.addr().port());
        let name = format!("worker-{}", self.workers.len() + 1);
        let program = env!("CARGO_BIN_EXE_forebay");
        let flags = ["worker", "--metrics-addr", &addr.to_string(), "--broker", &broker, "--process-name", &name];
        let model = ["--model", &self.options.model];
        let [first, args @ ..] = netns.exec();
        let args =
            args.into_iter().chain([program.to_owned()]).chain(flags.into_iter().chain(model).map(str::to_owned));
        let env = self.options.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let spec = Spec {
            name: name.clone(),
            program: first.into(),
            args: args.chain(self.options.worker_args.clone()).collect(),
            env: env.collect(),
            addr,
            ready_addr: addr,
            ready_path: "/health/ready",
        };
        self.ports.push(port);
        self.workers.push(Process::start(spec, &self.logs()));
    }

    fn add_api(&mut self) {
        let api = self.role("api", self.apis.len(), "--api-addr", "/health/live", self.options.api_args.clone(), &[]);
        self.apis.push(api);
    }

    fn add_aggregator(&mut self) {
        let index = self.aggregators.len();
        let args = if self.options.reapers { self.reaper_args() } else { Vec::new() };
        let aggregator = self.role("aggregator", index, "--aggregator-addr", "/metrics", args, &[]);
        self.aggregators.push(aggregator);
    }

    fn reaper_args(&self) -> Vec<String> {
        let file = |user: &str| self.folder().join(format!("{user}.nk")).display().to_string();
        let args = ["--system-credentials", &file("system"), "--reaper-credentials", &file("reaper")];
        args.map(str::to_owned).to_vec()
    }

    fn role(
        &mut self,
        role: &str,
        index: usize,
        addr_flag: &str,
        ready_path: &'static str,
        own: Vec<String>,
        own_env: &[(&'static str, &str)],
    ) -> Process {
        let port = Port::reserve();
        let addr = port.addr();
        self.ports.push(port);
        let name = format!("{role}-{}", index + 1);
        let fixed = [role, addr_flag, &addr.to_string(), "--broker", &self.broker_url(), "--process-name", &name]
            .map(str::to_owned);
        let shared_env = self.options.env.iter().map(|(name, value)| (*name, value.as_str()));
        // What is tested is the queue: equal inputs must take it, too. A test of the cache says so in `env`.
        let env = [("FOREBAY_CACHE_BYTES", "0")].into_iter().chain(shared_env).chain(own_env.iter().copied());
        let spec = Spec {
            program: env!("CARGO_BIN_EXE_forebay").into(),
            args: fixed.into_iter().chain(own).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            addr,
            ready_addr: addr,
            ready_path,
            name,
        };
        Process::start(spec, &self.logs())
    }

    pub fn api(&self, index: usize) -> &Process {
        &self.apis[index]
    }

    pub fn worker(&self, index: usize) -> &Process {
        &self.workers[index]
    }

    pub fn aggregator(&self, index: usize) -> &Process {
        &self.aggregators[index]
    }

    pub fn nats(&self) -> &Process {
        &self.nats
    }

    pub fn workers(&self) -> &[Process] {
        &self.workers
    }

    pub fn api_addrs(&self) -> Vec<SocketAddr> {
        self.apis.iter().map(Process::addr).collect()
    }

    pub fn broker_url(&self) -> String {
        format!("nats://{}", self.nats_port.addr())
    }

    /// What clients call the model.
    pub fn model_name(&self) -> &str {
        let model = self.options.model.trim_end_matches('/');
        if Path::new(model).is_dir() { model.rsplit('/').next().unwrap_or(model) } else { model }
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it is taken away only when the cluster is dropped").path()
    }

    fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// Kills the broker and starts it again on the same port and store, `down` later.
    pub async fn restart_nats(&self, down: Duration) {
        self.nats.kill9();
        tokio::time::sleep(down).await;
        self.nats.restart();
        self.nats.ready(START_LIMIT).await;
    }

    /// A connection to the broker for the test itself.
    pub async fn broker_client(&self) -> async_nats::Client {
        async_nats::connect(self.broker_url()).await.expect("the broker can be reached")
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.apis[0].addr(), path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        client::post(self.apis[0].addr(), path, body).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Stops everything as an operator would; panics if a role does not end by itself, or not with success.
    pub async fn stop(self) {
        for process in self.apis.iter().chain(&self.workers).chain(&self.aggregators) {
            if process.is_running() {
                let status = process.terminate(STOP_LIMIT).await;
                assert!(status.success(), "{} ended with {status}\n{}", process.name(), process.log_tail(LOG_LINES));
            }
        }
        if self.nats.is_running() {
            self.nats.terminate(STOP_LIMIT).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for process in self.apis.iter().chain(&self.workers).chain(&self.aggregators).chain([&self.nats]) {
            eprintln!("{}", process.log_tail(LOG_LINES));
        }
        if let Some(folder) = self.folder.take() {
            eprintln!("all of it is kept in {}", folder.keep().display());
        }
    }
}

fn write_nats_config(folder: &Path, addr: SocketAddr, monitor: SocketAddr) -> PathBuf {
    let path = folder.join("nats.conf");
    let store = folder.join("jetstream");
    let user = |name: &str| {
        let key = nkeys::KeyPair::new_user();
        let file = folder.join(format!("{name}.nk"));
        std::fs::write(&file, key.seed().unwrap()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        key.public_key()
    };
    let accounts = format!(
        "accounts {{\n  FOREBAY {{ jetstream: enabled, users: [{{ user: all, password: all }}, {{ nkey: {} }}] }}\n  \
         SYS {{ users: [{{ nkey: {} }}] }}\n}}\nsystem_account: SYS\nno_auth_user: all\n",
        user("reaper"),
        user("system")
    );
    let config = format!(
        "{accounts}server_name: test\nlisten: \"{addr}\"\nhttp: \"{monitor}\"\n\
         jetstream {{\n  store_dir: \"{}\"\n  max_file_store: 16GB\n  max_memory_store: 256MB\n}}\n",
        store.display()
    );
    std::fs::write(&path, config).unwrap();
    path
}

/// The one named by FOREBAY_NATS_SERVER, or on PATH, or in the project's .cache.
fn nats_server() -> PathBuf {
    if let Some(named) = std::env::var_os("FOREBAY_NATS_SERVER") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/bin");
    let found = std::env::split_paths(&path)
        .chain([cache])
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file());
    found.expect("nats-server is on PATH or in .cache/bin; run `make setup`")
}
