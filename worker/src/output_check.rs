//! Every answer is looked at before it leaves (between engine ⑥ and reply ⑦ on the data path).
//!
//! A model with broken weights, or a device that computes wrongly, answers quickly and with status 200. What can be seen from the
//! numbers alone is seen here: a NaN or infinity fails its row and no other; a vector of zeroes, of one repeated number, or the
//! same vector for different inputs is delivered and counted. Costs one pass over the answers.

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
    /// The vector of an earlier row with other tokens, but for rounding.
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

/// Vectors count as the same if no number differs by more than this, relative to the largest: the mean over a longer text
/// rounds differently even if all its tokens have one vector.
const SAME: f32 = 4e-6;

/// Checks batches; keeps its memory between them.
#[derive(Default)]
pub struct OutputCheck {
    /// Rows by the sum of their numbers: equal vectors become neighbours.
    sums: Vec<(f32, usize)>,
    found: Vec<(usize, Anomaly)>,
}

impl OutputCheck {
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows of `embeddings` with something wrong, in order; `batch` holds their inputs.
    ///
    /// Of several rows with the same vector the first is not reported. Where batch and embeddings differ in length, only rows
    /// that both have are looked at.
    pub fn check(&mut self, batch: &TokenBatch, embeddings: &Embeddings) -> &[(usize, Anomaly)] {
        self.sums.clear();
        self.found.clear();
        for (row, vector) in embeddings.iter().enumerate().take(batch.rows()) {
            let scan = Scan::of(vector);
            match scan.anomaly() {
                Some(anomaly) => self.found.push((row, anomaly)),
                None => self.sums.push((scan.sum, row)),
            }
        }
        self.sums.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // Equal vectors stand next to each other, unless a third has nearly the same sum: that may hide a repetition, never invent one.
        let same = |a: &(f32, usize), b: &(f32, usize)| nearly_equal(embeddings.row(a.1), embeddings.row(b.1));
        for group in self.sums.chunk_by(same) {
            let first = group.iter().map(|(_, row)| *row).min().unwrap_or_default();
            let repeated = group.iter().map(|(_, row)| *row).filter(|row| batch.row(*row) != batch.row(first));
            self.found.extend(repeated.map(|row| (row, Anomaly::Repeated)));
        }
        self.found.sort_unstable_by_key(|(row, _)| *row);
        &self.found
    }
}

fn nearly_equal(a: &[f32], b: &[f32]) -> bool {
    let largest = a.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    // Ends at the first difference, which for different vectors is at once.
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= SAME * largest)
}

/// One pass over a vector, in independent lanes so that it vectorises everywhere.
struct Scan {
    sum: f32,
    smallest: f32,
    largest: f32,
    finite: bool,
    len: usize,
}

const LANES: usize = 16;

impl Scan {
    fn of(vector: &[f32]) -> Self {
        let (mut sums, mut poison) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (mut smallest, mut largest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let chunks = vector.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks.chain((!rest.is_empty()).then_some(rest)) {
            for (lane, x) in chunk.iter().enumerate() {
                sums[lane] += x;
                // 0 for every number, NaN for NaN and infinity.
                poison[lane] += x * 0.0;
                smallest[lane] = if *x < smallest[lane] { *x } else { smallest[lane] };
                largest[lane] = if *x > largest[lane] { *x } else { largest[lane] };
            }
        }
        Self {
            sum: sums.iter().sum(),
            smallest: smallest.into_iter().fold(f32::INFINITY, f32::min),
            largest: largest.into_iter().fold(f32::NEG_INFINITY, f32::max),
            finite: poison.iter().sum::<f32>() == 0.0,
            len: vector.len(),
        }
    }

    fn anomaly(&self) -> Option<Anomaly> {
        match self {
            Self { finite: false, .. } => Some(Anomaly::Nan),
            Self { smallest: 0.0, largest: 0.0, .. } => Some(Anomaly::AllZero),
            Self { smallest, largest, len, .. } if smallest == largest && *len > 1 => Some(Anomaly::Constant),
            _ => None,
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
    fn rounding_does_not_hide_a_repetition() {
        let vector = varied(40, 1);
        let rounded: Vec<f32> = vector.iter().map(|x| x * (1.0 + 2.0 * f32::EPSILON)).collect();
        let close: Vec<f32> = vector.iter().map(|x| x + 1e-4).collect();
        let rows: [(&[u32], _); 4] = [(&[1], rounded), (&[2], close), (&[3], vector.clone()), (&[4], vector)];
        assert_eq!(check(&rows), [(2, Anomaly::Repeated), (3, Anomaly::Repeated)]);
    }

    #[test]
    fn labels_are_what_dashboards_expect() {
        assert_eq!(Anomaly::ALL.map(Anomaly::as_str), ["nan", "all_zero", "constant", "repeated"]);
    }
}
