//! A broker, apis, workers and an aggregator, each a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
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
/// Folder with a folder for each broker.
const STORE: &str = "jetstream";

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
    /// One, or three that are a cluster.
    pub brokers: usize,
    /// Gives aggregators what they need to bring back the work of dead workers.
    pub reapers: bool,
    /// Lets processes in other network namespaces reach the broker.
    pub listen_everywhere: bool,
    /// A copy of another cluster's [`Cluster::store`], which the only broker begins with.
    pub store: Option<PathBuf>,
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
            brokers: 1,
            reapers: false,
            listen_everywhere: false,
            store: None,
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
    brokers: Vec<Process>,
    broker_addrs: Vec<SocketAddr>,
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
        make_keys(folder.path());
        if let Some(store) = &options.store {
            std::fs::create_dir(folder.path().join(STORE)).unwrap();
            std::fs::rename(store, folder.path().join(STORE).join(broker_name(0))).unwrap();
        }
        let ports: Vec<[Port; 3]> = (0..options.brokers).map(|_| std::array::from_fn(|_| Port::reserve())).collect();
        let routes: Vec<SocketAddr> = ports.iter().map(|[_, _, route]| route.addr()).collect();
        let routes = if options.brokers == 1 { &[] } else { routes.as_slice() };
        let mut brokers = Vec::new();
        for (index, [client, monitor, _]) in ports.iter().enumerate() {
            let mut listen = client.addr();
            if options.listen_everywhere {
                listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
            }
            let config = write_nats_config(folder.path(), index, listen, monitor.addr(), routes);
            let spec = Spec {
                name: broker_name(index),
                program: nats_server(),
                args: vec!["-c".to_owned(), config.display().to_string()],
                env: Vec::new(),
                addr: client.addr(),
                ready_addr: monitor.addr(),
                ready_path: "/healthz",
            };
            brokers.push(Process::start(spec, &folder.path().join("logs")));
        }
        let mut cluster = Self {
            apis: Vec::new(),
            workers: Vec::new(),
            aggregators: Vec::new(),
            brokers,
            broker_addrs: ports.iter().map(|[client, ..]| client.addr()).collect(),
            ports: ports.into_iter().flatten().collect(),
            folder: Some(folder),
            options,
        };
        for broker in &cluster.brokers {
            broker.ready(START_LIMIT).await;
        }
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
        let brokers: Vec<String> =
            self.broker_addrs.iter().map(|addr| format!("nats://{}:{}", netns.host, addr.port())).collect();
        let broker = brokers.join(",");
        let name = format!("worker-{}", self.workers.len() + 1);
        let program = forebay().display().to_string();
        let flags = ["worker", "--metrics-addr", &addr.to_string(), "--broker", &broker, "--process-name", &name];
        let credentials = ["--broker-credentials".to_owned(), self.credentials("worker")];
        let model = ["--model", &self.options.model];
        let [first, args @ ..] = netns.exec();
        let args = args.into_iter().chain([program]).chain(flags.into_iter().chain(model).map(str::to_owned));
        let env = self.options.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let spec = Spec {
            name: name.clone(),
            program: first.into(),
            args: args.chain(credentials).chain(self.options.worker_args.clone()).collect(),
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
        let files = [self.credentials("system"), self.credentials("reaper")];
        let env =
            [("FOREBAY_SYSTEM_CREDENTIALS", files[0].as_str()), ("FOREBAY_REAPER_CREDENTIALS", files[1].as_str())];
        let env = if self.options.reapers { env.as_slice() } else { &[] };
        let aggregator = self.role("aggregator", index, "--aggregator-addr", "/metrics", Vec::new(), env);
        self.aggregators.push(aggregator);
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
        let broker =
            ["--broker", &self.broker_url(), "--broker-credentials", &self.credentials(role)].map(str::to_owned);
        let fixed = [role, addr_flag, &addr.to_string(), "--process-name", &name].map(str::to_owned);
        let shared_env = self.options.env.iter().map(|(name, value)| (*name, value.as_str()));
        // What is tested is the queue: equal inputs must take it, too. A test of the cache says so in `env`.
        let env = [("FOREBAY_CACHE_BYTES", "0")].into_iter().chain(shared_env).chain(own_env.iter().copied());
        let spec = Spec {
            program: forebay(),
            args: fixed.into_iter().chain(broker).chain(own).collect(),
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

    /// The only broker.
    pub fn nats(&self) -> &Process {
        assert_eq!(self.brokers.len(), 1);
        &self.brokers[0]
    }

    pub fn brokers(&self) -> &[Process] {
        &self.brokers
    }

    /// The file of a role's key: `api`, `worker`, `operator` … The test itself may connect without one, as operator.
    pub fn credentials(&self, user: &str) -> String {
        self.folder().join("keys").join(format!("{user}.nk")).display().to_string()
    }

    pub fn workers(&self) -> &[Process] {
        &self.workers
    }

    pub fn api_addrs(&self) -> Vec<SocketAddr> {
        self.apis.iter().map(Process::addr).collect()
    }

    pub fn broker_url(&self) -> String {
        self.broker_addrs.iter().map(|addr| format!("nats://{addr}")).collect::<Vec<_>>().join(",")
    }

    /// What clients call the model.
    pub fn model_name(&self) -> &str {
        let model = self.options.model.trim_end_matches('/');
        if Path::new(model).is_dir() { model.rsplit('/').next().unwrap_or(model) } else { model }
    }

    /// Of the brokers' files, logs and keys.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it is taken away only when the cluster is dropped").path()
    }

    /// What the only broker keeps; at rest once it has ended.
    pub fn store(&self) -> PathBuf {
        self.folder().join(STORE).join(self.nats().name())
    }

    fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// Kills the broker and starts it again on the same port and store, `down` later.
    pub async fn restart_nats(&self, down: Duration) {
        self.nats().kill9();
        tokio::time::sleep(down).await;
        self.nats().restart();
        self.nats().ready(START_LIMIT).await;
    }

    /// A connection to the broker for the test itself, as operator.
    pub async fn broker_client(&self) -> async_nats::Client {
        let urls: Vec<String> = self.broker_addrs.iter().map(|addr| format!("nats://{addr}")).collect();
        async_nats::connect(urls).await.expect("a broker can be reached")
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
        for broker in self.brokers.iter().filter(|broker| broker.is_running()) {
            broker.terminate(STOP_LIMIT).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for process in self.apis.iter().chain(&self.workers).chain(&self.aggregators).chain(&self.brokers) {
            eprintln!("{}", process.log_tail(LOG_LINES));
        }
        if let Some(folder) = self.folder.take() {
            eprintln!("all of it is kept in {}", folder.keep().display());
        }
    }
}

fn broker_name(index: usize) -> String {
    if index == 0 { "nats-server".to_owned() } else { format!("nats-server-{}", index + 1) }
}

/// Keys and accounts.conf, as an operator would make them.
pub fn make_keys(folder: &Path) {
    let made = Command::new(forebay()).arg("keys").arg(folder.join("keys")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Who connects without credentials is the operator: the test itself. `routes`: of all brokers of a cluster.
fn write_nats_config(
    folder: &Path,
    index: usize,
    addr: SocketAddr,
    monitor: SocketAddr,
    routes: &[SocketAddr],
) -> PathBuf {
    let name = broker_name(index);
    let path = folder.join(format!("{name}.conf"));
    let store = folder.join(STORE).join(&name);
    let seed = std::fs::read_to_string(folder.join("keys/operator.nk")).unwrap();
    let operator = nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key();
    let cluster = match routes.get(index) {
        Some(own) => {
            let routes: Vec<String> = routes.iter().map(|route| format!("\"nats://{route}\"")).collect();
            format!("cluster {{\n  name: test\n  listen: \"{own}\"\n  routes: [{}]\n}}\n", routes.join(", "))
        }
        None => String::new(),
    };
    let config = format!(
        "server_name: {name}\nlisten: \"{addr}\"\nhttp: \"{monitor}\"\n\
         include ./keys/accounts.conf\nno_auth_user: {operator}\n{cluster}\
         jetstream {{\n  store_dir: \"{}\"\n  max_file_store: 32GB\n  max_memory_store: 16GB\n}}\n",
        store.display()
    );
    std::fs::write(&path, config).unwrap();
    path
}

/// The binary built with the tests, or the one named by FOREBAY_BIN: figures are taken with a release build.
fn forebay() -> PathBuf {
    std::env::var_os("FOREBAY_BIN").map_or_else(|| env!("CARGO_BIN_EXE_forebay").into(), PathBuf::from)
}

/// The one named by FOREBAY_NATS_SERVER, or on PATH, or in the project's .cache.
pub fn nats_server() -> PathBuf {
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
