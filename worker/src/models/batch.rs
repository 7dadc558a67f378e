//! What goes into an encoder and what comes out: ragged token ids in, one vector per row out.
//!
//! Rows are packed back to back, so there is no padding, no mask, and a batch costs exactly its tokens.

use super::EngineError;

/// Token ids of a batch of sequences, packed.
///
/// Invariant: `offsets` starts with 0, never decreases, and ends with `ids.len()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    offsets: Vec<u32>,
}

impl Default for TokenBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl TokenBatch {
    pub fn new() -> Self {
        Self { ids: Vec::new(), offsets: vec![0] }
    }

    pub fn with_capacity(rows: usize, tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { ids: Vec::with_capacity(tokens), offsets }
    }

    /// Packs already tokenised rows.
    pub fn from_rows<R: AsRef<[u32]>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut batch = Self::new();
        for row in rows {
            batch.push(row.as_ref());
        }
        batch
    }

    /// Appends one row.
    pub fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len() as u32);
    }

    /// Forgets the rows, keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.truncate(1);
    }

    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// All ids, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Start of each row in [`ids`](Self::ids), and the end of the last: `[rows + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Ids of one row. Panics if `row >= rows()`.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.rows()).map(|row| self.row(row))
    }

    /// Checks what an encoder with learned positions relies on.
    ///
    /// # Errors
    /// [`EngineError::Batch`] if a row is empty or longer than `max_tokens`, or an id is `>= vocab_size`.
    pub fn validate(&self, vocab_size: usize, max_tokens: usize) -> Result<(), EngineError> {
        for (index, row) in self.iter().enumerate() {
            if row.is_empty() || row.len() > max_tokens {
                let got = row.len();
                return Err(EngineError::Batch(format!("row {index} has {got} tokens, allowed are 1 to {max_tokens}")));
            }
            if let Some(id) = row.iter().find(|id| **id as usize >= vocab_size) {
                return Err(EngineError::Batch(format!(
                    "row {index} holds id {id}, the vocabulary ends at {vocab_size}"
                )));
            }
        }
        Ok(())
    }
}

/// One vector per row of the batch, `[rows, dim]` in `f32`, row-major, in the order of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    data: Vec<f32>,
    dim: usize,
}

impl Embeddings {
    /// Zeroes for `rows` rows. `dim` must not be 0.
    pub fn zeros(rows: usize, dim: usize) -> Self {
        debug_assert!(dim > 0, "a vector has at least one dimension");
        Self { data: vec![0.0; rows * dim], dim }
    }

    /// A copy of `[rows * dim]` numbers. `dim` must not be 0.
    pub fn from_slice(data: &[f32], dim: usize) -> Self {
        debug_assert!(dim > 0 && data.len().is_multiple_of(dim), "whole rows");
        Self { data: data.to_vec(), dim }
    }

    pub fn rows(&self) -> usize {
        self.data.len() / self.dim
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// One row, `[dim]`. Panics if `row >= rows()`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.dim..(row + 1) * self.dim]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.dim..(row + 1) * self.dim]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dim)
    }

    /// `[rows * dim]`, row-major.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_pushed() {
        let batch = TokenBatch::from_rows([vec![1, 2, 3], vec![], vec![4]]);
        assert_eq!((batch.rows(), batch.tokens()), (3, 4));
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&[1, 2, 3][..], &[], &[4]]);
        assert_eq!(batch.offsets(), [0, 3, 3, 4]);
    }

    #[test]
    fn a_cleared_batch_is_a_new_batch() {
        let mut batch = TokenBatch::from_rows([[1, 2]]);
        batch.clear();
        assert_eq!(batch, TokenBatch::new());
        assert!(batch.is_empty());
    }

    #[test]
    fn validation_names_the_row() {
        let batch = TokenBatch::from_rows([vec![1], vec![2, 3], vec![99]]);
        assert!(batch.validate(100, 2).is_ok());
        assert!(batch.validate(100, 1).unwrap_err().to_string().contains("row 1 has 2 tokens"));
        assert!(batch.validate(50, 2).unwrap_err().to_string().contains("row 2 holds id 99"));
    }
}
