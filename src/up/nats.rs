//! The broker of `up`: its binary, and its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::UpDurability;
use forebay_shared::streams;

use super::plan::Plan;
use super::programs::Program;
use super::store::Store;
use crate::host;

const SERVER: Program = Program { name: "nats-server", flag: "--nats-server", env: "FOREBAY_NATS_SERVER" };
/// Time-to-live per message, on which the queue's definitions rely, came with this version.
const OLDEST_VERSION: (u32, u32) = (2, 11);
/// What JetStream may use at most, whatever the disk has.
const LARGEST_STORE_BYTES: u64 = 64 << 30;
/// Beside what the fleet's streams reserve: more models, changed limits.
const SPARE_BYTES: u64 = 4 << 30;
const MEMORY_BYTES: u64 = 256 << 20;
/// The key reaches the broker in its environment, so that it stands in no file but the user's own.
pub const STORE_KEY_ENV: &str = "FOREBAY_STORE_KEY";

/// The binary to run: the one named, else on PATH, else where `make setup` puts it.
///
/// # Errors
/// One line that says what to do when there is none.
pub fn find_server(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    SERVER.find(named)
}

/// `2.15.1`
///
/// # Errors
/// When the file is no nats-server that runs here, or one that is too old.
pub fn server_version(server: &Path) -> anyhow::Result<String> {
    let output = Command::new(server).arg("--version").output();
    let output = output
        .with_context(|| format!("cannot run {}; set FOREBAY_NATS_SERVER to another nats-server", server.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().trim_start_matches("nats-server: v");
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_VERSION => Ok(version.to_owned()),
        (Some(_), Some(_)) => bail!(
            "{} is version {version}; forebay needs {}.{} or later, set FOREBAY_NATS_SERVER to one",
            server.display(),
            OLDEST_VERSION.0,
            OLDEST_VERSION.1
        ),
        _ => bail!("{} is no nats-server; correct --nats-server / FOREBAY_NATS_SERVER", server.display()),
    }
}

pub fn config_path(store: &Store) -> PathBuf {
    store.dir().join("nats.conf")
}

/// Writes the broker's configuration into the store.
pub fn write_config(plan: &Plan, store: &Store) -> anyhow::Result<()> {
    let free = host::disk_free_bytes(store.dir())?;
    let path = config_path(store);
    std::fs::write(&path, config(plan, store.dir(), free)?).with_context(|| format!("cannot write {}", path.display()))
}

fn config(plan: &Plan, store: &Path, disk_free_bytes: u64) -> anyhow::Result<String> {
    let reserved = streams::reserved_bytes(plan.models.len()) + SPARE_BYTES;
    let max_file = (disk_free_bytes / 5 * 4).min(LARGEST_STORE_BYTES).max(reserved);
    let max_memory = match plan.durability {
        UpDurability::Memory => reserved,
        UpDurability::File | UpDurability::Fsync => MEMORY_BYTES,
    };
    // A JSON string is a quoted string of this format too.
    let store_dir = serde_json::to_string(&store.join("jetstream").to_string_lossy())?;
    let sync = if plan.durability == UpDurability::Fsync { "  sync_interval: always\n" } else { "" };
    let cipher = if plan.key_fingerprint.is_some() {
        format!("  cipher: chachapoly\n  key: ${STORE_KEY_ENV}\n")
    } else {
        String::new()
    };
    Ok(format!(
        "# Written by forebay up; changes are lost at the next start.\n\
         server_name: forebay-up\n\
         listen: \"{}\"\n\
         http: \"{}\"\n\
         max_payload: 1MB\n\
         include ./keys/accounts.conf\n\
         jetstream {{\n  store_dir: {store_dir}\n  max_memory_store: {max_memory}\n  max_file_store: {max_file}\n{sync}{cipher}}}\n",
        plan.addresses.nats, plan.addresses.nats_monitor
    ))
}

#[cfg(test)]
mod tests {
    use forebay_worker::device::DeviceChoice;

    use super::*;
    use crate::up::devices::Devices;
    use crate::up::plan::Addresses;

    fn plan(models: usize) -> Plan {
        let addr = |port: u16| ([127, 0, 0, 1], port).into();
        Plan {
            devices: Devices::find(&[DeviceChoice::Cpu]).unwrap(),
            models: vec![crate::model::Model::parse("identity"); models],
            addresses: Addresses {
                api: addr(8000),
                aggregator: addr(9600),
                nats: addr(4222),
                nats_monitor: addr(8222),
                prometheus: None,
                alertmanager: None,
            },
            durability: UpDurability::File,
            key_fingerprint: None,
            monitoring: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn the_store_is_bounded_by_the_disk_but_holds_what_streams_reserve() {
        let of = |models, free| config(&plan(models), Path::new("/store"), free).unwrap();
        assert!(of(1, 10 << 40).contains(&format!("max_file_store: {LARGEST_STORE_BYTES}\n")));
        assert!(of(1, 50_000_000_000).contains("max_file_store: 40000000000\n"));
        assert!(of(3, 0).contains(&format!("max_file_store: {}\n", streams::reserved_bytes(3) + SPARE_BYTES)));
    }

    #[test]
    fn durability_and_encryption_are_the_brokers_affair() {
        let of = |durability, encrypted: bool| {
            let key_fingerprint = encrypted.then(|| "f".to_owned());
            config(&Plan { durability, key_fingerprint, ..plan(1) }, Path::new("/store"), 0).unwrap()
        };
        let plain = of(UpDurability::File, false);
        assert!(!plain.contains("sync_interval") && !plain.contains("cipher"), "{plain}");
        assert!(of(UpDurability::Fsync, false).contains("sync_interval: always"));
        assert!(
            of(UpDurability::Memory, false)
                .contains(&format!("max_memory_store: {}\n", streams::reserved_bytes(1) + SPARE_BYTES))
        );
        assert!(of(UpDurability::File, true).contains("cipher: chachapoly\n  key: $FOREBAY_STORE_KEY\n"));
    }

    #[test]
    fn a_path_with_quotes_and_spaces_stays_one_string() {
        let config = config(&plan(1), Path::new("/a \"b\""), 0).unwrap();
        assert!(config.contains(r#"store_dir: "/a \"b\"/jetstream""#), "{config}");
    }

    #[test]
    fn what_is_no_nats_server_is_refused_with_a_remedy() {
        let missing = find_server(Some(Path::new("/no/such/nats-server"))).unwrap_err();
        assert!(missing.to_string().contains("correct --nats-server"), "{missing}");
        let other = server_version(Path::new("/bin/true")).unwrap_err();
        assert!(other.to_string().contains("is no nats-server"), "{other}");
    }
}
