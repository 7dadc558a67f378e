//! Scaled dot-product attention over packed sequences, on strided views of one query-key-value product.
//!
//! Per sequence and head: scores = Q Kᵀ, softmax, answer = P V (Vaswani et al., 2017). Every token sees its whole sequence and
//! nothing else, so there is no mask. Keys and values are re-arranged into the panels that [`super::tile`] reads; scores are
//! computed for a block of queries at a time, which bounds the memory of a long sequence.

use std::cell::RefCell;
use std::ops::Range;

use super::Level;
use super::aligned::AlignedBuffer;
use super::linear::SharedOut;
use super::math::exp;
use super::packed::PANEL_VECTORS;
use super::simd::{Kernel, Simd};
use super::tile::{Left, Out, Right, panel};

/// Queries whose scores are held at a time.
const QUERY_BLOCK: usize = 32;

/// Attention for some heads of all sequences. Run once for all heads, or by several threads for disjoint ranges of heads.
pub struct Attention<'a> {
    /// `[tokens, 3 · heads · head_dim]`: queries, keys, values side by side
    pub qkv: &'a [f32],
    /// First token of each sequence, and the end of the last
    pub offsets: &'a [u32],
    pub head_dim: usize,
    /// Number of heads in `qkv`
    pub heads: usize,
    /// Heads to compute
    pub range: Range<usize>,
    /// `[tokens, heads · head_dim]`
    pub out: SharedOut,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    keys: AlignedBuffer,
    values: AlignedBuffer,
    scores: AlignedBuffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Attention<'_> {
    /// # Safety
    /// `out` must be alive, and nobody else may touch the columns of `range` meanwhile.
    ///
    /// # Panics
    /// If shapes do not belong together.
    pub unsafe fn compute(self, level: Level) {
        let (tokens, dim) = (self.offsets.last().map_or(0, |end| *end as usize), self.heads * self.head_dim);
        assert!(self.qkv.len() == tokens * 3 * dim && self.out.len() == tokens * dim, "shapes agree");
        assert!(self.range.end <= self.heads, "heads exist");
        assert!(self.offsets.is_sorted(), "offsets do not decrease");
        SCRATCH.with_borrow_mut(|scratch| level.run(Run { attention: self, scratch }));
    }
}

struct Run<'a, 'b> {
    attention: Attention<'a>,
    scratch: &'b mut Scratch,
}

impl Kernel for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attention { qkv, offsets, head_dim, heads, range, out } = self.attention;
        let dim = heads * head_dim;
        for bounds in offsets.windows(2) {
            let (from, len) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
            if len == 0 {
                continue;
            }
            for head in range.clone() {
                // SAFETY: `compute` checked shapes; the columns of `head` are this call's.
                unsafe {
                    let first = qkv.as_ptr().add(from * 3 * dim + head * head_dim);
                    let answer = out.as_mut_ptr().add(from * dim + head * head_dim);
                    one_head(s, self.scratch, first, 3 * dim, dim, len, head_dim, answer);
                }
            }
        }
    }
}

