//! The register tile: the innermost loop of every matrix product here.
//!
//! A tile is up to `TILE_ROWS` × 3 vectors of the product, kept in registers over the whole inner dimension. Each element is
//! one chain of fused multiply-adds in the order of k, whatever the tile's shape: the answer for a row is the same, to the
//! last bit, in every batch, on any number of threads.
#![allow(clippy::needless_range_loop)] // counted loops over constants unroll, and leave the sums in registers

use super::simd::Simd;

/// Left side of a product: `rows` rows of `k` floats, `stride` floats apart.
#[derive(Clone, Copy)]
pub struct Left {
    pub data: *const f32,
    pub stride: usize,
    pub rows: usize,
    pub k: usize,
}

/// One panel of the right side: `k` rows of `vectors` vectors, back to back, of which `columns` columns count.
#[derive(Clone, Copy)]
pub struct Right {
    pub data: *const f32,
    pub vectors: usize,
    pub columns: usize,
}

/// Where the product goes: rows `stride` floats apart.
#[derive(Clone, Copy)]
pub struct Out {
    pub data: *mut f32,
    pub stride: usize,
    /// `columns` floats to add to every row, or null.
    pub bias: *const f32,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// One panel of a product: out = \[out +\] left · right \[+ bias\].
///
/// # Safety
/// `left.data` must be valid for reading `rows` rows, `right.data` for `k · vectors · LANES` floats, `out.bias` null or valid
/// for `columns` floats, and `out.data` for reading and writing `rows` rows of `columns` floats that nobody else touches
/// and that overlap none of the others; `vectors` must be 1, 2 or 3 and hold `columns`.
#[inline(always)]
pub unsafe fn panel<S: Simd>(s: S, left: Left, right: Right, out: Out) {
    // SAFETY: as promised by the caller.
    unsafe {
        match right.vectors {
            3 => rows::<S, 3>(s, left, right, out),
            2 => rows::<S, 2>(s, left, right, out),
            _ => rows::<S, 1>(s, left, right, out),
        }
    }
}

/// Cuts the rows into tiles of nearly equal height: 9 rows are 5 and 4, because a tile of one row would wait for its own sums.
///
/// # Safety
/// As [`panel`].
#[inline(always)]
unsafe fn rows<S: Simd, const NV: usize>(s: S, left: Left, right: Right, out: Out) {
    let tiles = left.rows.div_ceil(S::TILE_ROWS);
    let mut row = 0;
    for tile in 0..tiles {
        let height = (left.rows - row).div_ceil(tiles - tile);
        // SAFETY: `row + height <= left.rows`; the rest as promised by the caller.
        unsafe {
            let a = left.data.add(row * left.stride);
            let c = Out { data: out.data.add(row * out.stride), ..out };
            match height {
                8 if S::TILE_ROWS >= 8 => block::<S, 8, NV>(s, a, left, right, c),
                7 if S::TILE_ROWS >= 8 => block::<S, 7, NV>(s, a, left, right, c),
                6 if S::TILE_ROWS >= 8 => block::<S, 6, NV>(s, a, left, right, c),
                5 if S::TILE_ROWS >= 8 => block::<S, 5, NV>(s, a, left, right, c),
                4 => block::<S, 4, NV>(s, a, left, right, c),
                3 => block::<S, 3, NV>(s, a, left, right, c),
                2 => block::<S, 2, NV>(s, a, left, right, c),
                _ => block::<S, 1, NV>(s, a, left, right, c),
            }
        }
        row += height;
    }
}

/// One tile of `MR` rows × `NV` vectors.
///
/// # Safety
/// As [`panel`], for `MR` rows from `a` and `c.data`.
#[inline(always)]
unsafe fn block<S: Simd, const MR: usize, const NV: usize>(s: S, a: *const f32, left: Left, right: Right, c: Out) {
    let mut sums = [[s.splat(0.0); NV]; MR];
    let mut b = right.data;
    for p in 0..left.k {
        // SAFETY: `p < k`, rows and panel are readable as promised by the caller.
        unsafe {
            let mut bs = [s.splat(0.0); NV];
            for j in 0..NV {
                bs[j] = s.load(b.add(j * S::LANES));
            }
            for i in 0..MR {
                let x = s.splat(*a.add(i * left.stride + p));
                for j in 0..NV {
                    sums[i][j] = s.fma(x, bs[j], sums[i][j]);
                }
            }
            b = b.add(NV * S::LANES);
        }
    }
    if right.columns == NV * S::LANES {
        // SAFETY: all vectors of the tile are inside bias and out.
        unsafe { finish::<S, MR, NV>(s, &sums, c) }
    } else {
        // Through memory: a tile indexed by a loop that may end early would live there all along.
        let mut edge = [0.0; EDGE];
        let to = Out { data: edge.as_mut_ptr(), stride: NV * S::LANES, bias: std::ptr::null(), add: false };
        // SAFETY: `edge` holds the largest tile; the rest is as promised by the caller, for `columns` columns.
        unsafe {
            finish::<S, MR, NV>(s, &sums, to);
            for i in 0..MR {
                for column in 0..right.columns {
                    let to = c.data.add(i * c.stride + column);
                    let bias = if c.bias.is_null() { 0.0 } else { *c.bias.add(column) };
                    let sum = edge[i * NV * S::LANES + column] + bias;
                    *to = if c.add { sum + *to } else { sum };
                }
            }
        }
    }
}

/// Floats of the largest tile.
const EDGE: usize = 8 * 3 * 16;

/// Writes a whole tile: sums \[+ bias\] \[+ what is there\].
///
/// # Safety
/// `out` must be valid for `MR` rows of `NV` vectors, its bias null or valid for `NV` vectors.
#[inline(always)]
unsafe fn finish<S: Simd, const MR: usize, const NV: usize>(s: S, sums: &[[S::V; NV]; MR], out: Out) {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut bias = [s.splat(0.0); NV];
        if !out.bias.is_null() {
            for j in 0..NV {
                bias[j] = s.load(out.bias.add(j * S::LANES));
            }
        }
        for i in 0..MR {
            let row = out.data.add(i * out.stride);
            if out.add {
                for j in 0..NV {
                    let to = row.add(j * S::LANES);
                    s.store(to, s.add(s.add(sums[i][j], bias[j]), s.load(to)));
                }
            } else {
                for j in 0..NV {
                    s.store(row.add(j * S::LANES), s.add(sums[i][j], bias[j]));
                }
            }
        }
    }
}
