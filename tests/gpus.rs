//! The program on a machine with GPUs, as far as no GPU is needed for it: a stand-in for the driver's library lists them, and is found
//! as the real one is. What is refused is refused before CUDA is touched.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A folder with the stand-in in it; `None`, and a word why, on a machine without a compiler.
fn driver() -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker/src/device/nvml/stand_in.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let library = folder.path().join("libnvidia-ml.so.1");
    match Command::new(&compiler).args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status() {
        Ok(status) => assert!(status.success(), "the stand-in does not compile"),
        Err(error) => {
            eprintln!("not run: no {}: {error}", compiler.display());
            return None;
        }
    }
    Some(folder)
}

/// Both outputs of the program, with CUDA's variable set to `visible`.
fn run(driver: &TempDir, visible: Option<&str>, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(arguments)
        .current_dir(driver.path())
        .env("LD_LIBRARY_PATH", driver.path())
        .env_remove("FOREBAY_DEVICE");
    match visible {
        Some(setting) => command.env("CUDA_VISIBLE_DEVICES", setting),
        None => command.env_remove("CUDA_VISIBLE_DEVICES"),
    };
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), text)
}

#[test]
fn the_doctor_lists_what_can_compute_and_names_what_is_lost() {
    let Some(driver) = driver() else { return };
    let (_, report) = run(&driver, None, &["doctor"]);
    for line in [
        "ok    gpu: GPU-aaaa0000 NVIDIA H100 80GB HBM3, 85.9 GB, compute 9.0, driver 580.65.06\n",
        "ok    gpu: MIG-cccc0000 NVIDIA H200 MIG 1g.18gb, 19.3 GB, compute 9.0, driver 580.65.06, a slice of GPU-bbbb0000-",
        "ok    gpu: MIG-dddd0000 ",
        "warn  gpu: GPU 2: ",
    ] {
        assert!(report.contains(line), "{line}\n{report}");
    }
    assert!(!report.contains("gpu: GPU-bbbb0000"), "a divided GPU computes nothing itself\n{report}");
    let (_, report) = run(&driver, Some("MIG-dddd"), &["doctor"]);
    assert!(
        report.contains("gpu: MIG-dddd0000 ") && report.contains("2 more are hidden by CUDA_VISIBLE_DEVICES=MIG-dddd"),
        "{report}"
    );
}

#[test]
fn a_device_that_is_not_here_is_refused_with_what_there_is() {
    let Some(driver) = driver() else { return };
    for role in ["worker", "up"] {
        for device in ["cuda:3", "GPU-ffff", "GPU-bbbb0000", "cuda:MIG-eeee"] {
            let (worked, text) = run(&driver, None, &[role, "--model", "identity", "--device", device]);
            assert!(!worked && text.lines().count() == 1, "{text}");
            assert!(
                text.contains("is not here; there are GPU-aaaa0000 NVIDIA H100") && text.contains("MIG-dddd0000"),
                "{text}"
            );
        }
        let (worked, text) = run(&driver, Some("-1"), &[role, "--model", "identity", "--device", "cuda:0"]);
        assert!(!worked && text.contains("there is no GPU that this process may use"), "{text}");
    }
}
