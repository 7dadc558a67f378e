//! The gauges of the device that a worker computes on, set once a second: of a CPU beside the host's, of a GPU by a thread.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use forebay_shared::metrics::{Fact, MemoryKind, WorkerMetrics};

use super::DeviceChoice;
use super::cpu::memory::MemorySampler;
use super::nvml;

/// How often a GPU is asked.
const EVERY: Duration = Duration::from_secs(1);

/// What a GPU says of itself, as far as it does.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Readings {
    /// Taken by all processes on the device.
    pub used_bytes: Option<u64>,
    pub capacity_bytes: Option<u64>,
    /// Share of the last sample period (a sixth of a second to a second) in which any kernel ran.
    pub utilization: Option<f64>,
    /// Share of it in which memory was read or written.
    pub memory_busy: Option<f64>,
    pub temperature_celsius: Option<f64>,
    pub power_watts: Option<f64>,
}

/// What the engine's allocator took from the device, as the engine last said. A process drives one device: there is one.
pub static POOL: Pool = Pool { live_bytes: AtomicU64::new(0), taken_bytes: AtomicU64::new(0) };

/// Gauges of an allocator that keeps what is freed. Each is right by itself: that they are read at slightly different times does
/// not matter for a figure per second.
pub struct Pool {
    live_bytes: AtomicU64,
    taken_bytes: AtomicU64,
}

impl Pool {
    /// To be called where the allocator is at hand, after a batch for example. `live_bytes` of `taken_bytes` hold something.
    pub fn say(&self, live_bytes: u64, taken_bytes: u64) {
        self.live_bytes.store(live_bytes, Ordering::Relaxed);
        self.taken_bytes.store(taken_bytes, Ordering::Relaxed);
    }

    /// What is kept for later.
    fn idle_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed).saturating_sub(self.live_bytes.load(Ordering::Relaxed))
    }
}

impl Readings {
    /// Sets the gauges of what is known. `idle_bytes` of the memory in use are kept for later by the pool of this process;
    /// `peak_bytes` is the most in use so far.
    fn show(&self, device: &Fact, idle_bytes: u64, peak_bytes: &mut u64, metrics: &WorkerMetrics) {
        let one = (device.clone(),);
        let memory = |kind, bytes: Option<u64>| {
            if let Some(bytes) = bytes {
                metrics.device_memory_bytes.with(&(device.clone(), kind)).set(bytes as f64);
            }
        };
        let used = self.used_bytes.map(|bytes| bytes.saturating_sub(idle_bytes));
        *peak_bytes = used.unwrap_or_default().max(*peak_bytes);
        memory(MemoryKind::Used, used);
        memory(MemoryKind::Reserved, self.used_bytes);
        memory(MemoryKind::Peak, used.map(|_| *peak_bytes));
        memory(MemoryKind::Capacity, self.capacity_bytes);
        for (gauge, value) in [
            (&metrics.device_utilization_ratio, self.utilization),
            (&metrics.device_memory_busy_ratio, self.memory_busy),
            (&metrics.device_temperature_celsius, self.temperature_celsius),
            (&metrics.device_power_watts, self.power_watts),
        ] {
            if let Some(value) = value {
                gauge.with(&one).set(value);
            }
        }
    }
}

/// Keeps the gauges of one device up to date until it is dropped. A GPU of which no driver knows says nothing.
pub struct DeviceSampler {
    cpu: Option<MemorySampler>,
    /// Ends the thread that asks the driver, when dropped.
    _watching: Option<Sender<Infallible>>,
}

impl DeviceSampler {
    pub fn new(choice: &DeviceChoice, metrics: &WorkerMetrics) -> Self {
        let label = choice.label();
        let device = Fact::new(&label);
        // From 0 on, so that the first time is a rise.
        metrics.device_oom_total.with(&(device.clone(),)).inc_by(0);
        match choice {
            DeviceChoice::Cpu | DeviceChoice::Auto => Self { cpu: Some(MemorySampler::new(&label)), _watching: None },
            DeviceChoice::Uuid(uuid) => Self { cpu: None, _watching: watch(uuid.clone(), device, metrics.clone()) },
            DeviceChoice::Ordinal(_) => Self { cpu: None, _watching: None },
        }
    }

    /// To be called once a second.
    pub fn sample(&self, metrics: &WorkerMetrics) {
        if let Some(cpu) = &self.cpu {
            cpu.sample(metrics);
        }
    }
}

/// A thread of its own: the driver of a sick GPU may take seconds to answer, and answers to clients must not wait for it.
fn watch(uuid: String, device: Fact, metrics: WorkerMetrics) -> Option<Sender<Infallible>> {
    let (alive, ended) = mpsc::channel();
    let watching = move || {
        let Some(gpu) = nvml::sampler(&uuid) else { return };
        let mut peak_bytes = 0;
        loop {
            gpu.read().show(&device, POOL.idle_bytes(), &mut peak_bytes, &metrics);
            match ended.recv_timeout(EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(never) => match never {},
            }
        }
    };
    match std::thread::Builder::new().name("device-watch".to_owned()).spawn(watching) {
        Ok(_) => Some(alive),
        Err(error) => {
            tracing::warn!(%error, "nobody watches the device");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_does_not_tell_has_no_gauge() {
        let metrics = WorkerMetrics::new();
        let device = Fact::new("MIG-0a55c3d1");
        let readings = Readings { used_bytes: Some(5), temperature_celsius: Some(61.0), ..Readings::default() };
        let mut peak = 7;
        readings.show(&device, 1, &mut peak, &metrics);
        let page = metrics.render();
        for line in [
            r#"forebay_worker_device_memory_bytes{device="MIG-0a55c3d1",kind="used"} 4"#,
            r#"forebay_worker_device_memory_bytes{device="MIG-0a55c3d1",kind="reserved"} 5"#,
            r#"forebay_worker_device_memory_bytes{device="MIG-0a55c3d1",kind="peak"} 7"#,
            r#"forebay_worker_device_temperature_celsius{device="MIG-0a55c3d1"} 61"#,
        ] {
            assert!(page.contains(line), "{line}");
        }
        for name in ["device_utilization_ratio{", "device_power_watts{", "kind=\"capacity\""] {
            assert!(!page.contains(name), "{name}");
        }
    }

    #[test]
    fn memory_that_never_ran_out_is_counted_from_the_start() {
        let metrics = WorkerMetrics::new();
        let _sampler = DeviceSampler::new(&DeviceChoice::Cpu, &metrics);
        assert!(metrics.render().contains(r#"forebay_worker_device_oom_total{device="cpu"} 0"#));
    }
}
