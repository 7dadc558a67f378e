//! Multi-head self-attention over packed sequences.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use super::storage::{expect_shape, floats, floats_mut};
use crate::device::Exec;
use crate::kernels::cpu::attention::Attention as Kernel;
use crate::kernels::cpu::linear::SharedOut;

/// softmax(Q Kᵀ / √head_dim) V per head, every token over its own sequence.
///
/// * `qkv`: `[tokens, 3 · heads · head_dim]`: queries, keys and values side by side, `f32`
/// * `offsets`: first token of each sequence, and the end of the last
/// * `out`: `[tokens, heads · head_dim]`, `f32`
///
/// # Errors
/// If shapes do not belong together.
pub fn attention(
    exec: &Exec<'_>,
    qkv: &Tensor,
    offsets: &[u32],
    heads: usize,
    head_dim: usize,
    out: &Tensor,
) -> Result<()> {
    let tokens = offsets.last().map_or(0, |end| *end as usize);
    expect_shape(qkv, &[tokens, 3 * heads * head_dim], "the input of attention")?;
    expect_shape(out, &[tokens, heads * head_dim], "the output of attention")?;
    out.inplace_op2(qkv, &Op { exec, offsets, heads, head_dim })
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    offsets: &'a [u32],
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
        let Self { exec, offsets, heads, head_dim } = *self;
        exec.split(heads, &|range| {
            // SAFETY: `out` is borrowed for this call, which returns after all parts; parts have disjoint heads.
            unsafe { Kernel { qkv, offsets, head_dim, heads, range, out }.compute(exec.level()) }
        });
        Ok(())
    }
}
