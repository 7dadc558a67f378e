//! Linear layers on packed weights, with what follows them done while the numbers are still in cache.

use std::ops::Range;

use super::math::gelu;
use super::packed::PackedMatrix;
use super::simd::{Kernel, Simd};
use super::tile::{Left, Out, Right, panel};

/// Rows that go through all panels before the next rows do: their inputs and outputs stay in the second-level cache.
const ROW_BLOCK: usize = 96;

/// What happens to the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// out = x W + b
    Store,
    /// out = gelu(x W + b)
    Gelu,
    /// out = out + x W + b
    Add,
}

/// out = finish(x · weight + bias) for some panels of the weight. Run once for all panels, or by several threads at the same
/// time for disjoint ranges of panels.
pub struct Linear<'a> {
    /// `[rows, k]`
    pub x: &'a [f32],
    pub weight: &'a PackedMatrix,
    /// `[n]`
    pub bias: &'a [f32],
    /// `[rows, n]`
    pub out: SharedOut,
    pub panels: Range<usize>,
    pub finish: Finish,
}

/// Output that several threads write to, each its own columns.
#[derive(Clone, Copy)]
pub struct SharedOut {
    data: *mut f32,
    len: usize,
}

// SAFETY: only a pointer and a length; every use is unsafe and promises disjointness there.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

impl SharedOut {
    /// Wraps a buffer; the wrapper must not be used after the borrow ends.
    pub fn new(out: &mut [f32]) -> Self {
        Self { data: out.as_mut_ptr(), len: out.len() }
    }

    pub fn len(self) -> usize {
        self.len
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    pub fn as_mut_ptr(self) -> *mut f32 {
        self.data
    }
}

impl Linear<'_> {
    /// Computes with the instruction set that the weight is packed for.
    ///
    /// # Safety
    /// `out` must be alive, and nobody else may touch the columns of `panels` meanwhile.
    ///
    /// # Panics
    /// If shapes or instruction set do not belong together.
    pub unsafe fn compute(self, level: super::Level) {
        let (k, n) = (self.weight.k(), self.weight.n());
        assert!(level.lanes() == self.weight.lanes(), "packed for this instruction set");
        assert!(
            self.x.len().is_multiple_of(k) && self.bias.len() == n && self.out.len() == self.x.len() / k * n,
            "shapes agree"
        );
        assert!(self.panels.end <= self.weight.panels(), "panels exist");
        level.run(self);
    }
}

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (k, n) = (self.weight.k(), self.weight.n());
        let rows = self.x.len() / k;
        for from in (0..rows).step_by(ROW_BLOCK) {
            let height = (rows - from).min(ROW_BLOCK);
            for p in self.panels.clone() {
                let right = self.weight.panel(p);
                // SAFETY: `compute` checked that x holds rows × k, out rows × n and bias n floats; the panel's columns are ours.
                unsafe {
                    let left = Left { data: self.x.as_ptr().add(from * k), stride: k, rows: height, k };
                    let out = Out {
                        data: self.out.data.add(from * n + right.first),
                        stride: n,
                        bias: self.bias.as_ptr().add(right.first),
                        add: self.finish == Finish::Add,
                    };
                    let b = Right { data: right.data.as_ptr(), vectors: right.vectors, columns: right.columns };
                    panel(s, left, b, out);
                    if self.finish == Finish::Gelu {
                        gelu_block(s, out.data, n, height, right.columns);
                    }
                }
            }
        }
    }
}

/// GELU in place on a block of `rows` × `columns`, rows `stride` floats apart.
///
/// # Safety
/// The block must be valid for reading and writing.
#[inline(always)]
unsafe fn gelu_block<S: Simd>(s: S, data: *mut f32, stride: usize, rows: usize, columns: usize) {
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let valid = (columns - column).min(S::LANES);
            // SAFETY: inside the block.
            unsafe {
                let at = data.add(row * stride + column);
                if valid == S::LANES {
                    s.store(at, gelu(s, s.load(at)));
                } else {
                    s.store_part(at, gelu(s, s.load_part(at, valid)), valid);
                }
            }
            column += S::LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Level;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    fn linear(level: Level, x: &[f32], w: &[f32], bias: &[f32], k: usize, finish: Finish, parts: usize) -> Vec<f32> {
        let weight = PackedMatrix::from_transposed(&[w], k, level);
        let mut out = vec![0.25; x.len() / k * bias.len()];
        let shared = SharedOut::new(&mut out);
        for part in 0..parts {
            let panels = weight.panels() * part / parts..weight.panels() * (part + 1) / parts;
            // SAFETY: `out` is alive; one thread.
            unsafe { Linear { x, weight: &weight, bias, out: shared, panels, finish }.compute(level) }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_of_any_shape_match_the_definition(rows in 1usize..20, k in 1usize..40, n in 1usize..120, seed: u64) {
            let (x, w, bias) = (numbers(rows * k, seed), numbers(n * k, seed ^ 7), numbers(n, seed ^ 9));
            for level in Level::available() {
                let got = linear(level, &x, &w, &bias, k, Finish::Add, 2);
                for row in 0..rows {
                    for column in 0..n {
                        let dot: f64 = (0..k).map(|i| x[row * k + i] as f64 * w[column * k + i] as f64).sum();
                        let expected = 0.25 + dot + bias[column] as f64;
                        prop_assert!((got[row * n + column] as f64 - expected).abs() < 1e-5);
                    }
                }
            }
        }

        #[test]
        fn a_row_is_the_same_bits_in_any_company(rows in 1usize..20, row in 0usize..20, seed: u64) {
            let (k, n, row) = (33, 70, row % rows);
            let (x, w, bias) = (numbers(rows * k, seed), numbers(n * k, seed ^ 7), numbers(n, seed ^ 9));
            for level in Level::available() {
                let all = linear(level, &x, &w, &bias, k, Finish::Gelu, 1);
                let alone = linear(level, &x[row * k..(row + 1) * k], &w, &bias, k, Finish::Gelu, 2);
                prop_assert_eq!(&all[row * n..(row + 1) * n], &alone[..]);
            }
        }
    }
}
