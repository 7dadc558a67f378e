//! Numbers of a snapshot, and sums of them that do not depend on the order of addition.

/// 2^30: scaling by a power of two is exact in binary floating point.
const SCALE: f64 = (1u64 << 30) as f64;

/// In units of 2^-30, about a nanosecond where the unit is a second. Not a number counts as nothing.
pub fn to_fixed(value: f64) -> i128 {
    (value * SCALE) as i128
}

/// Rounds to the nearest `f64`, which keeps the order: a larger sum never reads smaller.
pub fn from_fixed(fixed: i128) -> f64 {
    fixed as f64 / SCALE
}

/// The cells of a snapshot's bytes.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks::<8>().0.iter().map(|cell| f64::from_le_bytes(*cell))
}

/// One cell of a snapshot's bytes.
pub fn cell(bytes: &[u8], index: usize) -> f64 {
    bytes.as_chunks::<8>().0.get(index).map_or(f64::NAN, |cell| f64::from_le_bytes(*cell))
}

/// Raises every cell in `range` to what it was before, if it is lower or not a number.
pub fn keep_largest(cells: &mut [u8], before: &[u8], range: std::ops::Range<usize>) {
    let (cells, before) = (&mut cells.as_chunks_mut::<8>().0[range.clone()], &before.as_chunks::<8>().0[range]);
    for (cell, before) in cells.iter_mut().zip(before) {
        let (new, old) = (f64::from_le_bytes(*cell), f64::from_le_bytes(*before));
        // Written so that a NaN on the left is replaced as well.
        if new.is_nan() || new < old {
            *cell = *before;
        }
    }
}

/// What the fleet's gauges are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeSum {
    pub sum: f64,
    pub max: f64,
    pub min: f64,
    pub count: u32,
}

impl Default for GaugeSum {
    fn default() -> Self {
        Self { sum: 0.0, max: f64::NEG_INFINITY, min: f64::INFINITY, count: 0 }
    }
}

impl GaugeSum {
    pub fn add(&mut self, value: f64) {
        self.merge(Self { sum: value, max: value, min: value, count: 1 });
    }

    pub fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.min = self.min.min(other.min);
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_survive_exactly() {
        for value in [0.0, 1.0, 9_007_199_254_740_991.0] {
            assert_eq!(from_fixed(to_fixed(value)), value);
        }
    }

    #[test]
    fn a_falling_or_broken_number_is_not_believed() {
        let bytes = |cells: &[f64]| cells.iter().flat_map(|cell| cell.to_le_bytes()).collect::<Vec<_>>();
        let mut new = bytes(&[1.0, f64::NAN, 9.0, 0.0]);
        keep_largest(&mut new, &bytes(&[5.0, 6.0, 7.0, 8.0]), 0..3);
        assert_eq!(read(&new).collect::<Vec<_>>(), [5.0, 6.0, 9.0, 0.0]);
    }
}
