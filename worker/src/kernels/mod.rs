//! Arithmetic on raw memory, one folder per kind of device.
//!
//! Kernels know nothing of models, tensors or batches; [`crate::layers`] wraps them in candle operations.

pub mod cpu;
pub mod cuda;
