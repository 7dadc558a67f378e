//! Every answer is looked at before it leaves (between engine ⑥ and reply ⑦ on the data path).
//!
//! A model with broken weights, or a device that computes wrongly, answers quickly and with status 200. What can be seen from the
//! numbers alone is seen here: a NaN or infinity fails its row and no other; a vector of zeroes, of one repeated number, or the
//! same vector for different inputs is delivered and counted. Costs one pass over the answers.

use rustc_hash::FxHashMap;

use crate::models::{Embeddings, TokenBatch};

/// What is wrong with a row. The order is that of precedence: a row has the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anomaly {
    /// NaN or infinity somewhere in the vector. The row must not be delivered.
    Nan,
    /// Every number is 0.
    AllZero,
    /// Every number is the same, in a vector of more than one.
    Constant,
    /// The vector of an earlier row with other tokens.
    Repeated,
}

impl Anomaly {
    pub const ALL: [Self; 4] = [Self::Nan, Self::AllZero, Self::Constant, Self::Repeated];

    /// Label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nan => "nan",
            Self::AllZero => "all_zero",
            Self::Constant => "constant",
            Self::Repeated => "repeated",
        }
    }

    /// Whether the row must be answered with an error instead.
    pub fn fails_row(self) -> bool {
        matches!(self, Self::Nan)
    }
}

/// Checks batches; keeps its memory between them.
#[derive(Default)]
pub struct OutputCheck {
    /// First row by digest of its vector.
    first: FxHashMap<u64, usize>,
    found: Vec<(usize, Anomaly)>,
}

impl OutputCheck {
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows of `embeddings` with something wrong, in order; `batch` holds their inputs.
    ///
    /// A row that is not there at all is the caller's to notice: only rows that both have are compared.
    pub fn check(&mut self, batch: &TokenBatch, embeddings: &Embeddings) -> &[(usize, Anomaly)] {
        self.first.clear();
        self.found.clear();
        for (row, (ids, vector)) in batch.iter().zip(embeddings.iter()).enumerate() {
            let scan = Scan::of(vector);
            let anomaly = scan.anomaly(vector).or_else(|| {
                // Equal digests of different vectors only hide a later repetition of the second one: it takes a collision of
                // 64 bits among the rows of one batch.
                let first = *self.first.entry(scan.digest).or_insert(row);
                let repeated = first != row && embeddings.row(first) == vector && batch.row(first) != ids;
                repeated.then_some(Anomaly::Repeated)
            });
            self.found.extend(anomaly.map(|anomaly| (row, anomaly)));
        }
        &self.found
    }
}

/// One pass over a vector, in independent lanes so that it vectorises everywhere.
struct Scan {
    finite: bool,
    constant: bool,
    digest: u64,
}

const LANES: usize = 16;
/// All exponent bits: set together only in NaN and infinity.
const EXPONENT: u32 = 0x7f80_0000;

impl Scan {
    fn of(vector: &[f32]) -> Self {
        let first = vector.first().map_or(0, |x| x.to_bits());
        let (mut sums, mut mixed, mut broken, mut different) = ([0u32; LANES], [0u32; LANES], [0u32; LANES], [0u32; LANES]);
        let chunks = vector.chunks_exact(LANES);
        let rest = chunks.remainder();
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        // Padding must not look different from the first number.
        last[rest.len()..].fill(f32::from_bits(first));
        for chunk in chunks.chain(std::iter::once(&last[..])) {
            for lane in 0..LANES {
                let bits = chunk[lane].to_bits();
                sums[lane] = sums[lane].wrapping_add(bits);
                mixed[lane] = (mixed[lane] ^ bits).wrapping_mul(0x9e37_79b1);
                broken[lane] |= u32::from(bits & EXPONENT == EXPONENT);
                different[lane] |= bits ^ first;
            }
        }
        let fold = |lanes: [u32; LANES]| lanes.iter().fold(0u64, |hash, x| (hash.rotate_left(5) ^ *x as u64).wrapping_mul(0x517c_c1b7_2722_0a95));
        Self {
            finite: broken.iter().all(|lane| *lane == 0),
            constant: different.iter().all(|lane| *lane == 0),
            digest: fold(sums) ^ fold(mixed).rotate_left(32),
        }
    }

    fn anomaly(&self, vector: &[f32]) -> Option<Anomaly> {
        if !self.finite {
            return Some(Anomaly::Nan);
        }
        if !self.constant || vector.is_empty() {
            // 0.0 and -0.0 have different bits; a vector of both is rare enough to look twice.
            let zero = vector.first().is_some_and(|x| *x == 0.0) && vector.iter().all(|x| *x == 0.0);
            return zero.then_some(Anomaly::AllZero);
        }
        match vector[0] == 0.0 {
            true => Some(Anomaly::AllZero),
            false => (vector.len() > 1).then_some(Anomaly::Constant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[(&[u32], Vec<f32>)]) -> Vec<(usize, Anomaly)> {
        let batch = TokenBatch::from_rows(rows.iter().map(|(ids, _)| *ids));
        let mut embeddings = Embeddings::zeros(rows.len(), rows[0].1.len());
        for (row, (_, vector)) in rows.iter().enumerate() {
            embeddings.row_mut(row).copy_from_slice(vector);
        }
        OutputCheck::new().check(&batch, &embeddings).to_vec()
    }

    fn varied(dim: usize, seed: usize) -> Vec<f32> {
        (0..dim).map(|i| ((i * 31 + seed * 17) % 97) as f32 / 97.0 - 0.5).collect()
    }

    #[test]
    fn good_rows_pass() {
        for dim in [2, 15, 16, 17, 384] {
            assert_eq!(check(&[(&[1], varied(dim, 1)), (&[2], varied(dim, 2)), (&[3], varied(dim, 3))]), []);
        }
    }

    #[test]
    fn a_broken_number_anywhere_fails_its_row_only() {
        for dim in [1, 15, 16, 17, 40] {
            for at in 0..dim {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut broken = varied(dim, 1);
                    broken[at] = bad;
                    let found = check(&[(&[1], varied(dim, 2)), (&[2], broken), (&[3], varied(dim, 3))]);
                    assert!(found.contains(&(1, Anomaly::Nan)) && found.iter().all(|(row, _)| *row == 1 || dim == 1));
                }
            }
        }
        assert!(Anomaly::Nan.fails_row() && !Anomaly::Repeated.fails_row());
    }

    #[test]
    fn zeroes_of_both_signs_are_zero() {
        let signs: Vec<f32> = (0..20).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect();
        let found = check(&[(&[1], vec![0.0; 20]), (&[2], signs), (&[3], vec![0.5; 20])]);
        assert_eq!(found, [(0, Anomaly::AllZero), (1, Anomaly::AllZero), (2, Anomaly::Constant)]);
    }

    #[test]
    fn the_same_vector_is_right_for_the_same_input_only() {
        let vector = varied(40, 1);
        let rows: [(&[u32], _); 4] =
            [(&[1, 2], vector.clone()), (&[1, 2], vector.clone()), (&[1, 3], vector.clone()), (&[9], varied(40, 2))];
        assert_eq!(check(&rows), [(2, Anomaly::Repeated)]);
    }

    #[test]
    fn labels_are_what_dashboards_expect() {
        assert_eq!(Anomaly::ALL.map(Anomaly::as_str), ["nan", "all_zero", "constant", "repeated"]);
    }
}
