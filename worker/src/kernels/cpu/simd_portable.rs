//! Vectors as arrays: compiles everywhere, to whatever the target's baseline has (SSE2, NEON).

use super::Simd;

/// Four lanes: what SSE2 and NEON have.
#[derive(Clone, Copy)]
pub struct Portable;

const N: usize = 4;

/// Applies `f` lane by lane. A macro, because a closure would not be inlined reliably.
macro_rules! lanes {
    ($i:ident => $value:expr) => {{
        let mut out = [0.0f32; N];
        let mut $i = 0;
        while $i < N {
            out[$i] = $value;
            $i += 1;
        }
        out
    }};
}

impl Simd for Portable {
    type V = [f32; N];
    const LANES: usize = N;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Where the baseline has no fused instruction, `mul_add` would be a call into libm.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            lanes!(i => a[i].mul_add(b[i], c[i]))
        } else {
            lanes!(i => a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, x: Self::V, n: Self::V) -> Self::V {
        lanes!(i => x[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn sum_lanes(self, v: Self::V) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn max_lanes(self, v: Self::V) -> f32 {
        v[0].max(v[1]).max(v[2].max(v[3]))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller promises N readable floats.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller promises n readable floats.
        lanes!(i => if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_part_or(self, p: *const f32, n: usize, fill: Self::V) -> Self::V {
        // SAFETY: the caller promises n readable floats.
        lanes!(i => if i < n { unsafe { *p.add(i) } } else { fill[i] })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller promises N writable floats.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller promises n writable floats.
            unsafe { *p.add(i) = *x }
        }
    }
}
