//! With the feature `cuda`: compiles `src/kernels/cuda/kernels.cu` into one image for all GPUs that `FOREBAY_CUDA_ARCH` names.
//!
//! `FOREBAY_CUDA_ARCH=80,86,89,90,100,120` holds machine code for each, and PTX of the lowest, which the driver compiles for GPUs
//! that are not in the list. The compiler is `$NVCC`, `$CUDA_HOME/bin/nvcc`, or the one on PATH.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SOURCES: &str = "src/kernels/cuda";

/// Hopper.
const DEFAULT_ARCHITECTURES: &str = "90a";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for variable in ["FOREBAY_CUDA_ARCH", "NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for entry in fs::read_dir(SOURCES).map_err(|error| format!("{SOURCES}: {error}"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            println!("cargo::rerun-if-changed={}", entry.path().display());
        }
    }
    let architectures = env::var("FOREBAY_CUDA_ARCH").unwrap_or_else(|_| DEFAULT_ARCHITECTURES.to_owned());
    let image = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.fatbin");
    let mut nvcc = Command::new(compiler());
    nvcc.args(["--fatbin", "-std=c++17", "-O3", "--compress-mode=size"]).args(generated_code(&architectures)?);
    nvcc.arg("-o").arg(&image).arg(Path::new(SOURCES).join("kernels.cu"));
    let output = nvcc.output().map_err(|error| {
        format!("{}: {error}; `make cuda` brings a compiler, or set CUDA_HOME or NVCC", nvcc.get_program().display())
    })?;
    if !output.status.success() {
        return Err(format!("nvcc failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    println!("cargo::rustc-env=FOREBAY_CUDA_ARCHITECTURES={architectures}");
    Ok(())
}

fn compiler() -> PathBuf {
    let in_home = |home| Path::new(&home).join("bin/nvcc");
    env::var_os("NVCC")
        .map(PathBuf::from)
        .or_else(|| env::var_os("CUDA_HOME").map(in_home))
        .unwrap_or_else(|| "nvcc".into())
}

/// One `-gencode` per architecture, and one for the PTX of the lowest: without its suffix, because only such PTX runs on later GPUs.
fn generated_code(architectures: &str) -> Result<Vec<String>, String> {
    let mut lowest: Option<u32> = None;
    let mut arguments = Vec::new();
    for architecture in architectures.split(',').map(str::trim) {
        let number = architecture.trim_end_matches(['a', 'f']).parse().map_err(|_| {
            format!("FOREBAY_CUDA_ARCH: {architecture:?} is no architecture: give a list such as 80,90a,100")
        })?;
        lowest = Some(lowest.map_or(number, |least| least.min(number)));
        arguments.push(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    if let Some(number) = lowest {
        arguments.push(format!("-gencode=arch=compute_{number},code=compute_{number}"));
    }
    Ok(arguments)
}
