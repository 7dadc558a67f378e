//! TLS between the roles and the broker: certificates are checked in both directions, and a wrong one says what to do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::client;
use support::ports::Port;
use support::process::{Process, Spec};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A certificate authority, and what it has signed, as files.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> String {
        self.dir.join("ca.pem").display().to_string()
    }

    /// Certificate and key for `hosts`.
    fn sign(&self, name: &str, hosts: &[&str]) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["pem", "key"].map(|end| self.dir.join(format!("{name}.{end}")));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files[1], std::fs::Permissions::from_mode(0o600)).unwrap();
        files.map(|file| file.display().to_string())
    }
}

/// A broker with accounts and the given `tls` block.
struct Broker {
    dir: TempDir,
    process: Process,
    _ports: [Port; 2],
}

impl Broker {
    async fn start(dir: TempDir, tls: &str) -> Self {
        support::cluster::make_keys(dir.path());
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let ports = [Port::reserve(), Port::reserve()];
        let config = dir.path().join("nats.conf");
        let text = format!(
            "listen: \"{}\"\nhttp: \"{}\"\ninclude ./keys/accounts.conf\ntls {{ {tls} }}\njetstream {{ store_dir: \"{}\" }}\n",
            ports[0].addr(),
            ports[1].addr(),
            dir.path().join("jetstream").display()
        );
        std::fs::write(&config, text).unwrap();
        let spec = Spec {
            name: "nats-server".to_owned(),
            program: support::cluster::nats_server(),
            args: vec!["-c".to_owned(), config.display().to_string()],
            env: Vec::new(),
            addr: ports[0].addr(),
            ready_addr: ports[1].addr(),
            ready_path: "/healthz",
        };
        let process = Process::start(spec, &dir.path().join("logs"));
        process.ready(LIMIT).await;
        Self { dir, process, _ports: ports }
    }

    fn flags(&self, role: &str, flags: &[&str]) -> Vec<String> {
        let key = self.dir.path().join("keys").join(format!("{role}.nk")).display().to_string();
        let url = format!("tls://{}", self.process.addr());
        let fixed = ["--broker", &url, "--broker-credentials", &key].map(str::to_owned);
        fixed.into_iter().chain(flags.iter().map(ToString::to_string)).collect()
    }

    /// What a worker says that cannot connect.
    fn refused(&self, flags: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["worker", "--model", "identity", "--metrics-addr", "127.0.0.1:0", "--broker-wait", "2s"]);
        let output = command.args(self.flags("worker", flags)).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    /// An api and a worker, and a request through them.
    async fn serves(&self, flags: &[&str]) {
        let ports = [Port::reserve(), Port::reserve()];
        let start = |role: &str, own: &[&str], port: &Port, ready_path| {
            let spec = Spec {
                name: role.to_owned(),
                program: env!("CARGO_BIN_EXE_forebay").into(),
                args: [role.to_owned()]
                    .into_iter()
                    .chain(own.iter().map(ToString::to_string))
                    .chain(self.flags(role, flags))
                    .collect(),
                env: Vec::new(),
                addr: port.addr(),
                ready_addr: port.addr(),
                ready_path,
            };
            Process::start(spec, &self.dir.path().join("logs"))
        };
        let addrs = [&ports[0], &ports[1]].map(|port| port.addr().to_string());
        let worker = ["--model", "identity", "--metrics-addr", &addrs[1]];
        let worker = start("worker", &worker, &ports[1], "/health/ready");
        let api = start("api", &["--api-addr", &addrs[0]], &ports[0], "/health/ready?model=identity");
        worker.ready(LIMIT).await;
        api.ready(LIMIT).await;
        let body = serde_json::json!({ "model": "identity", "input": "over TLS" });
        assert_eq!(client::post(api.addr(), "/v1/embeddings", &body).await.unwrap().status, 200);
    }

    fn doctor(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        let flags = self.flags("operator", flags);
        command.args([
            "doctor",
            "--model",
            "identity",
            "--api-addr",
            "127.0.0.1:0",
            "--aggregator-addr",
            "127.0.0.1:0",
        ]);
        command.arg("--store").arg(self.dir.path().join("store")).args(flags).output().unwrap()
    }
}

#[tokio::test]
async fn the_brokers_certificate_must_come_from_the_authority_that_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "other"));
    let [cert, key] = ours.sign("broker", &["127.0.0.1"]);
    let broker = Broker::start(dir, &format!("cert_file: \"{cert}\", key_file: \"{key}\"")).await;
    broker.serves(&["--broker-ca", &ours.ca()]).await;

    let said = broker.refused(&["--broker-ca", &other.ca()]);
    assert!(said.contains("no TLS with the broker") && said.contains("--broker-ca"), "{said}");
    let said = broker.refused(&[]);
    assert!(
        said.contains("no TLS with the broker") && said.contains("--broker-ca"),
        "the system's authorities: {said}"
    );

    let doctor = broker.doctor(&["--broker-ca", &ours.ca()]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("ok    broker: ") && said.contains("ok    jetstream: "), "{said}");
    let doctor = broker.doctor(&["--broker-ca", &other.ca()]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("fail  broker: no TLS with the broker") && said.contains("→ name the authority"), "{said}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let [cert, key] = ours.sign("broker", &["broker.example"]);
    let broker = Broker::start(dir, &format!("cert_file: \"{cert}\", key_file: \"{key}\"")).await;
    let said = broker.refused(&["--broker-ca", &ours.ca()]);
    assert!(said.contains("no TLS with the broker") && said.contains("for this host name"), "{said}");
}

#[tokio::test]
async fn a_broker_that_asks_for_certificates_gets_ours_and_refuses_those_without() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "other"));
    let [cert, key] = ours.sign("broker", &["127.0.0.1"]);
    let tls = format!("cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{}\", verify: true", ours.ca());
    let broker = Broker::start(dir, &tls).await;
    let [cert, key] = ours.sign("worker", &["worker"]);
    let ca = ours.ca();
    broker.serves(&["--broker-ca", &ca, "--broker-cert", &cert, "--broker-key", &key]).await;
    let said = broker.refused(&["--broker-ca", &ca]);
    assert!(said.contains("CertificateRequired") && said.contains("show one with --broker-cert"), "{said}");
    let [cert, key] = other.sign("worker", &["worker"]);
    let said = broker.refused(&["--broker-ca", &ca, "--broker-cert", &cert, "--broker-key", &key]);
    assert!(said.contains("no TLS with the broker"), "{said}");
}
