//! Where CUDA's libraries are.

use std::path::PathBuf;

use crate::device::DeviceError;

/// Opens the driver and the libraries of CUDA 13: by the loader's own rules (`LD_LIBRARY_PATH`, `ldconfig`), then in
/// `$CUDA_HOME`, `$CUDA_PATH` and `/usr/local/cuda`.
pub(super) fn load() -> Result<(), DeviceError> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let homes = named.chain([PathBuf::from("/usr/local/cuda")]);
    let folders: Vec<PathBuf> = homes.flat_map(|home| [home.join("lib64"), home.join("lib")]).collect();
    forebay_cuda_shim::load(&folders).map_err(|error| DeviceError::Unavailable(error.to_string()))
}
