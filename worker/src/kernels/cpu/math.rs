//! Vectorised `exp` and the exact (erf) GELU.
//!
//! Both are branch-free and keep NaN: a broken weight must reach the output check, not vanish in a clamp.

use super::simd::Simd;

/// Inputs below would round to 0 or a subnormal; inputs above overflow.
const EXP_MIN: f32 = -87.0;
const EXP_MAX: f32 = 88.0;

/// e to the x, for every lane. Relative error below 2e-7 for inputs in `-87..=88`; inputs outside are clamped to that range.
///
/// Method: x = n ln 2 + r with |r| <= ln 2 / 2, then the Taylor series of e to the r up to the 7th power, times 2 to the n.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    /// 1.5 · 2²³: adding and subtracting it rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with so few bits that n times it is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // The bound comes first: where `x` is NaN, max and min answer with their second operand.
    let x = s.min(s.splat(EXP_MAX), s.max(s.splat(EXP_MIN), x));
    let n = s.sub(s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND)), s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.scale_by_power_of_two(p, n)
}

/// Beyond this, erf(x / √2) rounds to ±1 in `f32`.
const ERF_BOUND: f32 = 5.4;

/// erf(x / √2) / x as a polynomial in u = 2 (x / 5.4)² - 1: the Chebyshev interpolant of degree 14 on `-1..=1`, as powers of u.
/// It does not fall below 1 at the bound, so that clamping makes the tails exact.
const ERF_POLYNOMIAL: [f32; 15] = [
    2.618_562_3e-1,
    -1.306_562_6e-1,
    9.700_032e-2,
    -7.840_905e-2,
    6.421_266_5e-2,
    -5.153_409_4e-2,
    3.942_716e-2,
    -2.776_975_2e-2,
    1.887_209_2e-2,
    -1.371_831_8e-2,
    8.006_503e-3,
    -2.121_778_4e-3,
    1.207_169_1e-3,
    -2.140_421_2e-3,
    9.527_331e-4,
];

/// x · Φ(x) = x / 2 · (1 + erf(x / √2)) for every lane (Hendrycks and Gimpel, 2016, the exact form). Absolute error below 1e-6.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let bounded = s.min(s.splat(ERF_BOUND), s.max(s.splat(-ERF_BOUND), x));
    let u = s.fma(s.mul(bounded, bounded), s.splat(2.0 / (ERF_BOUND * ERF_BOUND)), s.splat(-1.0));
    let mut p = s.splat(ERF_POLYNOMIAL[14]);
    let mut i = 14;
    while i > 0 {
        i -= 1;
        p = s.fma(p, u, s.splat(ERF_POLYNOMIAL[i]));
    }
    let erf = s.min(s.splat(1.0), s.max(s.splat(-1.0), s.mul(p, bounded)));
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, erf, half)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Level};
    use super::*;

    struct Each<'a> {
        xs: &'a mut [f32],
        gelu: bool,
    }

    impl Kernel for Each<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for chunk in self.xs.chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk has LANES floats.
                unsafe {
                    let x = s.load(chunk.as_ptr());
                    s.store(chunk.as_mut_ptr(), if self.gelu { gelu(s, x) } else { exp(s, x) });
                }
            }
        }
    }

    /// erf by its Taylor series, in double precision.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn inputs(from: f32, to: f32) -> Vec<f32> {
        (0..1 << 14).map(|i| from + (to - from) * i as f32 / ((1 << 14) - 1) as f32).collect()
    }

    #[test]
    fn exp_is_within_a_few_units_in_the_last_place() {
        for level in Level::available() {
            let xs = inputs(EXP_MIN, EXP_MAX);
            let mut ys = xs.clone();
            level.run(Each { xs: &mut ys, gelu: false });
            for (x, y) in xs.iter().zip(&ys) {
                let exact = (*x as f64).exp();
                assert!((*y as f64 / exact - 1.0).abs() < 3e-7, "{} exp({x}) = {y}, exact {exact}", level.as_str());
            }
        }
    }

    #[test]
    fn gelu_is_exact_to_a_millionth() {
        for level in Level::available() {
            let xs = inputs(-5.0, 5.0);
            let mut ys = xs.clone();
            level.run(Each { xs: &mut ys, gelu: true });
            for (x, y) in xs.iter().zip(&ys) {
                let exact = 0.5 * *x as f64 * (1.0 + erf(*x as f64 / std::f64::consts::SQRT_2));
                assert!((*y as f64 - exact).abs() < 1.2e-6, "{} gelu({x}) = {y}, exact {exact}", level.as_str());
            }
        }
    }

    #[test]
    fn the_tails_are_exact_and_nan_survives() {
        for level in Level::available() {
            let mut xs = vec![0.0; 16];
            xs[..5].copy_from_slice(&[-1e30, -100.0, 100.0, 1e30, f32::NAN]);
            let mut ys = xs.clone();
            level.run(Each { xs: &mut xs, gelu: true });
            assert_eq!(xs[..4], [0.0, 0.0, 100.0, 1e30]);
            assert!(xs[4].is_nan());
            level.run(Each { xs: &mut ys, gelu: false });
            assert!(ys[0] < 1e-37 && ys[3] > 1e38 && ys[3].is_finite() && ys[4].is_nan());
        }
    }
}
