//! CPU kernels: `f32`, one thread each, vectorised for the machine they run on.
//!
//! [`simd`] chooses the instruction set, [`tile`] is the innermost loop of every product, [`packed`] the weights in the order it
//! reads them. The rest are the pieces of an encoder layer. Callers split work over threads.

pub mod aligned;
pub mod attention;
pub mod embedding;
pub mod linear;
pub mod math;
pub mod norm;
pub mod packed;
pub mod pooling;
pub mod simd;
pub mod tile;

pub use simd::Level;
