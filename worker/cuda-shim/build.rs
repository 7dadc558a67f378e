//! Answers the linker: for every library of CUDA that candle asks for there is an archive, and for every function of them a jump
//! through a table that is filled at run time.
//!
//! The archives are empty, but for the CUDA runtime's: that is the static one of the toolkit (`$CUDA_HOME/lib/libcudart_static.a`),
//! which opens the driver by itself. Without a toolkit it is empty too, which is enough for whatever does not link candle's kernels.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// An archive without members.
const EMPTY: &[u8] = b"!<arch>\n";

const LINKED: [&str; 5] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=symbols.txt");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let archives = out.join("archives");
    fs::create_dir_all(&archives)?;
    for name in LINKED {
        fs::write(archives.join(format!("lib{name}.a")), EMPTY)?;
    }
    fs::write(archives.join("libcudart.a"), runtime()?)?;
    println!("cargo::rustc-link-search=native={}", archives.display());
    let symbols: Vec<(String, String)> = fs::read_to_string("symbols.txt")?
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(|line| line.split_once(' ').map(|(library, name)| (library.to_owned(), name.to_owned())))
        .collect();
    fs::write(out.join("trampolines.rs"), trampolines(&symbols))
}

fn runtime() -> io::Result<Vec<u8>> {
    if env::var_os("CARGO_FEATURE_RUNTIME").is_none() {
        return Ok(EMPTY.to_vec());
    }
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let Some(home) = env::var_os("CUDA_HOME") else { return Ok(EMPTY.to_vec()) };
    let found = ["lib", "lib64"].map(|lib| Path::new(&home).join(lib).join("libcudart_static.a"));
    match found.iter().find(|path| path.is_file()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(path)
        }
        None => Ok(EMPTY.to_vec()),
    }
}

/// Rust source: the table's length, its names, and one jump per function.
fn trampolines(symbols: &[(String, String)]) -> String {
    let mut rust = format!("pub(crate) const NAMES: [(&str, &str); {}] = [\n", symbols.len());
    for (library, name) in symbols {
        let _ = writeln!(rust, "    ({library:?}, {name:?}),");
    }
    rust.push_str("];\n\nstd::arch::global_asm!(\n    r#\"\n.text\n");
    for (index, (_, name)) in symbols.iter().enumerate() {
        let _ = writeln!(rust, ".globl {name}\n.type {name}, @function\n{name}:");
        let _ = writeln!(rust, "    jmp *forebay_cuda_table+{}(%rip)\n.size {name}, . - {name}", index * 8);
    }
    rust.push_str("\"#,\n    options(att_syntax)\n);\n");
    rust
}
