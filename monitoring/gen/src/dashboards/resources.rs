//! Devices, hosts, containers and processes: what is full, what is hot, what is idle.

use super::ask::{at, each_per_second};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-resources",
        title: "forebay / Devices and resources (Resource Utilization)",
        description: "Devices, processors, memory and disks. Hosts, containers and GPUs need their exporters.",
        tags: &["resources", "devices"],
        variables: &[Variable::Instance],
        rows: vec![
            devices(limits),
            gpus(limits),
            dcgm(),
            processes(limits),
            hosts(limits),
            containers(limits),
            monitoring(),
        ],
        from: "now-3h",
    }
}

const WHO: &str = "{{process}} {{instance}}";

fn devices(limits: &Limits) -> Row {
    let memory = |more: &str| at("forebay_worker_device_memory_bytes", more);
    let by = ["process", "instance"];
    Row::new(
        "Devices",
        vec![
            Panel::timeseries("Device busy", "Share of time that a worker's device computes batches.", Unit::Ratio)
                .query(WHO, each_per_second(&by, &at("forebay_worker_inference_seconds_sum", ""))),
            Panel::timeseries("Batches on the device", "Batches on each worker's device at this moment.", Unit::Count)
                .query(WHO, at("forebay_worker_batches_in_flight", "")),
            Panel::timeseries(
                "Engine steps",
                "Steps per second of each engine. Must not stand still while work is pending.",
                Unit::PerSecond,
            )
            .query(WHO, each_per_second(&by, &at("forebay_worker_engine_steps_total", ""))),
            Panel::timeseries(
                "Device memory",
                "On a CPU it is the memory of the process, and what the process may have; on a GPU that of all processes.",
                Unit::Bytes,
            )
            .query("{{process}} {{device}} {{kind}}", memory("")),
            Panel::timeseries("Device memory in use", "Share of the device's memory.", Unit::Ratio)
                .query(
                    "{{process}} {{device}}",
                    format!("{} / ignoring (kind) {}", memory(r#"kind="used""#), memory(r#"kind="capacity""#)),
                )
                .max(1.0)
                .limit(limits.device_memory),
            Panel::timeseries(
                "Price of devices",
                "What an hour of each device costs, as its worker was told.",
                Unit::Money,
            )
            .query("{{process}} {{device}}", at("forebay_worker_device_price_per_hour", ""))
            .more("forebay-tenants"),
        ],
    )
}

/// As workers on GPUs ask the driver themselves. A slice (MIG) shows the heat and the power of the GPU that it is part of.
fn gpus(limits: &Limits) -> Row {
    let each = |stem: &str| at(&format!("forebay_worker_device_{stem}"), "");
    let gpu = "{{process}} {{device}}";
    let out_of_memory = format!("increase({}[$__rate_interval])", each("oom_total"));
    Row::new(
        "GPUs",
        vec![
            Panel::timeseries(
                "Running anything",
                "Share of time that any kernel ran. Full does not mean well used.",
                Unit::Ratio,
            )
            .query(gpu, each("utilization_ratio"))
            .max(1.0)
            .width(6),
            Panel::timeseries("Memory read or written", "Share of time that the GPU's memory was busy.", Unit::Ratio)
                .query(gpu, each("memory_busy_ratio"))
                .max(1.0)
                .width(6),
            Panel::timeseries("Temperature", "Above the line an alert begins.", Unit::Celsius)
                .query(gpu, each("temperature_celsius"))
                .limit(limits.temperature)
                .width(6),
            Panel::timeseries("Power", "What each GPU draws.", Unit::Watts).query(gpu, each("power_watts")).width(6),
            Panel::timeseries(
                "Out of memory",
                "Batches that did not fit: they are split and tried again.",
                Unit::Count,
            )
            .query(gpu, out_of_memory)
            .width(24),
        ],
    )
}

fn dcgm() -> Row {
    let gpu = "{{Hostname}} {{gpu}}";
    Row::new(
        "GPUs (NVIDIA's DCGM exporter)",
        vec![
            Panel::timeseries("GPU utilization", "Share of time that the GPU ran any kernel.", Unit::Ratio)
                .query(gpu, r#"DCGM_FI_DEV_GPU_UTIL{job="dcgm"} / 100"#)
                .max(1.0)
                .width(6),
            Panel::timeseries("GPU memory", "Bytes in use on each GPU.", Unit::Bytes)
                .query(gpu, r#"DCGM_FI_DEV_FB_USED{job="dcgm"} * 1048576"#)
                .width(6),
            Panel::timeseries("GPU temperature", "Temperature of each GPU.", Unit::Celsius)
                .query(gpu, r#"DCGM_FI_DEV_GPU_TEMP{job="dcgm"}"#)
                .width(6),
            Panel::timeseries("GPU power", "What each GPU draws.", Unit::Watts)
                .query(gpu, r#"DCGM_FI_DEV_POWER_USAGE{job="dcgm"}"#)
                .width(6),
        ],
    )
}

fn processes(limits: &Limits) -> Row {
    let all = r#"job=~"forebay|forebay-aggregator""#;
    Row::new(
        "Processes",
        vec![
            Panel::timeseries("CPU by process", "Processor seconds per second; 1 is one core.", Unit::Number)
                .query(WHO, format!("rate({}[$__rate_interval])", format_args!("process_cpu_seconds_total{{{all}}}")))
                .limit(limits.cpu),
            Panel::timeseries("Memory by process", "Resident memory.", Unit::Bytes)
                .query(WHO, format!("process_resident_memory_bytes{{{all}}}"))
                .limit(limits.memory),
            Panel::timeseries(
                "Open files",
                "Open files and connections, as a share of what the process may have.",
                Unit::Ratio,
            )
            .query(WHO, format!("process_open_fds{{{all}}} / process_max_fds{{{all}}}")),
        ],
    )
}

fn hosts(limits: &Limits) -> Row {
    let disk = |what: &str| {
        let real = r#"job="node", fstype!~"tmpfs|ramfs|overlay|squashfs", mountpoint!~"/(boot|run|sys|proc|dev).*""#;
        format!("node_filesystem_{what}_bytes{{{real}}}")
    };
    let node_rate = |name: &str, more: &str| format!(r#"(rate({name}{{job="node", {more}}}[$__rate_interval]))"#);
    let idle = node_rate("node_cpu_seconds_total", r#"mode="idle""#);
    let network = |way: &str| {
        let rate = node_rate(&format!("node_network_{way}_bytes_total"), r#"device!="lo""#);
        format!("sum by (instance) {rate}")
    };
    Row::new(
        "Hosts",
        vec![
            Panel::timeseries("Host CPU, as workers see it", "Busy share of all processors of a host.", Unit::Ratio)
                .query(WHO, at("forebay_worker_host_cpu_ratio", ""))
                .max(1.0),
            Panel::timeseries(
                "Host memory, as workers see it",
                "Memory in use on a host, without caches.",
                Unit::Bytes,
            )
            .query(WHO, at("forebay_worker_host_memory_used_bytes", "")),
            Panel::timeseries("Free disk space", "Free share of each file system, from node_exporter.", Unit::Ratio)
                .query("{{instance}} {{mountpoint}}", format!("{} / {}", disk("avail"), disk("size")))
                .max(1.0)
                .limit(limits.disk_free),
            Panel::timeseries("Host CPU", "Busy share of all processors, from node_exporter.", Unit::Ratio)
                .query("{{instance}}", format!("1 - avg by (instance) {idle}"))
                .max(1.0),
            Panel::timeseries("Host memory", "Share of memory that is in use, from node_exporter.", Unit::Ratio)
                .query(
                    "{{instance}}",
                    r#"1 - node_memory_MemAvailable_bytes{job="node"} / node_memory_MemTotal_bytes{job="node"}"#,
                )
                .max(1.0),
            Panel::timeseries("Network", "Received and sent, from node_exporter.", Unit::BytesPerSecond)
                .query("{{instance}} in", network("receive"))
                .query("{{instance}} out", network("transmit")),
        ],
    )
}

/// As the rules record it: the series of cAdvisor overlap, and what is a pod has another name in each place.
fn containers(limits: &Limits) -> Row {
    Row::new(
        "Containers (cAdvisor or kubelet)",
        vec![
            Panel::timeseries("CPU by container", "Processor seconds per second; 1 is one core.", Unit::Number)
                .query("{{namespace}} {{pod}}", "forebay:pod:container_cpu_cores:rate5m")
                .limit(limits.cpu)
                .width(12),
            Panel::timeseries("Memory by container", "What counts against the limit of the container.", Unit::Bytes)
                .query("{{namespace}} {{pod}}", "forebay:pod:container_memory_bytes:sum")
                .limit(limits.memory)
                .width(12),
        ],
    )
}

fn monitoring() -> Row {
    Row::new(
        "Monitoring itself",
        vec![
            Panel::timeseries("Scrape duration", "Seconds that Prometheus takes for a page.", Unit::Seconds).query(
                "{{job}} {{instance}}",
                r#"scrape_duration_seconds{job=~"forebay|forebay-aggregator|prometheus"}"#,
            ),
            Panel::timeseries("Samples per scrape", "Series on each page.", Unit::Count)
                .query("{{job}} {{instance}}", r#"scrape_samples_scraped{job=~"forebay|forebay-aggregator"}"#),
            Panel::timeseries("Series cut", "Series per second that the aggregator left out.", Unit::PerSecond).query(
                "{{reason}}",
                format!("sum by (reason) ({})", promql::rate("forebay_series_dropped_total", "$__rate_interval")),
            ),
        ],
    )
}
