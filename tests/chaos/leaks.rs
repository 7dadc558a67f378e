//! No process grows without end. Every process is looked at once a second, whoever was started anew when; what it holds at
//! the end, when all is quiet, is compared with the least that it held in its first seconds.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Resident memory that caches, allocator and statistics may take over a run.
const MEMORY_GROWTH_MIB: f64 = 96.0;
/// Connections to broker and scrapers come and go; clients are gone when this is looked at.
const DESCRIPTOR_GROWTH: usize = 24;
/// When one of several brokers dies, its clients go to the others, and each of them may come to have all: about 70 here.
const BROKER_DESCRIPTOR_GROWTH: usize = 96;
const THREAD_GROWTH: usize = 8;
/// A process has started by then, and has done some work at the end of its youth.
const STARTED: Duration = Duration::from_secs(4);
const YOUNG: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Held {
    memory_mib: f64,
    descriptors: usize,
    threads: usize,
}

/// One life of one process.
#[derive(Debug)]
struct Life {
    name: String,
    seen: Instant,
    young: Option<Held>,
    last: Held,
}

/// Looks at the children of this process, which are the system under test.
pub struct Leaks {
    lives: Arc<Mutex<BTreeMap<u32, Life>>>,
    task: tokio::task::JoinHandle<()>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Processes that were there at the end, and old enough to be judged.
    pub judged: Vec<String>,
    pub grown: Vec<String>,
    pub most_memory_mib: f64,
}

impl Leaks {
    pub fn watch() -> Self {
        let lives = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&lives);
        let task = tokio::spawn(async move {
            loop {
                look(&mut seen.lock().unwrap());
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { lives, task }
    }

    /// To be called when nothing has been asked for a while.
    pub fn stop(self) -> Found {
        self.task.abort();
        let mut lives = self.lives.lock().unwrap();
        look(&mut lives);
        let mut found = Found::default();
        for life in lives.values() {
            found.most_memory_mib = found.most_memory_mib.max(life.last.memory_mib);
            let Some(young) = life.young else { continue };
            found.judged.push(life.name.clone());
            if life.last.memory_mib > young.memory_mib + MEMORY_GROWTH_MIB
                || life.last.descriptors > young.descriptors + descriptor_growth(&life.name)
                || life.last.threads > young.threads + THREAD_GROWTH
            {
                found.grown.push(format!("{}: {young:?} → {:?}", life.name, life.last));
            }
        }
        found
    }
}

fn descriptor_growth(name: &str) -> usize {
    if name.ends_with("nats-server") { BROKER_DESCRIPTOR_GROWTH } else { DESCRIPTOR_GROWTH }
}

/// Forgets who is gone.
fn look(lives: &mut BTreeMap<u32, Life>) {
    let now = Instant::now();
    let there: BTreeMap<u32, (String, Held)> = children().collect();
    lives.retain(|pid, _| there.contains_key(pid));
    for (pid, (name, held)) in there {
        let life = lives.entry(pid).or_insert_with(|| Life { name, seen: now, young: None, last: held });
        life.last = held;
        if (STARTED..=YOUNG).contains(&now.duration_since(life.seen)) {
            let least = life.young.get_or_insert(held);
            least.memory_mib = least.memory_mib.min(held.memory_mib);
            least.descriptors = least.descriptors.min(held.descriptors);
            least.threads = least.threads.min(held.threads);
        }
    }
}

fn children() -> impl Iterator<Item = (u32, (String, Held))> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        if field("PPid:")? as u32 != std::process::id() {
            return None;
        }
        let held = Held {
            memory_mib: field("VmRSS:")? / 1024.0,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: field("Threads:")? as usize,
        };
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        // The broker has no such flag.
        let named = words.iter().position(|word| word == "--process-name").and_then(|at| words.get(at + 1));
        let name = named.or(words.first())?.to_string();
        Some((pid, (name, held)))
    })
}
