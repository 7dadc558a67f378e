//! First layer of an encoder: table look-ups.

/// out\[t\] = words\[ids\[t\]\] + positions\[position of t\].
///
/// * `words`: `[vocab, dim]`, `positions`: `[max_positions, dim]`
/// * `ids`, `position_ids`: `[tokens]`
/// * `out`: `[tokens, dim]`
///
/// # Panics
/// If an id has no row in its table: batches are validated before they get here.
pub fn gather_sum(words: &[f32], positions: &[f32], ids: &[u32], position_ids: &[u32], out: &mut [f32], dim: usize) {
    for ((row, id), position) in out.chunks_exact_mut(dim).zip(ids).zip(position_ids) {
        let word = &words[*id as usize * dim..][..dim];
        let position = &positions[*position as usize * dim..][..dim];
        for ((x, a), b) in row.iter_mut().zip(word).zip(position) {
            *x = a + b;
        }
    }
}
