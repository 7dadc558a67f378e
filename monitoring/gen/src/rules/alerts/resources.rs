use super::{Alert, critical, warning};
use crate::promql;
use crate::rules::ask::sum_increase;
use crate::values::Values;

pub fn alerts(values: &Values) -> Vec<Alert> {
    let limits = &values.resources;
    let memory = |mebibytes: f64| format!("forebay:pod:container_memory_bytes:sum > {mebibytes} * 1024 * 1024");
    let free = |below: f64| format!("forebay:instance_mountpoint:filesystem_free:ratio < {below}");
    let used = ["A pod uses much memory", "{{ $labels.pod }} uses {{ $value | humanize1024 }}B of memory."];
    let disk = [
        "A disk is nearly full",
        "{{ $value | humanizePercentage }} of {{ $labels.mountpoint }} on {{ $labels.instance }} are free.",
    ];
    let (high, most) = (&limits.memory_mebibytes, &limits.memory_critical_mebibytes);
    vec![
        critical("ForebayPodMemoryCritical", memory(most.above), &most.wait, used),
        warning("ForebayPodMemoryHigh", memory(high.above), &high.wait, used),
        warning(
            "ForebayPodCPUHigh",
            format!("forebay:pod:container_cpu_cores:rate5m > {} / 1000", limits.cpu_millicores.above),
            &limits.cpu_millicores.wait,
            ["A pod uses much CPU", "{{ $labels.pod }} uses {{ $value | humanize }} processors."],
        ),
        warning(
            "ForebayDeviceMemoryHigh",
            format!("forebay:process_device:device_memory:utilization > {}", limits.device_memory.above),
            &limits.device_memory.wait,
            [
                "A device's memory is nearly full",
                "{{ $labels.process }} uses {{ $value | humanizePercentage }} of the memory of {{ $labels.device }}.",
            ],
        ),
        warning(
            "ForebayDeviceOutOfMemory",
            format!("{} > {}", sum_increase("device", "forebay_device_oom_total", "15m"), limits.device_oom.above),
            &limits.device_oom.wait,
            [
                "A device runs out of memory",
                "Batches for which {{ $labels.device }} had no memory, in 15 minutes: {{ $value | humanize }}.",
            ],
        ),
        warning(
            "ForebayDeviceTemperatureHigh",
            format!("{} > {}", promql::gauge("forebay_device_temperature_celsius"), limits.device_temperature.above),
            &limits.device_temperature.wait,
            [
                "A GPU is hot",
                "{{ $labels.device }}, on which {{ $labels.process }} computes, has {{ $value | humanize }} °C.",
            ],
        ),
        critical(
            "ForebayDiskSpaceCritical",
            free(limits.disk_free_critical.below),
            &limits.disk_free_critical.wait,
            disk,
        ),
        warning("ForebayDiskSpaceLow", free(limits.disk_free.below), &limits.disk_free.wait, disk),
    ]
}
