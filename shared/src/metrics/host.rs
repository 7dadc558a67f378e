//! Load of the host, from `/proc`. Elsewhere nothing is set and the gauges stay at 0.

use std::fs;

use super::WorkerMetrics;

/// Remembers the processor times of the last sample.
#[derive(Debug, Default)]
pub struct HostSampler {
    last: Option<CpuTimes>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl HostSampler {
    /// Sets `host_cpu_ratio` (since the last call) and `host_memory_used_bytes`. About 50 µs: once a second is right.
    pub fn sample(&mut self, metrics: &WorkerMetrics) {
        if let Some(now) = fs::read_to_string("/proc/stat").ok().and_then(|text| parse_stat(&text))
            && let Some(last) = self.last.replace(now)
            && now.total > last.total
        {
            metrics.host_cpu_ratio.set(now.busy.saturating_sub(last.busy) as f64 / (now.total - last.total) as f64);
        }
        if let Some(used) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text)) {
            metrics.host_memory_used_bytes.set(used as f64);
        }
    }
}

/// First line: user nice system idle iowait irq softirq steal guest guest_nice, in ticks. Guest is part of user.
fn parse_stat(text: &str) -> Option<CpuTimes> {
    let ticks: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let counted = ticks.get(..8)?;
    let total: u64 = counted.iter().sum();
    Some(CpuTimes { busy: total - counted[3] - counted[4], total })
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(kib("MemTotal:")?.saturating_sub(kib("MemAvailable:")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_time_is_not_counted_twice_and_io_wait_is_idle() {
        let times = parse_stat("cpu  10 0 20 60 10 0 0 0 10 0\ncpu0 1 1 1 1").unwrap();
        assert_eq!(times, CpuTimes { busy: 30, total: 100 });
    }

    #[test]
    fn memory_that_can_be_taken_back_is_not_in_use() {
        assert_eq!(parse_meminfo("MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 60 kB\n"), Some(40 * 1024));
    }
}
