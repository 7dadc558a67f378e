//! Where CUDA's libraries are.

use std::path::PathBuf;

/// Opens the driver and the libraries of CUDA 13: by the loader's own rules (`LD_LIBRARY_PATH`, `ldconfig`), then in
/// `$CUDA_HOME`, `$CUDA_PATH` and `/usr/local/cuda`.
///
/// # Errors
/// Which of them is missing, and where it was looked for.
pub(super) fn load() -> Result<(), String> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let mut homes: Vec<PathBuf> = named.chain([PathBuf::from("/usr/local/cuda")]).collect();
    homes.dedup();
    let folders: Vec<PathBuf> = homes.iter().flat_map(|home| [home.join("lib64"), home.join("lib")]).collect();
    forebay_cuda_shim::load(&folders).map_err(|error| error.to_string())
}
