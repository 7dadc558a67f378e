//! Word and position embeddings.

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};

use super::PackedRows;
use super::storage::{expect_shape, floats, floats_mut};
use crate::kernels::cpu::embedding::gather_sum;

/// Two tables whose rows are added up per token.
pub struct Embedding {
    /// `[vocab, dim]`
    words: Tensor,
    /// `[max_positions, dim]`, the segment embedding already added
    positions: Tensor,
}

impl Embedding {
    /// * `words`: `[vocab, dim]`; `positions`: `[max_positions, dim]`, both `f32`
    pub fn new(words: Tensor, positions: Tensor) -> Self {
        Self { words, positions }
    }

    /// out\[t\] = words\[ids\[t\]\] + positions\[t in its sequence\].
    ///
    /// * `out`: `[tokens, dim]`, `f32`
    ///
    /// # Errors
    /// If shapes do not belong together.
    ///
    /// # Panics
    /// If an id or a position is not in its table: batches are validated before.
    pub fn forward(&self, rows: &PackedRows, out: &Tensor) -> Result<()> {
        expect_shape(out, &[rows.tokens(), self.words.dim(1)?], "the output of an embedding")?;
        out.inplace_op3(&self.words, &self.positions, &Op { rows, dim: self.words.dim(1)? })
    }
}

struct Op<'a> {
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
}
