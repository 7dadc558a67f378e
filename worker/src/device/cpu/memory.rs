//! Memory of the CPU as a device: what this process has of it, and what it may have. From `/proc` and the control groups of
//! Linux; elsewhere, and where they cannot be read, nothing is known and nothing is said.

use std::fs;
use std::path::{Path, PathBuf};

use forebay_shared::metrics::{Fact, MemoryKind, WorkerMetrics};

/// More than any machine has: control groups write "no limit" as a number of this order.
const NO_LIMIT: u64 = 1 << 60;

/// Keeps the gauges of one device up to date.
#[derive(Debug)]
pub struct MemorySampler {
    device: Fact,
    capacity_bytes: Option<u64>,
}

impl MemorySampler {
    /// The limit is read once: it is that of the container.
    pub fn new(device: &str) -> Self {
        let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:"));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = limit(Path::new("/sys/fs/cgroup"), &groups);
        Self { device: Fact::new(device), capacity_bytes: host.into_iter().chain(limit).min() }
    }

    /// About 30 µs: once a second is right.
    pub fn sample(&self, metrics: &WorkerMetrics) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (kind, bytes) in [
            (MemoryKind::Used, kib(&status, "VmRSS:")),
            (MemoryKind::Peak, kib(&status, "VmHWM:")),
            (MemoryKind::Capacity, self.capacity_bytes),
        ] {
            if let Some(bytes) = bytes {
                metrics.device_memory_bytes.with(&(self.device.clone(), kind)).set(bytes as f64);
            }
        }
    }
}

/// In bytes, from a line such as `VmRSS:  1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The tightest limit of the groups that a process is in, and of those around them. In a container its own group is often
/// shown as the root, under a path that is not there.
fn limit(mount: &Path, groups: &str) -> Option<u64> {
    let mut files: Vec<PathBuf> = vec![mount.join("memory.max"), mount.join("memory/memory.limit_in_bytes")];
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_memory = controllers.split(',').any(|name| name == "memory");
        let (root, file) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            _ if is_memory => (mount.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(group).join(file));
        files.extend(around);
    }
    let limits = files.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_around_a_process_holds() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(limit(dir.path(), "0::/a/b\n"), None);
        write("a/memory.max", "3000\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(limit(dir.path(), "0::/a/b\n"), Some(3_000));
        assert_eq!(limit(dir.path(), "0::/elsewhere\n"), None);
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "2000\n");
        assert_eq!(limit(dir.path(), "5:cpu:/c\n4:blkio,memory:/c\n"), Some(2_000));
        assert_eq!(limit(dir.path(), "4:memory:/\n"), None, "so large a number is no limit");
    }

    #[test]
    fn this_process_uses_some_of_what_it_may_have() {
        let metrics = WorkerMetrics::new();
        MemorySampler::new("cpu").sample(&metrics);
        let bytes = |kind| metrics.device_memory_bytes.with(&("cpu".into(), kind)).get();
        let (used, peak, capacity) = (bytes(MemoryKind::Used), bytes(MemoryKind::Peak), bytes(MemoryKind::Capacity));
        assert!(used > 1e6 && peak >= used && capacity > used, "{used} {peak} {capacity}");
        assert!(!metrics.render().contains("kind=\"reserved\""), "a CPU keeps nothing aside that anybody knows of");
    }
}
