//! Word and position embeddings, normalised.

use candle_core::{CpuStorage, CudaStorage, InplaceOp3, Layout, Result, Tensor};

use super::PackedRows;
use super::norm::LayerNorm;
use super::storage::{expect_shape, floats, floats_mut};
use crate::device::{Device, Exec};
use crate::kernels::cpu::embedding::gather_sum;
use crate::kernels::cuda::run as cuda;

/// Two tables whose rows are added up per token, and the norm of the sum.
pub struct Embedding {
    /// `[vocab, dim]`
    words: Tensor,
    /// `[max_positions, dim]`, the segment embedding already added
    positions: Tensor,
    norm: LayerNorm,
}

impl Embedding {
    /// * `words`: `[vocab, dim]`; `positions`: `[max_positions, dim]`, both `f32`
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new(words: &Tensor, positions: &Tensor, norm: LayerNorm, device: &Device) -> Result<Self> {
        let place = |table: &Tensor| table.to_dtype(device.precision().dtype())?.to_device(device.tensors());
        Ok(Self { words: place(words)?, positions: place(positions)?, norm })
    }

    /// out\[t\] = layernorm(words\[ids\[t\]\] + positions\[t in its sequence\]).
    ///
    /// * `out`: `[tokens, dim]`, of the device's type
    ///
    /// # Errors
    /// If shapes do not belong together.
    ///
    /// # Panics
    /// If an id or a position is not in its table: batches are validated before.
    pub fn forward(&self, exec: &Exec<'_>, rows: &PackedRows, out: &Tensor) -> Result<()> {
        expect_shape(out, &[rows.tokens(), self.words.dim(1)?], "the output of an embedding")?;
        out.inplace_op3(&self.words, &self.positions, &Op { exec, rows, norm: &self.norm, dim: self.words.dim(1)? })?;
        // A GPU has done this in the same pass.
        if exec.cuda().is_none() { self.norm.forward(exec, out) } else { Ok(()) }
    }
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    norm: &'a LayerNorm,
    rows: &'a PackedRows,
    dim: usize,
}

impl InplaceOp3 for Op<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        words: &CpuStorage,
        words_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<()> {
        let (ids, position_ids) = (self.rows.ids.to_vec1::<u32>()?, self.rows.positions.to_vec1::<u32>()?);
        let (words, positions) = (floats(words, words_layout)?, floats(positions, positions_layout)?);
        gather_sum(words, positions, &ids, &position_ids, floats_mut(out, out_layout)?, self.dim);
        Ok(())
    }

    fn cuda_fwd(
        &self,
        out: &mut CudaStorage,
        out_layout: &Layout,
        words: &CudaStorage,
        words_layout: &Layout,
        positions: &CudaStorage,
        positions_layout: &Layout,
    ) -> Result<()> {
        let (words, positions) = ((words, words_layout), (positions, positions_layout));
        cuda::embed_norm(self.exec, self.rows, (out, out_layout), words, positions, self.norm.parts())
    }
}
