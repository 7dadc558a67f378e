//! LayerNorm and L2 normalisation of rows, in place.

use super::Level;
use super::simd::{Kernel, Simd};

/// y = (x - mean) / sqrt(variance + epsilon) · weight + bias for every row (Ba, Kiros and Hinton, 2016).
pub struct LayerNorm<'a> {
    /// `[rows, dim]`, in place
    pub x: &'a mut [f32],
    /// `[dim]`
    pub weight: &'a [f32],
    /// `[dim]`
    pub bias: &'a [f32],
    pub epsilon: f32,
}

impl LayerNorm<'_> {
    /// # Panics
    /// If shapes do not belong together.
    pub fn compute(self, level: Level) {
        let dim = self.weight.len();
        assert!(dim > 0 && self.bias.len() == dim && self.x.len().is_multiple_of(dim), "shapes agree");
        level.run(self);
    }
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.weight.len()) {
            layer_norm(s, row, self.weight, self.bias, self.epsilon);
        }
    }
}

/// One row. Two passes for mean and variance: the one-pass formula cancels badly when the mean is large.
#[inline(always)]
pub fn layer_norm<S: Simd>(s: S, row: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let dim = row.len();
    debug_assert!(weight.len() == dim && bias.len() == dim, "checked by the caller");
    let (at, whole) = (row.as_mut_ptr(), dim - dim % S::LANES);
    let rest = dim - whole;
    let per_dim = 1.0 / dim as f32;
    // SAFETY: row, weight and bias hold `dim` floats; whole vectors end at `whole`, the rest has `rest` floats.
    unsafe {
        let mut sum = s.load_part(at.add(whole), rest);
        for i in (0..whole).step_by(S::LANES) {
            sum = s.add(sum, s.load(at.add(i)));
        }
        let mean = s.splat(s.sum_lanes(sum) * per_dim);
        let mut squares = s.splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let d = s.sub(s.load(at.add(i)), mean);
            squares = s.fma(d, d, squares);
        }
        let mut square_sum = s.sum_lanes(squares);
        for x in &row[whole..] {
            let d = *x - s.sum_lanes(sum) * per_dim;
            square_sum += d * d;
        }
        let scale = s.splat(1.0 / (square_sum * per_dim + epsilon).sqrt());
        for i in (0..whole).step_by(S::LANES) {
            let y = s.mul(s.sub(s.load(at.add(i)), mean), scale);
            s.store(at.add(i), s.fma(y, s.load(weight.as_ptr().add(i)), s.load(bias.as_ptr().add(i))));
        }
        let y = s.mul(s.sub(s.load_part(at.add(whole), rest), mean), scale);
        let (w, b) = (s.load_part(weight.as_ptr().add(whole), rest), s.load_part(bias.as_ptr().add(whole), rest));
        s.store_part(at.add(whole), s.fma(y, w, b), rest);
    }
}

/// Scales a row to length 1. A row of zeroes stays as it is, as in the reference (torch's `normalize`, eps 1e-12).
pub fn l2_normalize(row: &mut [f32]) {
    // Summed in double precision: rows are few and short compared with the layers before.
    let length = row.iter().map(|x| *x as f64 * *x as f64).sum::<f64>().sqrt().max(1e-12);
    let scale = (1.0 / length) as f32;
    row.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_get_mean_zero_and_variance_one() {
        for level in Level::available() {
            for dim in [1, 3, 4, 15, 16, 17, 64, 100] {
                let mut x: Vec<f32> = (0..2 * dim).map(|i| ((i * 7919) % 31) as f32 + 100.0).collect();
                let (weight, bias) = (vec![2.0; dim], vec![0.5; dim]);
                let expected: Vec<f64> = x
                    .chunks(dim)
                    .flat_map(|row| {
                        let mean = row.iter().map(|x| *x as f64).sum::<f64>() / dim as f64;
                        let variance = row.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / dim as f64;
                        row.iter()
                            .map(move |x| (*x as f64 - mean) / (variance + 1e-12).sqrt() * 2.0 + 0.5)
                            .collect::<Vec<_>>()
                    })
                    .collect();
                LayerNorm { x: &mut x, weight: &weight, bias: &bias, epsilon: 1e-12 }.compute(level);
                for (got, expected) in x.iter().zip(expected) {
                    assert!((*got as f64 - expected).abs() < 1e-4, "{} dim {dim}: {got} {expected}", level.as_str());
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeroes_stays_zero() {
        let mut row = [0.0; 4];
        l2_normalize(&mut row);
        assert_eq!(row, [0.0; 4]);
        let mut row = [3.0, 4.0];
        l2_normalize(&mut row);
        assert!((row[0] - 0.6).abs() < 1e-7 && (row[1] - 0.8).abs() < 1e-7);
    }
}