/// One head of one sequence. `q` points at its first query; keys follow `dim` floats later, values 2 · `dim`.
///
/// # Safety
/// Rows of `stride` floats from `q`, and of `dim` floats from `answer`, must be valid for `len` tokens.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a flat argument list keeps everything in registers
unsafe fn one_head<S: Simd>(
    s: S,
    scratch: &mut Scratch,
    q: *const f32,
    stride: usize,
    dim: usize,
    len: usize,
    head_dim: usize,
    answer: *mut f32,
) {
    let row = len.next_multiple_of(S::LANES);
    let scores = scratch.scores.room(row * len.min(QUERY_BLOCK)).as_mut_ptr();
    let keys = scratch.keys.room(row * head_dim);
    let values = scratch.values.room(len * head_dim.next_multiple_of(S::LANES));
    // SAFETY: rows are valid as promised by the caller; scratch has room for what is packed and computed.
    unsafe {
        pack_keys::<S>(q.add(dim), stride, len, head_dim, keys);
        pack_values::<S>(q.add(2 * dim), stride, len, head_dim, values);
        for block in (0..len).step_by(QUERY_BLOCK) {
            let rows = (len - block).min(QUERY_BLOCK);
            let left = Left { data: q.add(block * stride), stride, rows, k: head_dim };
            panels(s, left, keys, len, Out { data: scores, stride: row, bias: std::ptr::null(), add: false });
            let mut inverse_sums = [0.0; QUERY_BLOCK];
            for (i, inverse) in inverse_sums.iter_mut().enumerate().take(rows) {
                *inverse = 1.0 / exponentials(s, scores.add(i * row), len, 1.0 / (head_dim as f32).sqrt());
            }
            let left = Left { data: scores, stride: row, rows, k: len };
            let to = answer.add(block * dim);
            panels(s, left, values, head_dim, Out { data: to, stride: dim, bias: std::ptr::null(), add: false });
            for (i, inverse) in inverse_sums.iter().enumerate().take(rows) {
                scale(s, to.add(i * dim), head_dim, *inverse);
            }
        }
    }
}

/// out = left · right for all `columns` columns of a right side in panels.
///
/// # Safety
/// As [`panel`], for every panel.
#[inline(always)]
unsafe fn panels<S: Simd>(s: S, left: Left, right: &[f32], columns: usize, out: Out) {
    let width = PANEL_VECTORS * S::LANES;
    for first in (0..columns).step_by(width) {
        let columns = (columns - first).min(width);
        let data = right[first * left.k..].as_ptr();
        let b = Right { data, vectors: columns.div_ceil(S::LANES), columns };
        // SAFETY: as promised by the caller.
        unsafe { panel(s, left, b, Out { data: out.data.add(first), ..out }) }
    }
}

/// Panels of Kᵀ: `[head_dim, len]`, padded with zeroes to whole vectors.
///
/// # Safety
/// `len` rows of `head_dim` floats from `k`, `stride` apart, must be readable.
#[inline(always)]
unsafe fn pack_keys<S: Simd>(k: *const f32, stride: usize, len: usize, head_dim: usize, out: &mut [f32]) {
    let width = PANEL_VECTORS * S::LANES;
    for first in (0..len).step_by(width) {
        let keys = (len - first).min(width);
        let padded = keys.next_multiple_of(S::LANES);
        let panel = &mut out[first * head_dim..first * head_dim + padded * head_dim];
        for (i, row) in panel.chunks_exact_mut(padded).enumerate() {
            for (j, x) in row[..keys].iter_mut().enumerate() {
                // SAFETY: key `first + j < len`, element `i < head_dim`.
                *x = unsafe { *k.add((first + j) * stride + i) };
            }
            row[keys..].fill(0.0);
        }
    }
}

/// Panels of V: `[len, head_dim]`, padded with zeroes to whole vectors.
///
/// # Safety
/// `len` rows of `head_dim` floats from `v`, `stride` apart, must be readable.
#[inline(always)]
unsafe fn pack_values<S: Simd>(v: *const f32, stride: usize, len: usize, head_dim: usize, out: &mut [f32]) {
    let width = PANEL_VECTORS * S::LANES;
    for first in (0..head_dim).step_by(width) {
        let columns = (head_dim - first).min(width);
        let padded = columns.next_multiple_of(S::LANES);
        let panel = &mut out[first * len..first * len + padded * len];
        for (t, row) in panel.chunks_exact_mut(padded).enumerate() {
            for j in (0..padded).step_by(S::LANES) {
                let valid = (columns - j).min(S::LANES);
                // SAFETY: row `t < len` has `head_dim` floats from `v`, of which `valid` remain; `row` has `padded` floats.
                unsafe {
                    // No instruction-set value is at hand here; a plain copy vectorises by itself.
                    std::ptr::copy_nonoverlapping(v.add(t * stride + first + j), row.as_mut_ptr().add(j), valid);
                }
                row[j + valid..j + S::LANES].fill(0.0);
            }
        }
    }
}

