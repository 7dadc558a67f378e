//! Layers of an encoder: functions over candle tensors, in place, without allocation.
//!
//! Each layer owns its weights, laid out for its device, and is a candle in-place operation whose CPU side calls
//! [`crate::kernels::cpu`] and whose other side calls [`crate::kernels::cuda`]. Activations are tensors of `[tokens, …]`: all sequences of a chunk packed
//! back to back.

pub mod attention;
pub mod embedding;
pub mod linear;
pub mod norm;
pub mod pooling;
mod storage;

use candle_core::{DType, Device as CandleDevice, Result, Tensor};

use crate::device::Device;
use crate::kernels::cuda::launch::{attention_tiles, tile_queries};
use crate::models::TokenBatch;

/// A chunk of a batch, ready to compute: ids and positions on the device, boundaries on the host.
pub struct PackedRows {
    /// `[tokens]`, `u32`
    pub ids: Tensor,
    /// `[tokens]`, `u32`: index of each token in its sequence
    pub positions: Tensor,
    /// First token of each sequence, and the end of the last: `[rows + 1]`
    pub offsets: Vec<u32>,
    /// What kernels on a GPU read of it; `None` on the CPU.
    pub on_device: Option<OnDevice>,
}

/// Boundaries where a GPU reads them.
pub struct OnDevice {
    /// `[rows + 1]`, `u32`, as [`PackedRows::offsets`]
    pub offsets: Tensor,
    /// `[2 · tiles]`, `u32`: see [`attention_tiles`]
    pub tiles: Tensor,
    /// Queries of one tile
    pub tile_queries: usize,
}

impl PackedRows {
    /// Gathers some rows of a batch, for any device. A GPU that serves copies whole batches by way of pinned memory instead.
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
            on_device: (!device.is_cpu()).then(|| OnDevice::copy(&offsets, device)).transpose()?,
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

impl OnDevice {
    /// Copies boundaries to a GPU, and the tiles that follow from them.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn copy(offsets: &[u32], device: &CandleDevice) -> Result<Self> {
        let mut tiles = Vec::new();
        attention_tiles(offsets, &mut tiles);
        let tile_queries = tile_queries(offsets);
        Ok(Self { offsets: Tensor::new(offsets, device)?, tiles: Tensor::new(tiles.as_slice(), device)?, tile_queries })
    }
}

/// A tensor that is kept between forward passes and handed out as long as needed.
pub struct Buffer {
    tensor: Tensor,
    width: usize,
}

/// Rows in which buffers grow: products on a GPU write whole steps of rows.
const ROW_STEP: usize = 64;

impl Buffer {
    /// A buffer for rows of `width` numbers of the device's type.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn new(width: usize, device: &Device) -> Result<Self> {
        Self::of(width, device.precision().dtype(), device.tensors())
    }

    fn of(width: usize, dtype: DType, device: &CandleDevice) -> Result<Self> {
        Ok(Self { tensor: Tensor::zeros((1, width), dtype, device)?, width })
    }

    /// `[rows, width]` of arbitrary content; grows in steps of 64 rows and keeps what it grew to. Rows beyond, up to the next
    /// step, are scratch.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub fn rows(&mut self, rows: usize) -> Result<Tensor> {
        if self.tensor.dims()[0] < rows {
            let (dtype, device) = (self.tensor.dtype(), self.tensor.device().clone());
            // Let go of the old memory first: a device may have no room for both.
            self.tensor = Tensor::zeros((1, self.width), dtype, &device)?;
            self.tensor = Tensor::zeros((rows.next_multiple_of(ROW_STEP), self.width), dtype, &device)?;
        }
        self.tensor.narrow(0, 0, rows)
    }
}
