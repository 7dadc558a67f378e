//! placeholder until the kernels are merged
use crate::device::Precision;
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}
fn none() -> Launch {
    Launch { kernel: "none", grid: [1, 1, 1], block: [1, 1, 1], shared_bytes: 0 }
}
pub fn embed_norm(_: Precision, _: usize, _: usize) -> Launch {
    none()
}
pub fn layer_norm(_: Precision, _: usize, _: usize) -> Launch {
    none()
}
pub fn bias_gelu(_: Precision, _: usize, _: usize) -> Launch {
    none()
}
pub fn attention(_: Precision, _: usize, _: usize, _: usize) -> Launch {
    none()
}
pub fn pool(_: Precision, _: usize, _: usize) -> Launch {
    none()
}
pub fn attention_tiles(_: &[u32], out: &mut Vec<u32>) {
    out.clear();
}
