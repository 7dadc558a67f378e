//! CUDA kernels of an encoder: what matrix products leave to do.
//!
//! `*.cu` is compiled by the build script; [`launch`] says with which grid each kernel is started, from shapes alone; `run` starts
//! them on candle's storages. The CPU kernels beside this folder are their twins and their reference. Without the feature `cuda`
//! every function of `run` is an error that cannot be reached, because no tensor is on a GPU.

pub mod launch;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
pub mod run;
#[cfg(feature = "cuda")]
pub mod run;
