//! Against a stand-in for the driver's library, made by the system's C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const SLICE: &str = "MIG-dddd0000-0000-0000-0000-000000000000";
const WHOLE: &str = "GPU-aaaa0000-0000-0000-0000-000000000000";

/// The library in `folder`; `None`, and a word why, on a machine without a compiler.
fn build(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("stand_in.c"), folder.join("libnvidia-ml.so.1"));
    std::fs::write(&source, include_str!("stand_in.c")).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"];
    match Command::new(&compiler).args(flags).arg(&library).arg(&source).status() {
        Ok(status) => assert!(status.success(), "the stand-in does not compile"),
        Err(error) => {
            eprintln!("not run: no {}: {error}", compiler.display());
            return None;
        }
    }
    Some(library)
}

fn with_driver(test: impl FnOnce(&Driver)) {
    let folder = tempfile::tempdir().unwrap();
    if let Some(library) = build(folder.path()) {
        test(&Driver::open(library.as_os_str()).unwrap());
    }
}

#[test]
fn slices_follow_their_gpu_and_a_lost_gpu_is_told_of() {
    with_driver(|driver| {
        let gpus = driver.list().unwrap();
        assert_eq!(gpus.driver_version, "580.65.06");
        let shown: Vec<String> = gpus.all.iter().map(ToString::to_string).collect();
        let expected = [
            "GPU-aaaa0000 NVIDIA H100 80GB HBM3, 85.9 GB",
            "GPU-bbbb0000 NVIDIA H200, 151.4 GB",
            "MIG-cccc0000 NVIDIA H200 MIG 1g.18gb, 19.3 GB",
            "MIG-dddd0000 NVIDIA H200 MIG 2g.35gb, 37.6 GB",
        ];
        assert_eq!(shown, expected);
        assert_eq!(gpus.all[1].form, Form::Divided);
        assert_eq!(gpus.all[3].form, Form::Slice { of: gpus.all[1].uuid.clone() });
        assert_eq!(gpus.all[0].capability, Some((9, 0)));
        assert_eq!(gpus.visible(None).len(), 3);
        assert!(gpus.ailing.len() == 1 && gpus.ailing[0].starts_with("GPU 2: "), "{:?}", gpus.ailing);
    });
}

#[test]
fn a_whole_gpu_tells_everything() {
    with_driver(|driver| {
        let expected = Readings {
            used_bytes: Some(1 << 30),
            capacity_bytes: Some(80 << 30),
            utilization: Some(0.87),
            memory_busy: Some(0.4),
            temperature_celsius: Some(61.0),
            power_watts: Some(412.5),
        };
        assert_eq!(driver.sampler(WHOLE).unwrap().read(), expected);
    });
}

#[test]
fn a_slice_has_its_own_memory_and_the_heat_of_its_gpu() {
    with_driver(|driver| {
        let expected = Readings {
            used_bytes: Some(1 << 30),
            capacity_bytes: Some(35 << 30),
            temperature_celsius: Some(61.0),
            power_watts: Some(412.5),
            ..Readings::default()
        };
        assert_eq!(driver.sampler(SLICE).unwrap().read(), expected);
        assert!(driver.sampler("GPU-ffff0000").is_none());
    });
}

#[test]
fn a_library_that_is_not_there_is_named_in_one_line() {
    let error = Driver::open(OsStr::new("/no/such/libnvidia-ml.so.1")).err().unwrap();
    assert!(error.contains("/no/such/libnvidia-ml.so.1") && error.lines().count() == 1, "{error}");
}
