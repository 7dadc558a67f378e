//! A nats-server on a free port with a store of its own, gone with the value.
#![allow(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

pub struct Nats {
    server: Child,
    pub port: u16,
    _store: TempDir,
}

/// `$FOREBAY_NATS_SERVER`, else the repository's own copy, else the one on the path.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_NATS_SERVER") {
        return path.into();
    }
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/nats-server");
    if cached.exists() { cached } else { "nats-server".into() }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Nats {
    pub async fn start() -> Self {
        let (port, store) = (free_port(), tempfile::tempdir().unwrap());
        let server = Command::new(binary())
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
            .arg(store.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts; set FOREBAY_NATS_SERVER to its path");
        let this = Self { server, port, _store: store };
        for _ in 0..100 {
            if let Ok(client) = async_nats::connect(this.url()).await
                && async_nats::jetstream::new(client).query_account().await.is_ok()
            {
                return this;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nats-server does not answer on port {port}");
    }

    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub async fn client(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().subscription_capacity(65_536);
        options.connect(self.url()).await.unwrap()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _gone_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}
