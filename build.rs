//! Puts the rules of `monitoring/prometheus/rules` into the binary: `forebay up --monitoring` has them wherever it runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")));
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("monitoring/prometheus/rules");
    println!("cargo::rerun-if-changed={}", folder.display());
    let files = fs::read_dir(&folder)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", folder.display())))?;
    let mut files: Vec<PathBuf> = files.map(|file| Ok(file?.path())).collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    let mut list = "&[\n".to_owned();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(list, "    ({name:?}, include_str!({:?})),", path.display().to_string()).map_err(io::Error::other)?;
    }
    list.push(']');
    fs::write(Path::new(&variable("OUT_DIR")?).join("rules.rs"), list)
}
