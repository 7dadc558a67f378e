//! How a batch is laid over threads: pure policy, no threads here.
//!
//! Whole sequences go to threads in chunks of a few hundred tokens, taken one after another by whoever is free: nothing waits
//! inside a forward pass, activations stay small enough for the cache, and a thread that loses its core to another process
//! takes fewer chunks. Only when one sequence is most of the work do all threads share it, inside every operation.

/// Largest chunk, unless one sequence alone is longer. More would save nothing (weights are read once per chunk, at a small
/// fraction of the memory's speed) and push activations out of the cache.
const CHUNK_TOKENS: usize = 256;

/// Chunks per thread that a batch is cut into, as far as chunks stay above [`SMALL_CHUNK_TOKENS`]: what evens out threads that
/// run at different speeds.
const CHUNKS_PER_THREAD: usize = 4;

/// Below this, reading the weights starts to show.
const SMALL_CHUNK_TOKENS: usize = 96;

/// Largest batch that all threads share: its activations are held at once.
const TOGETHER_TOKENS: usize = 1024;

/// A way to compute a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// One thread per chunk; a chunk is a list of rows.
    Chunks(Vec<Vec<usize>>),
    /// All threads on all rows at once.
    Together,
}

/// Lays rows of the given lengths over `threads` threads.
pub fn plan(lengths: &[usize], threads: usize) -> Plan {
    let total: usize = lengths.iter().sum();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let share = total.div_ceil(threads.max(1));
    // Sharing every operation costs about a quarter in waiting; a longer imbalance than that costs more.
    if threads > 1 && total > 0 && longest * 4 > share * 5 && total <= TOGETHER_TOKENS {
        return Plan::Together;
    }
    let small = SMALL_CHUNK_TOKENS.min(share.max(1));
    let target = share.div_ceil(CHUNKS_PER_THREAD).clamp(small, CHUNK_TOKENS);
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    // Longest first: what is left to even out at the end is short. Stable, so the plan is a function of the lengths.
    rows.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    let mut chunks: Vec<Vec<usize>> = Vec::new();
    let mut filled = usize::MAX;
    for row in rows {
        if filled.saturating_add(lengths[row]) > target {
            chunks.push(Vec::new());
            filled = 0;
        }
        filled += lengths[row];
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(row);
        }
    }
    Plan::Chunks(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lone_long_sequence_is_shared() {
        assert_eq!(plan(&[40], 2), Plan::Together);
        assert_eq!(plan(&[512, 100], 2), Plan::Together);
        assert_eq!(plan(&[40], 1), Plan::Chunks(vec![vec![0]]));
    }

    #[test]
    fn equal_sequences_are_not_shared() {
        assert_eq!(plan(&[40, 40], 2), Plan::Chunks(vec![vec![0], vec![1]]));
    }

    #[test]
    fn an_empty_batch_is_no_work() {
        assert_eq!(plan(&[], 2), Plan::Chunks(vec![]));
    }

    proptest! {
        #[test]
        fn every_row_is_computed_once_in_bounded_chunks(lengths in prop::collection::vec(1usize..512, 0..80), threads in 1usize..9) {
            if let Plan::Chunks(chunks) = plan(&lengths, threads) {
                let mut rows: Vec<usize> = chunks.concat();
                rows.sort_unstable();
                prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
                for chunk in chunks {
                    let tokens: usize = chunk.iter().map(|row| lengths[*row]).sum();
                    prop_assert!(chunk.len() == 1 || tokens <= CHUNK_TOKENS);
                }
            }
        }
    }
}
