//! Findings about GPUs: which there are, which a worker may use, and what is missing where there could be one.

use std::path::Path;

use forebay_worker::device::list::{COMPUTES_ON_GPUS, Form, Gpu, Gpus};
use forebay_worker::device::nvml::{self, LIBRARY};
use forebay_worker::device::settle::VISIBLE;

use super::Finding;

pub(super) fn examine() -> Vec<Finding> {
    let device_files = (0..64).filter(|i| Path::new(&format!("/dev/nvidia{i}")).exists()).count();
    let setting = std::env::var_os(VISIBLE).map(|setting| setting.to_string_lossy().into_owned());
    findings(COMPUTES_ON_GPUS, device_files, nvml::list(), setting.as_deref())
}

fn findings(computes: bool, device_files: usize, asked: Result<Gpus, String>, setting: Option<&str>) -> Vec<Finding> {
    let files = format!("{device_files} NVIDIA device file(s) in /dev");
    match asked {
        _ if !computes && device_files == 0 => {
            vec![Finding::ok("gpu", "no NVIDIA device file in /dev; this build computes on the CPU anyway")]
        }
        _ if !computes => {
            vec![Finding::warn("gpu", format!("{files}, not used: this build computes on the CPU"), "`make cuda`")]
        }
        Err(reason) if device_files == 0 => {
            vec![Finding::ok("gpu", format!("none: no NVIDIA device file in /dev, and {LIBRARY} says: {reason}"))]
        }
        Err(reason) => vec![Finding::warn(
            "gpu",
            format!("{files}, but {LIBRARY} cannot be asked: {reason}"),
            "install the driver's libraries; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )],
        Ok(gpus) => of_driver(&gpus, setting),
    }
}

fn of_driver(gpus: &Gpus, setting: Option<&str>) -> Vec<Finding> {
    let visible = gpus.visible(setting);
    let driver = &gpus.driver_version;
    let usable = visible.iter().map(|gpu| Finding::ok("gpu", described(gpu, driver)));
    let ailing = gpus.ailing.iter().map(|ailing| {
        Finding::warn(
            "gpu",
            format!("{ailing} (driver {driver})"),
            "look into `nvidia-smi` and `dmesg`; a reset or a reboot may help",
        )
    });
    let divided = gpus.all.iter().filter(|gpu| gpu.form == Form::Divided && !has_slices(gpu, gpus)).map(|gpu| {
        let remedy = "make some with `nvidia-smi mig -cgi … -C`, or switch MIG off with `nvidia-smi -mig 0`";
        Finding::warn("gpu", format!("{gpu} is in MIG mode and has no slice"), remedy)
    });
    let hidden = gpus.all.iter().filter(|gpu| gpu.is_device()).count().saturating_sub(visible.len());
    let hiding = (hidden > 0).then(|| {
        let text = format!("{hidden} more are hidden by {VISIBLE}={}", setting.unwrap_or_default());
        if visible.is_empty() {
            Finding::warn("gpu", text, format!("unset {VISIBLE} to use them"))
        } else {
            Finding::ok("gpu", text)
        }
    });
    let mut findings: Vec<Finding> = usable.chain(ailing).chain(divided).chain(hiding).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("gpu", format!("none, says driver {driver}")));
    }
    findings
}

fn has_slices(gpu: &Gpu, gpus: &Gpus) -> bool {
    gpus.all.iter().any(|one| matches!(&one.form, Form::Slice { of } if *of == gpu.uuid))
}

fn described(gpu: &Gpu, driver: &str) -> String {
    let capability = gpu.capability.map(|(major, minor)| format!(", compute {major}.{minor}")).unwrap_or_default();
    let part = match &gpu.form {
        Form::Slice { of } => format!(", a slice of {of}"),
        Form::Whole | Form::Divided => String::new(),
    };
    format!("{gpu}{capability}, driver {driver}{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, form: Form) -> Gpu {
        let name = "NVIDIA H100".to_owned();
        Gpu { uuid: uuid.to_owned(), name, memory_bytes: 80_000_000_000, capability: Some((9, 0)), form }
    }

    fn lines(all: Vec<Gpu>, setting: Option<&str>) -> Vec<String> {
        let gpus = Gpus { driver_version: "580.65".to_owned(), all, ailing: Vec::new() };
        findings(true, 1, Ok(gpus), setting).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_gpu_is_a_line_and_hidden_ones_are_counted() {
        let slice = Form::Slice { of: "GPU-bbbb".to_owned() };
        let all = vec![gpu("GPU-aaaa", Form::Whole), gpu("GPU-bbbb", Form::Divided), gpu("MIG-cccc", slice)];
        let whole = "ok    gpu: GPU-aaaa NVIDIA H100, 80.0 GB, compute 9.0, driver 580.65";
        let sliced = "ok    gpu: MIG-cccc NVIDIA H100, 80.0 GB, compute 9.0, driver 580.65, a slice of GPU-bbbb";
        assert_eq!(lines(all.clone(), None), [whole, sliced]);
        assert_eq!(lines(all.clone(), Some("0")), [whole, "ok    gpu: 1 more are hidden by CUDA_VISIBLE_DEVICES=0"]);
        assert!(lines(all, Some("-1"))[0].ends_with("→ unset CUDA_VISIBLE_DEVICES to use them"));
    }

    #[test]
    fn a_divided_gpu_without_slices_is_worth_a_warning() {
        assert!(lines(vec![gpu("GPU-bbbb", Form::Divided)], None)[0].contains("has no slice → make some"));
    }

    #[test]
    fn a_gpu_that_cannot_be_used_comes_with_a_remedy() {
        let line = |computes, files| findings(computes, files, Err("not found".to_owned()), None)[0].to_string();
        assert!(line(false, 1).ends_with("→ `make cuda`"));
        assert!(line(true, 1).contains("NVIDIA_DRIVER_CAPABILITIES"));
        assert!(line(true, 0).starts_with("ok ") && line(false, 0).starts_with("ok "));
    }
}
