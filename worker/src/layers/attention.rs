//! Multi-head self-attention over packed sequences.

use candle_core::{CpuStorage, CudaStorage, InplaceOp2, Layout, Result, Tensor, bail};

use super::PackedRows;
use super::storage::{expect_shape, floats, floats_mut};
use crate::device::Exec;
use crate::kernels::cpu::attention::Attention as Kernel;
use crate::kernels::cpu::linear::SharedOut;
use crate::kernels::cuda::run as cuda;

/// softmax(Q Kᵀ / √head_dim) V per head, every token over its own sequence.
///
/// * `qkv`: `[tokens, 3 · heads · head_dim]`: queries, keys and values side by side, of the device's type
/// * `rows`: which tokens belong together
/// * `out`: `[tokens, heads · head_dim]`, of the device's type
///
/// # Errors
/// If shapes do not belong together.
pub fn attention(
    exec: &Exec<'_>,
    qkv: &Tensor,
    rows: &PackedRows,
    heads: usize,
    head_dim: usize,
    out: &Tensor,
) -> Result<()> {
    let tokens = rows.tokens();
    expect_shape(qkv, &[tokens, 3 * heads * head_dim], "the input of attention")?;
    expect_shape(out, &[tokens, heads * head_dim], "the output of attention")?;
    out.inplace_op2(qkv, &Op { exec, rows, heads, head_dim })
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    rows: &'a PackedRows,
    heads: usize,
    head_dim: usize,
}

impl InplaceOp2 for Op<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, qkv: &CpuStorage, qkv_layout: &Layout) -> Result<()> {
        let qkv = floats(qkv, qkv_layout)?;
        let out = SharedOut::new(floats_mut(out, out_layout)?);
        let Self { exec, rows, heads, head_dim } = *self;
        let offsets = rows.offsets.as_slice();
        exec.split(heads, &|range| {
            // SAFETY: `out` is borrowed for this call, which returns after all parts; parts have disjoint heads.
            unsafe { Kernel { qkv, offsets, head_dim, heads, range, out }.compute(exec.level()) }
        });
        Ok(())
    }

    fn cuda_fwd(&self, out: &mut CudaStorage, out_layout: &Layout, qkv: &CudaStorage, layout: &Layout) -> Result<()> {
        let Some(rows) = &self.rows.on_device else { bail!("the boundaries of this batch are not on the GPU") };
        cuda::attention(self.exec, (out, out_layout), (qkv, layout), rows, self.heads, self.head_dim)
    }
}
