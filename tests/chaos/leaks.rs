//! No process grows without end: what it holds when all is quiet again is compared with what it held at the start.

use std::collections::BTreeMap;
use std::fs;

use crate::support::Process;

/// Resident memory that caches, allocator and statistics may take over a run.
const MEMORY_GROWTH_MIB: f64 = 96.0;
/// Connections to broker and scrapers come and go; clients are gone when this is looked at.
const DESCRIPTOR_GROWTH: usize = 24;

#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub memory_mib: f64,
    pub descriptors: usize,
    pub threads: usize,
}

/// What each process holds now, by name and process id: a process that was started anew is another.
pub fn held<'a>(processes: impl IntoIterator<Item = &'a Process>) -> BTreeMap<(String, u32), Held> {
    let of = |process: &Process| {
        let pid = process.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let held = Held {
            memory_mib: field("VmRSS:")? / 1024.0,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: field("Threads:")? as usize,
        };
        Some(((process.name().to_owned(), pid), held))
    };
    processes.into_iter().filter_map(of).collect()
}

/// What has grown more than it may, of processes that were there both times.
pub fn grown(before: &BTreeMap<(String, u32), Held>, after: &BTreeMap<(String, u32), Held>) -> Vec<String> {
    let both = after.iter().filter_map(|(key, after)| Some((key, before.get(key)?, after)));
    both.filter(|(_, before, after)| {
        after.memory_mib > before.memory_mib + MEMORY_GROWTH_MIB
            || after.descriptors > before.descriptors + DESCRIPTOR_GROWTH
            || after.threads > before.threads + 8
    })
    .map(|((name, _), before, after)| format!("{name}: {before:?} → {after:?}"))
    .collect()
}
