//! One binary for machines with and without CUDA.
//!
//! candle's CUDA backend is linked against the driver and four libraries, so a binary with it would not start where they are not
//! installed. This crate takes their place at link time: `build.rs` gives the linker empty archives under their names and a
//! function under every name that is used, which jumps to an address in a table. [`load`] opens the real libraries and fills the table.
//!
//! Invariants: nothing of CUDA may be called before [`load`] has succeeded (the table then points at a function that says so and
//! aborts); [`load`] fills all of the table or none of it; the libraries stay open until the process ends.
//!
//! Costs one indirect jump per call of the driver. x86-64 only: on other processors [`load`] says so.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

#[cfg(target_arch = "x86_64")]
mod table;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_table.rs"]
mod table;

/// What is opened, in this order: the second and fifth are found by the third and sixth only if they are open already.
const LIBRARIES: [(&str, &str, bool); 6] = [
    ("cuda", "libcuda.so.1", true),
    ("cublasLt", "libcublasLt.so.13", true),
    ("cublas", "libcublas.so.13", true),
    ("curand", "libcurand.so.10", true),
    // Compiles kernels at run time, which only candle's own custom modules would need.
    ("nvrtc-builtins", "libnvrtc-builtins.so.13.0", false),
    ("nvrtc", "libnvrtc.so.13", false),
];

/// Why CUDA cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{library} was not found (looked in the loader's path{}): {reason}", listed(.looked_in))]
    Missing { library: &'static str, looked_in: Vec<PathBuf>, reason: String },
    #[error("{library} has no function {function}: it is too old, CUDA 13.0 or newer is needed")]
    TooOld { library: &'static str, function: &'static str },
    #[error("this build can use CUDA on x86-64 only")]
    Processor,
}

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| format!(", {}", folder.display())).collect()
}

/// Opens CUDA's libraries and connects them. The loader's own search comes first, then each of `folders`. Later calls repeat the
/// result of the first.
///
/// # Errors
/// [`LoadError`] says which library was not found and where it was looked for, or what it lacks.
pub fn load(folders: &[PathBuf]) -> Result<(), LoadError> {
    static LOADED: OnceLock<Result<(), LoadError>> = OnceLock::new();
    LOADED.get_or_init(|| connect(folders)).clone()
}

fn connect(folders: &[PathBuf]) -> Result<(), LoadError> {
    if table::NAMES.is_empty() {
        return Err(LoadError::Processor);
    }
    let mut open: Vec<(&str, &'static str, Option<Library>)> = Vec::with_capacity(LIBRARIES.len());
    for (name, file, needed) in LIBRARIES {
        let library = match open_one(file, folders) {
            Ok(library) => Some(library),
            Err(_) if !needed => None,
            Err(reason) => {
                return Err(LoadError::Missing { library: file, looked_in: folders.to_vec(), reason });
            }
        };
        open.push((name, file, library));
    }
    let mut found: Vec<Option<*mut c_void>> = Vec::with_capacity(table::NAMES.len());
    for (library, function) in table::NAMES {
        let Some((_, file, opened)) = open.iter().find(|(name, ..)| *name == library) else {
            return Err(LoadError::TooOld { library: "the list of libraries", function });
        };
        found.push(match opened {
            None => None,
            // SAFETY: only the address is taken; whoever calls it declares its type, as with a linked function.
            Some(opened) => match unsafe { opened.get::<*mut c_void>(function.as_bytes()) } {
                Ok(symbol) => Some(symbol.into_raw()),
                Err(_) => return Err(LoadError::TooOld { library: file, function }),
            },
        });
    }
    table::fill(&found);
    // Never closed: the table points into them.
    for (_, _, library) in open {
        library.map(Library::into_raw);
    }
    Ok(())
}

fn open_one(file: &str, folders: &[PathBuf]) -> Result<Library, String> {
    let by_name = std::iter::once(PathBuf::from(file));
    let candidates = by_name.chain(folders.iter().map(|folder| folder.join(file)));
    let mut first = None;
    for path in candidates {
        match open(&path) {
            Ok(library) => return Ok(library),
            Err(reason) => {
                first.get_or_insert(reason);
            }
        }
    }
    Err(first.unwrap_or_default())
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: the initialisers of NVIDIA's libraries may run at any time and rely on nothing of ours. Global, because they look
    // for each other.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // What the loader says stands behind a sentence that only says that it said something.
    opened.map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cuda_is_told_what_is_missing_and_where_it_was_looked_for() {
        if Path::new("/proc/driver/nvidia").exists() {
            return;
        }
        let error = load(&[PathBuf::from("/no/such/folder")]).unwrap_err().to_string();
        assert!(error.contains("libcuda.so.1") && error.contains("/no/such/folder"), "{error}");
        assert_eq!(load(&[]).unwrap_err().to_string(), error, "later calls repeat the first");
    }
}
