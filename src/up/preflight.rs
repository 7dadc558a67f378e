//! What must be true before anything is started. Each failure is one line that says what to do.

use std::net::SocketAddr;

use anyhow::{Context, bail};

use super::nats;
use super::plan::{Kind, Plan};
use super::store::Store;
use crate::host;

/// Below this, the first stream or download would fail.
const LEAST_DISK_BYTES: u64 = 512 << 20;

/// Checks the models, the disk, the ports and the broker's binary, cheapest first. The store was opened, so it can be written.
pub fn check(plan: &Plan, store: &Store) -> anyhow::Result<()> {
    for model in &plan.models {
        if let Some(problem) = model.problem() {
            bail!(
                "{problem}; pass --model a folder in Hugging Face layout (config.json, tokenizer.json, *.safetensors) or a hub id"
            );
        }
    }
    let free = host::disk_free_bytes(store.dir())?;
    if free < LEAST_DISK_BYTES {
        bail!(
            "only {} free under {}; free some, or choose another disk with --store",
            host::gigabytes(free),
            store.dir().display()
        );
    }
    port(plan.addresses.api, "--api-addr")?;
    port(plan.addresses.aggregator, "--aggregator-addr")?;
    port(plan.addresses.nats, "--nats-addr")?;
    let server = plan.processes.iter().find(|spec| spec.kind == Kind::NatsServer).context("the plan has a broker")?;
    nats::server_version(&server.program)?;
    Ok(())
}

/// What to warn of if the broker can be reached from other machines: `up` sets up no TLS for it.
pub fn exposure(nats: SocketAddr) -> Option<String> {
    (!nats.ip().is_loopback()).then(|| {
        format!(
            "warning: the broker listens on {nats} without TLS: whoever is on the way reads inputs and answers; keep \
             --nats-addr on loopback, or run a nats-server of your own as docs/tls.md says"
        )
    })
}

fn port(addr: SocketAddr, flag: &str) -> anyhow::Result<()> {
    match host::port_is_free(addr) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{addr} is in use; stop the process that listens there or choose another with {flag}"),
        Err(error) => bail!("cannot listen on {addr}: {error}; choose another with {flag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_other_machines_reach_is_warned_of() {
        let warned = |addr: &str| exposure(addr.parse().unwrap());
        assert!(
            warned("0.0.0.0:4222").is_some_and(|text| text.contains("without TLS") && text.contains("0.0.0.0:4222"))
        );
        assert!(warned("[::]:4222").is_some() && warned("10.0.0.7:4222").is_some());
        assert_eq!((warned("127.0.0.1:4222"), warned("[::1]:4222")), (None, None));
    }

    #[test]
    fn a_port_in_use_is_reported_with_its_flag() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let error = port(addr, "--api-addr").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{addr} is in use; stop the process that listens there or choose another with --api-addr")
        );
    }
}
