//! How far two sets of rows are apart.

/// The worst row and the worst number of a comparison. Anything that is not finite is as far apart as can be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Least cosine of a row with its reference.
    pub cosine: f64,
    /// Largest absolute difference of two numbers.
    pub difference: f64,
    /// Largest difference of two numbers over the largest number of their row, which counts as 1 at least.
    pub relative: f64,
}

impl Agreement {
    /// Before anything was compared.
    pub const PERFECT: Self = Self { cosine: 1.0, difference: 0.0, relative: 0.0 };

    /// Compares one row with its reference.
    pub fn of_row(got: &[f32], expected: &[f64]) -> Self {
        let finite = got.iter().all(|x| x.is_finite()) && expected.iter().all(|x| x.is_finite());
        if !finite || got.len() != expected.len() {
            return Self { cosine: f64::NEG_INFINITY, difference: f64::INFINITY, relative: f64::INFINITY };
        }
        let pairs = || got.iter().map(|x| f64::from(*x)).zip(expected.iter().copied());
        let (dot, a, b) =
            pairs().fold((0.0, 0.0, 0.0), |(dot, a, b), (x, y)| (dot + x * y, x.mul_add(x, a), y.mul_add(y, b)));
        let largest = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
        let difference = pairs().fold(0.0f64, |worst, (x, y)| worst.max((x - y).abs()));
        let cosine = match (a > 0.0, b > 0.0) {
            (true, true) => (dot / (a.sqrt() * b.sqrt())).min(1.0),
            (false, false) => 1.0,
            _ => 0.0,
        };
        Self { cosine, difference, relative: difference / largest }
    }

    /// Compares rows of `width` numbers.
    pub fn of_rows(got: &[f32], expected: &[f64], width: usize) -> Self {
        if got.len() != expected.len() {
            return Self::of_row(got, expected);
        }
        let rows = got.chunks_exact(width).zip(expected.chunks_exact(width));
        rows.fold(Self::PERFECT, |worst, (got, expected)| worst.and(Self::of_row(got, expected)))
    }

    /// The worse of both in each respect.
    pub fn and(self, other: Self) -> Self {
        Self {
            cosine: self.cosine.min(other.cosine),
            difference: self.difference.max(other.difference),
            relative: self.relative.max(other.relative),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_row_and_the_worst_number_are_found() {
        let agreement = Agreement::of_rows(&[1.0, 0.0, 3.0, 4.5], &[1.0, 0.0, 3.0, 4.0], 2);
        assert!(agreement.cosine < 1.0 && agreement.cosine > 0.99, "{agreement:?}");
        assert_eq!((agreement.difference, agreement.relative), (0.5, 0.125));
        assert_eq!(Agreement::of_rows(&[0.0, 0.0], &[0.0, 0.0], 2), Agreement::PERFECT);
        assert_eq!(Agreement::of_row(&[0.0, 0.0], &[1.0, 0.0]).cosine, 0.0);
    }

    #[test]
    fn what_is_not_finite_or_missing_agrees_with_nothing() {
        for got in [&[1.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[1.0]] {
            let agreement = Agreement::of_rows(got, &[1.0, 0.0], 2).and(Agreement::PERFECT);
            assert!(agreement.cosine < -1.0 && agreement.difference > 1e30, "{agreement:?}");
        }
    }
}
