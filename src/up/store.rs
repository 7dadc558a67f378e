//! The folder of one system: its lock, its logs, the list of its processes, and the broker's files.
//!
//! lock · processes.json · nats.conf · keys/ · encrypted (which key, not the key) · jetstream/ · monitoring/ (if asked for) · logs/NAME.log (and .log.old of the start before)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

/// How much of a log's end is searched for the last error.
const TAIL_BYTES: u64 = 64 * 1024;

/// A store that belongs to this process until it ends.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// One line of `processes.json`. Only processes that run now are listed.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub role: &'static str,
    pub name: String,
    pub pid: u32,
    pub addr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_addr: Option<String>,
}

impl Store {
    /// Creates what is missing and takes the lock.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let create = |dir: &Path| {
            fs::create_dir_all(dir).with_context(|| {
                format!("cannot create {}; choose a folder that can be written with --store", dir.display())
            })
        };
        create(dir)?;
        let dir = dir.canonicalize()?;
        let lock = lock(&dir)?;
        create(&dir.join("logs"))?;
        create(&dir.join("jetstream"))?;
        // A store inside a repository is nothing to commit.
        fs::write(dir.join(".gitignore"), "*\n").with_context(|| format!("cannot write to {}", dir.display()))?;
        let store = Self { dir, _lock: lock };
        store.write_processes(&[])?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Keeps the broker from a store that it cannot read with this key: it would say so in a warning, and start empty.
    /// A store that is not encrypted yet is encrypted by the broker when there is a key.
    pub fn unlock(&self, key_fingerprint: Option<&str>) -> anyhow::Result<()> {
        let (mark, dir) = (self.dir.join("encrypted"), self.dir.display());
        let known = match fs::read_to_string(&mark) {
            Ok(known) => Some(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", mark.display())),
        };
        match (known.as_deref().map(str::trim), key_fingerprint) {
            (None, None) => Ok(()),
            (None, Some(ours)) => fs::write(&mark, ours).with_context(|| format!("cannot write {}", mark.display())),
            (Some(known), Some(ours)) if known == ours => Ok(()),
            (Some(_), Some(_)) => bail!(
                "--store-key-file holds another key than {dir} was encrypted with; name that one, or choose another folder with --store"
            ),
            (Some(_), None) => bail!(
                "the queue in {dir} is encrypted; name its key with --store-key-file, or choose another folder with --store"
            ),
        }
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// Puts the log of the last run aside.
    pub fn begin_log(&self, process: &str) -> io::Result<()> {
        let log = self.log(process);
        match fs::rename(&log, log.with_extension("log.old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The log, to be written at its end, and where that is now.
    pub fn append_log(&self, process: &str) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().create(true).append(true).open(self.log(process))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// What a process said last about why it ended; looks only at what it wrote after `from`.
    pub fn last_words(&self, process: &str, from: u64) -> io::Result<Option<String>> {
        let mut file = File::open(self.log(process))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(last_words(&String::from_utf8_lossy(&tail)))
    }

    /// Replaces the list at once: a reader sees the old one or the new one.
    pub fn write_processes(&self, processes: &[Entry]) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&serde_json::json!({ "processes": processes }))?;
        let (path, fresh) = (self.dir.join("processes.json"), self.dir.join("processes.json.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The lock goes with the process, however it ends; the file stays and says whose it is.
fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.with_context(|| format!("cannot write {}; choose another folder with --store", path.display()))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, _)) => {
            let mut owner = String::new();
            let _unknown = file.read_to_string(&mut owner);
            bail!(
                "{} is used by another forebay up (process {}); stop it or choose another folder with --store",
                dir.display(),
                owner.trim()
            );
        }
    };
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

/// The last line that looks like a cause of death, else the last line at all.
fn last_words(log: &str) -> Option<String> {
    let lines = || log.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let marks = ["error:", "ERROR", "[FTL]", "[ERR]", "level=error", "panicked at", "nats-server:"];
    let line = lines().find(|line| marks.iter().any(|mark| line.contains(mark))).or_else(|| lines().next())?;
    Some(line.strip_prefix("error: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_used_by_one_system_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn the_cause_of_death_is_the_last_error_in_the_log() {
        let log = "INFO loading\nerror: /m/config.json: no such file; pass another --model\n\nsome noise\n";
        assert_eq!(last_words(log).unwrap(), "/m/config.json: no such file; pass another --model");
        assert_eq!(last_words("killed\n").unwrap(), "killed");
        assert_eq!(last_words("\n"), None);
    }

    #[test]
    fn only_the_last_start_is_searched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::write(store.log("worker-1"), "error: long ago\n").unwrap();
        let (mut file, end) = store.append_log("worker-1").unwrap();
        assert_eq!(store.last_words("worker-1", end).unwrap(), None);
        file.write_all(b"error: just now\n").unwrap();
        assert_eq!(store.last_words("worker-1", end).unwrap().unwrap(), "just now");
        store.begin_log("worker-1").unwrap();
        assert_eq!(store.append_log("worker-1").unwrap().1, 0);
    }

    #[test]
    fn an_encrypted_store_is_opened_with_its_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.unlock(None).unwrap();
        store.unlock(Some("one")).unwrap();
        store.unlock(Some("one")).unwrap();
        assert!(store.unlock(Some("two")).unwrap_err().to_string().contains("another key"));
        assert!(store.unlock(None).unwrap_err().to_string().contains("--store-key-file"));
    }

    #[test]
    fn the_list_of_processes_is_json() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let entry =
            Entry { role: "api", name: "api-1".into(), pid: 7, addr: "127.0.0.1:8000".into(), monitor_addr: None };
        store.write_processes(&[entry]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("processes.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            found,
            serde_json::json!({"processes": [{"role": "api", "name": "api-1", "pid": 7, "addr": "127.0.0.1:8000"}]})
        );
    }
}