/// Replaces scores by exp((score - largest) · scale) and returns their sum: softmax without the division, which is cheaper after
/// the product with the values.
///
/// # Safety
/// `row` must be valid for reading and writing `len` floats.
#[inline(always)]
unsafe fn exponentials<S: Simd>(s: S, row: *mut f32, len: usize, scale: f32) -> f32 {
    let whole = len - len % S::LANES;
    let rest = len - whole;
    // SAFETY: whole vectors end at `whole`, the rest has `rest` floats.
    unsafe {
        let tail = s.load_part_or(row.add(whole), rest, s.splat(f32::NEG_INFINITY));
        let mut largest = tail;
        for i in (0..whole).step_by(S::LANES) {
            largest = s.max(largest, s.load(row.add(i)));
        }
        let (largest, scale) = (s.splat(s.max_lanes(largest)), s.splat(scale));
        let mut sum = s.splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let e = exp(s, s.mul(s.sub(s.load(row.add(i)), largest), scale));
            s.store(row.add(i), e);
            sum = s.add(sum, e);
        }
        if rest > 0 {
            s.store_part(row.add(whole), exp(s, s.mul(s.sub(tail, largest), scale)), rest);
            sum = s.add(sum, s.load_part(row.add(whole), rest));
        }
        s.sum_lanes(sum)
    }
}

/// Multiplies `len` floats by `factor`.
///
/// # Safety
/// `row` must be valid for reading and writing `len` floats.
#[inline(always)]
unsafe fn scale<S: Simd>(s: S, row: *mut f32, len: usize, factor: f32) {
    for i in (0..len).step_by(S::LANES) {
        let valid = (len - i).min(S::LANES);
        // SAFETY: inside the row.
        unsafe { s.store_part(row.add(i), s.mul(s.load_part(row.add(i), valid), s.splat(factor)), valid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention by its definition, in double precision.
    fn reference(qkv: &[f32], offsets: &[u32], heads: usize, head_dim: usize) -> Vec<f64> {
        let dim = heads * head_dim;
        let at = |token: usize, part: usize, head: usize, i: usize| {
            qkv[token * 3 * dim + part * dim + head * head_dim + i] as f64
        };
        let mut out = vec![0.0; qkv.len() / 3];
        for bounds in offsets.windows(2) {
            let tokens = bounds[0] as usize..bounds[1] as usize;
            for head in 0..heads {
                for q in tokens.clone() {
                    let score = |k: usize| (0..head_dim).map(|i| at(q, 0, head, i) * at(k, 1, head, i)).sum::<f64>();
                    let weights: Vec<f64> =
                        tokens.clone().map(|k| (score(k) / (head_dim as f64).sqrt()).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for i in 0..head_dim {
                        let value = |(w, k): (&f64, usize)| w * at(k, 2, head, i);
                        out[q * dim + head * head_dim + i] =
                            weights.iter().zip(tokens.clone()).map(value).sum::<f64>() / sum;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn sequences_of_any_length_attend_to_themselves_only() {
        for (heads, head_dim) in [(2, 16), (1, 32), (3, 5), (2, 64)] {
            let dim = heads * head_dim;
            let offsets = [0u32, 1, 1, 8, 57, 130];
            let qkv: Vec<f32> = (0..130 * 3 * dim).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
            let expected = reference(&qkv, &offsets, heads, head_dim);
            for level in Level::available() {
                let mut out = vec![f32::NAN; 130 * dim];
                let shared = SharedOut::new(&mut out);
                for range in [0..1, 1..heads] {
                    let attention = Attention { qkv: &qkv, offsets: &offsets, head_dim, heads, range, out: shared };
                    // SAFETY: `out` is alive; one thread.
                    unsafe { attention.compute(level) };
                }
                for (got, expected) in out.iter().zip(&expected) {
                    assert!((*got as f64 - expected).abs() < 1e-5, "{} {heads}x{head_dim}", level.as_str());
                }
            }
        }
    }
}
