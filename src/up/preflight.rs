//! What must be true before anything is started. Each failure is one line that says what to do.

use std::net::SocketAddr;

use anyhow::{Context, bail};

use super::nats;
use super::plan::{Addresses, Kind, Plan};
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
    plan.addresses.prometheus.map_or(Ok(()), |addr| port(addr, "--prometheus-addr"))?;
    plan.addresses.alertmanager.map_or(Ok(()), |addr| port(addr, "--alertmanager-addr"))?;
    let server = plan.processes.iter().find(|spec| spec.kind == Kind::NatsServer).context("the plan has a broker")?;
    nats::server_version(&server.program)?;
    Ok(())
}

/// What to warn of if the broker can be reached from other machines, for which `up` sets up no TLS, or if those who watch
/// can be, who ask nobody for a key.
pub fn exposure(addresses: &Addresses) -> Vec<String> {
    let outside = |addr: &SocketAddr| !addr.ip().is_loopback();
    let broker = Some(addresses.nats).filter(outside).map(|nats| {
        format!(
            "warning: the broker listens on {nats} without TLS: whoever is on the way reads inputs and answers; keep \
             --nats-addr on loopback, or run a nats-server of your own as docs/tls.md says"
        )
    });
    let watchers = [addresses.prometheus, addresses.alertmanager].into_iter().flatten().filter(outside).map(|addr| {
        format!(
            "warning: whoever reaches {addr} may read all metrics and silence alerts; keep --prometheus-addr and \
             --alertmanager-addr on loopback, or put a proxy that asks for a password before them"
        )
    });
    broker.into_iter().chain(watchers).collect()
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

    fn exposed(nats: &str, prometheus: Option<&str>) -> Vec<String> {
        let addr = |text: &str| text.parse().unwrap();
        let nats_monitor = addr("127.0.0.1:8222");
        exposure(&Addresses {
            api: addr("0.0.0.0:8000"),
            aggregator: addr("0.0.0.0:9600"),
            nats: addr(nats),
            nats_monitor,
            prometheus: prometheus.map(addr),
            alertmanager: None,
        })
    }

    #[test]
    fn a_broker_that_other_machines_reach_is_warned_of() {
        for addr in ["0.0.0.0:4222", "[::]:4222", "10.0.0.7:4222"] {
            let warnings = exposed(addr, None);
            assert!(warnings.len() == 1 && warnings[0].contains("without TLS") && warnings[0].contains(addr));
        }
        assert!(exposed("127.0.0.1:4222", None).is_empty() && exposed("[::1]:4222", None).is_empty());
    }

    #[test]
    fn a_prometheus_that_other_machines_reach_is_warned_of() {
        assert!(exposed("127.0.0.1:4222", Some("0.0.0.0:9090"))[0].contains("whoever reaches 0.0.0.0:9090"));
        assert!(exposed("127.0.0.1:4222", Some("127.0.0.1:9090")).is_empty());
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
