//! Layers of an encoder: functions over candle tensors, in place, without allocation.
//!
//! Each layer owns its weights and is a candle in-place operation whose CPU side calls [`crate::kernels::cpu`]; a device with its
//! own kernels adds its side to the same operation. Activations are tensors of `[tokens, …]`: all sequences of a chunk packed
//! back to back.

pub mod attention;
pub mod embedding;
pub mod linear;
pub mod norm;
pub mod pooling;
mod storage;

use candle_core::{DType, Device as CandleDevice, Result, Tensor};

use crate::models::TokenBatch;

/// A chunk of a batch, ready to compute: ids and positions on the device, boundaries on the host.
pub struct PackedRows {
    /// `[tokens]`, `u32`
    pub ids: Tensor,
    /// `[tokens]`, `u32`: index of each token in its sequence
    pub positions: Tensor,
    /// First token of each sequence, and the end of the last: `[rows + 1]`
    pub offsets: Vec<u32>,
}

impl PackedRows {
    /// Gathers some rows of a batch.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn gather(batch: &TokenBatch, rows: &[usize], device: &CandleDevice) -> Result<Self> {
        let tokens: usize = rows.iter().map(|row| batch.row(*row).len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        offsets.push(0);
        for row in rows {
            let row = batch.row(*row);
            ids.extend_from_slice(row);
            positions.extend(0..row.len() as u32);
            offsets.push(ids.len() as u32);
        }
        Ok(Self {
            ids: Tensor::from_vec(ids, tokens, device)?,
            positions: Tensor::from_vec(positions, tokens, device)?,
            offsets,
        })
    }

    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn tokens(&self) -> usize {
        self.offsets.last().map_or(0, |end| *end as usize)
    }
}

/// A tensor that is kept between forward passes and handed out as long as needed.
pub struct Buffer {
    tensor: Tensor,
    width: usize,
}

impl Buffer {
    /// An empty buffer for rows of `width` floats.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn new(width: usize, device: &CandleDevice) -> Result<Self> {
        Ok(Self { tensor: Tensor::zeros((0, width), DType::F32, device)?, width })
    }

    /// `[rows, width]` of arbitrary content; grows in steps of 64 rows and keeps what it grew to.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn rows(&mut self, rows: usize) -> Result<Tensor> {
        if self.tensor.dims()[0] < rows {
            let device = self.tensor.device().clone();
            // Let go of the old memory first: a device may have no room for both.
            self.tensor = Tensor::zeros((0, self.width), DType::F32, &device)?;
            self.tensor = Tensor::zeros((rows.next_multiple_of(64), self.width), DType::F32, &device)?;
        }
        self.tensor.narrow(0, 0, rows)
    }
}
