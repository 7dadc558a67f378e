//! From one vector per token to one vector per sequence.

/// Sum over tokens, times `factor`.
///
/// * `tokens`: `[len, dim]`, `out`: `[dim]`
pub fn scaled_sum(tokens: &[f32], out: &mut [f32], factor: f32) {
    out.fill(0.0);
    for token in tokens.chunks_exact(out.len()) {
        out.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
    }
    out.iter_mut().for_each(|x| *x *= factor);
}

/// Largest value over tokens, NaN where a token is NaN.
///
/// * `tokens`: `[len, dim]`, `len > 0`, `out`: `[dim]`
pub fn maximum(tokens: &[f32], out: &mut [f32]) {
    out.fill(f32::NEG_INFINITY);
    for token in tokens.chunks_exact(out.len()) {
        out.iter_mut().zip(token).for_each(|(max, x)| {
            if x.is_nan() || *x > *max {
                *max = *x;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_summed_or_compared_by_dimension() {
        let mut out = [0.0; 2];
        scaled_sum(&[1.0, 2.0, 3.0, 6.0], &mut out, 0.5);
        assert_eq!(out, [2.0, 4.0]);
        maximum(&[1.0, 7.0, 3.0, 6.0], &mut out);
        assert_eq!(out, [3.0, 7.0]);
    }
}
