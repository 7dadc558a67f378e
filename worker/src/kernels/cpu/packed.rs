//! Weights in the order in which the matrix kernel reads them.
//!
//! The general matrix product re-arranges its right side on every call, which for a short sentence costs more than the product.
//! Weights do not change, so they are arranged once, at load: panels of three vectors' width, each stored row by row, so that
//! the kernel reads memory strictly forward.

use super::aligned::AlignedBuffer;
use super::simd::Level;

/// Vectors per panel row. With [`super::simd::Simd::TILE_ROWS`] rows it fills the register file of each instruction set.
pub const PANEL_VECTORS: usize = 3;

/// A matrix `[k, n]` in panels. Panel p holds columns `p · width ..`, as `[k, width]`; the last panel is only as many vectors
/// wide as it needs, its missing columns are 0.
pub struct PackedMatrix {
    data: AlignedBuffer,
    k: usize,
    n: usize,
    lanes: usize,
}

impl PackedMatrix {
    /// Packs the transpose of `weights`, matrices `[n_i, k]` row-major (as a linear layer stores them) put side by side.
    ///
    /// Panics if a matrix is not a whole number of rows of `k`.
    pub fn from_transposed(weights: &[&[f32]], k: usize, level: Level) -> Self {
        assert!(weights.iter().all(|w| w.len() % k == 0), "a weight matrix has rows of the input's length");
        let rows: Vec<&[f32]> = weights.iter().flat_map(|w| w.chunks_exact(k)).collect();
        let (n, lanes) = (rows.len(), level.lanes());
        let width = PANEL_VECTORS * lanes;
        let mut buffer = AlignedBuffer::zeros(n.next_multiple_of(lanes) * k);
        let data = buffer.as_mut_slice();
        for (panel, rows) in rows.chunks(width).enumerate() {
            let panel_width = rows.len().next_multiple_of(lanes);
            let start = panel * width * k;
            let out = &mut data[start..start + panel_width * k];
            for (column, row) in rows.iter().enumerate() {
                for (i, x) in row.iter().enumerate() {
                    out[i * panel_width + column] = *x;
                }
            }
        }
        Self { data: buffer, k, n, lanes }
    }

    /// Length of the product's inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Vector width that this was packed for.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL_VECTORS * self.lanes)
    }

    /// One panel: its first column, its valid columns, and its memory `[k, width]`.
    pub fn panel(&self, panel: usize) -> Panel<'_> {
        let width = PANEL_VECTORS * self.lanes;
        let first = panel * width;
        let columns = (self.n - first).min(width);
        let start = first * self.k;
        let vectors = columns.div_ceil(self.lanes);
        Panel { first, columns, vectors, data: &self.data.as_slice()[start..start + vectors * self.lanes * self.k] }
    }
}

/// A view of one panel.
pub struct Panel<'a> {
    pub first: usize,
    pub columns: usize,
    pub vectors: usize,
    pub data: &'a [f32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_lands_in_its_panel() {
        for level in Level::available() {
            let (k, n) = (5, 61);
            let all: Vec<f32> = (0..n * k).map(|i| i as f32 + 1.0).collect();
            let (first, second) = all.split_at(17 * k);
            let packed = PackedMatrix::from_transposed(&[first, second], k, level);
            assert_eq!((packed.k(), packed.n()), (k, n));
            let mut seen = 0;
            for p in 0..packed.panels() {
                let panel = packed.panel(p);
                assert!(level.lanes() < 16 || (panel.data.as_ptr() as usize).is_multiple_of(64));
                let width = panel.data.len() / k;
                assert_eq!(width, panel.vectors * level.lanes());
                for i in 0..k {
                    for j in 0..width {
                        let expected = if j < panel.columns { all[(panel.first + j) * k + i] } else { 0.0 };
                        assert_eq!(panel.data[i * width + j], expected);
                    }
                }
                seen += panel.columns;
            }
            assert_eq!(seen, n);
        }
    }
}
