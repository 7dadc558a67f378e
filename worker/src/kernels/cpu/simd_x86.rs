//! Vectors of AVX-512 and AVX2 with FMA.
//!
//! The intrinsics that only compute are safe to name inside functions with the feature enabled; from these `inline(always)`
//! wrappers, which have no features of their own, every call needs the proof that is `self`.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the machine has AVX-512 F, VL, DQ and BW.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// Proof that the machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && has_avx2()
}

pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Panics without the instructions: [`super::Level::run`] asks first.
pub fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    fn inner<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }
    assert!(has_avx512(), "chosen only where it is there");
    // SAFETY: the features are there, as just asserted.
    unsafe { inner(kernel) }
}

/// Panics without the instructions: [`super::Level::run`] asks first.
pub fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma")]
    fn inner<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }
    assert!(has_avx2(), "chosen only where it is there");
    // SAFETY: the features are there, as just asserted.
    unsafe { inner(kernel) }
}

/// Safe wrappers of computing intrinsics.
macro_rules! compute {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $out {
            // SAFETY: a value of this type exists only where the machine has the instructions.
            unsafe { $body }
        }
    )*};
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 8;

    compute! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        scale_by_power_of_two(x: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(x, n);
        sum_lanes(v: __m512) -> f32 = _mm512_reduce_add_ps(v);
        max_lanes(v: __m512) -> f32 = _mm512_reduce_max_ps(v);
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: instructions by `self`, memory by the caller.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn load_part_or(self, p: *const f32, n: usize, fill: __m512) -> __m512 {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm512_mask_loadu_ps(fill, mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: instructions by `self`, memory by the caller.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
}

/// Lowest `n` of 16 lanes.
#[inline(always)]
fn mask16(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1u16 << n) - 1 }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;

    compute! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        scale_by_power_of_two(x: __m256, n: __m256) -> __m256 = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
        sum_lanes(v: __m256) -> f32 = {
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
        };
        max_lanes(v: __m256) -> f32 = {
            let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
        };
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: instructions by `self`, memory by the caller.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn load_part_or(self, p: *const f32, n: usize, fill: __m256) -> __m256 {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm256_blendv_ps(fill, _mm256_maskload_ps(p, mask8(n)), _mm256_castsi256_ps(mask8(n))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: instructions by `self`, memory by the caller.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: masked lanes are not touched; instructions by `self`, memory by the caller.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
}

/// Sign bits set in the lowest `n` of 8 lanes.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}
