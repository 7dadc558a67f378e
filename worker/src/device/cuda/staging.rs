//! Batches on their way to the device and back.
//!
//! ```text
//! host ─pinned─▶ copy_in ──copied──▶ compute: layers, pooling ──computed──▶ copy_out ─pinned─▶ landed ─▶ host
//! ```
//! A berth is what one batch needs of pinned and device memory beside activations: ids and boundaries in, vectors out. There
//! are [`DEPTH`] of them, so the copies of one batch overlap the computation of another. A berth goes back to its pool when its batch has landed, so nothing
//! that is still read or written is ever reused; whoever gives up a batch waits for it.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, DriverError, PinnedHostSlice, result};
use candle_core::{DType, Result, Tensor};
use deadpool::unmanaged::{Object, Pool};

use super::{Cuda, fault};
use crate::device::{Fault, engine_error};
use crate::kernels::cuda::launch::{attention_tiles, tile_queries};
use crate::kernels::cuda::run::Span;
use crate::layers::{OnDevice, PackedRows};
use crate::models::{Embeddings, EngineError, Pending, TokenBatch};

/// Batches under way at a time.
pub const DEPTH: usize = 2;

/// The berths of one model.
pub struct Staging {
    cuda: Arc<Cuda>,
    berths: Pool<Berth>,
    /// Length of an answer.
    dimensions: usize,
}

/// Memory of one batch under way.
struct Berth {
    /// ids, positions, offsets, tiles, back to back
    words: PinnedHostSlice<u32>,
    /// The same on the device: `[words]`, `u32`
    arrived: Tensor,
    /// `[rows, dimensions]`, `f32`
    pooled: Tensor,
    answers: PinnedHostSlice<f32>,
    copied: CudaEvent,
    computed: CudaEvent,
    landed: CudaEvent,
    /// The list of the attention's tiles, kept for its memory.
    tiles: Vec<u32>,
}

impl Staging {
    /// Empty berths for answers of `dimensions` floats.
    ///
    /// # Errors
    /// If there is no memory, pinned or on the device.
    pub fn new(cuda: &Arc<Cuda>, dimensions: usize) -> Result<Self> {
        let berths = (0..DEPTH).map(|_| Berth::new(cuda, 1, 1, dimensions)).collect::<Result<Vec<_>>>()?;
        Ok(Self { cuda: Arc::clone(cuda), berths: Pool::from(berths), dimensions })
    }

    /// Copies a batch in, lets `compute` queue what makes of it `[rows, dimensions]` vectors, and copies those out. Returns when all
    /// of that is queued.
    ///
    /// # Errors
    /// If more than [`DEPTH`] batches are under way, or what the device reports so far. Then nothing of this batch is under way.
    pub fn send(
        &self,
        batch: &TokenBatch,
        compute: impl FnOnce(&PackedRows, &Tensor) -> Result<()>,
    ) -> std::result::Result<Landing, EngineError> {
        let berth = self.berths.try_get().map_err(|error| {
            EngineError::Compute(format!("more than {DEPTH} batches are under way on one device ({error})"))
        })?;
        let (cuda, rows, dimensions) = (Arc::clone(&self.cuda), batch.rows(), self.dimensions);
        let mut landing = Landing { cuda, berth, rows, dimensions, under_way: true };
        landing.queue(batch, compute).map_err(|error| {
            // cuBLASLt has no code for a lost device: the streams say it. What was queued before an error is waited for here.
            let lost = self.cuda.synchronize().err().filter(|told| fault::classify(told) == Fault::Lost);
            engine_error(lost.unwrap_or(error), batch.tokens())
        })?;
        Ok(landing)
    }
}

impl Berth {
    fn new(cuda: &Cuda, words: usize, rows: usize, dimensions: usize) -> Result<Self> {
        let event = |flags| cuda.context.new_event(Some(flags)).map_err(|error| fault::candle(&error));
        let pin = |error: DriverError| fault::candle(&error);
        Ok(Self {
            // SAFETY: written before it is read: by the host here, by the copy from the device below. Cached, because the host
            // reads answers.
            words: unsafe { cuda.context.alloc_pinned_with_flags(words, 0) }.map_err(pin)?,
            arrived: Tensor::zeros(words, DType::U32, &cuda.candle)?,
            pooled: Tensor::zeros((rows, dimensions), DType::F32, &cuda.candle)?,
            // SAFETY: as above.
            answers: unsafe { cuda.context.alloc_pinned_with_flags(rows * dimensions, 0) }.map_err(pin)?,
            copied: event(CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            computed: event(CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            // Whoever waits sleeps: a core that spins is one that does not tokenise.
            landed: event(CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
            tiles: Vec::new(),
        })
    }

    /// Makes room. The berth is at rest, but its new memory is made on the compute stream and used by others: they wait once.
    fn fit(&mut self, cuda: &Cuda, words: usize, rows: usize, dimensions: usize) -> Result<()> {
        if words <= self.words.len() && rows <= self.pooled.dims()[0] {
            return Ok(());
        }
        let words = words.max(self.words.len()).next_power_of_two();
        let rows = rows.max(self.pooled.dims()[0]).next_power_of_two();
        let tiles = std::mem::take(&mut self.tiles);
        // Let go of the old memory first: there may be no room for both.
        *self = Self::new(cuda, 1, 1, dimensions)?;
        *self = Self { tiles, ..Self::new(cuda, words, rows, dimensions)? };
        cuda.synchronize()
    }
}

/// A batch under way.
pub struct Landing {
    cuda: Arc<Cuda>,
    berth: Object<Berth>,
    rows: usize,
    dimensions: usize,
    /// Something may be queued that touches the berth.
    under_way: bool,
}

impl Landing {
    fn queue(&mut self, batch: &TokenBatch, compute: impl FnOnce(&PackedRows, &Tensor) -> Result<()>) -> Result<()> {
        let Self { cuda, berth, rows, dimensions, .. } = self;
        let berth: &mut Berth = berth;
        let (tokens, offsets) = (batch.tokens(), batch.offsets());
        attention_tiles(offsets, &mut berth.tiles);
        let words = 2 * tokens + offsets.len() + berth.tiles.len();
        berth.fit(cuda, words, *rows, *dimensions)?;
        let driver = |error: DriverError| fault::candle(&error);
        let host = &mut berth.words.as_mut_slice().map_err(driver)?[..words];
        let (ids, rest) = host.split_at_mut(tokens);
        let (positions, rest) = rest.split_at_mut(tokens);
        let (bounds, tiles) = rest.split_at_mut(offsets.len());
        ids.copy_from_slice(batch.ids());
        for bounds in offsets.windows(2) {
            let row = &mut positions[bounds[0] as usize..bounds[1] as usize];
            row.iter_mut().zip(0..).for_each(|(position, index)| *position = index);
        }
        bounds.copy_from_slice(offsets);
        tiles.copy_from_slice(&berth.tiles);
        let arrived = Span::of(&berth.arrived)?;
        // SAFETY: `arrived` has room for all words; both sides rest until this batch has landed.
        unsafe { result::memcpy_htod_async(arrived.address, host, cuda.copy_in.cu_stream()) }.map_err(driver)?;
        berth.copied.record(&cuda.copy_in).map_err(driver)?;
        cuda.compute.wait(&berth.copied).map_err(driver)?;

        let part = |from: usize, len: usize| berth.arrived.narrow(0, from, len);
        let packed = PackedRows {
            ids: part(0, tokens)?,
            positions: part(tokens, tokens)?,
            offsets: offsets.to_vec(),
            on_device: Some(OnDevice {
                offsets: part(2 * tokens, offsets.len())?,
                tiles: part(2 * tokens + offsets.len(), berth.tiles.len())?,
                tile_queries: tile_queries(offsets),
            }),
        };
        compute(&packed, &berth.pooled.narrow(0, 0, *rows)?)?;
        berth.computed.record(&cuda.compute).map_err(driver)?;
        cuda.copy_out.wait(&berth.computed).map_err(driver)?;
        let pooled = Span::of(&berth.pooled)?;
        let answers = &mut berth.answers.as_mut_slice().map_err(driver)?[..*rows * *dimensions];
        // SAFETY: `pooled` holds as many floats; both sides rest until this batch has landed.
        unsafe { result::memcpy_dtoh_async(answers, pooled.address, cuda.copy_out.cu_stream()) }.map_err(driver)?;
        berth.landed.record(&cuda.copy_out).map_err(driver)
    }
}

impl Pending for Landing {
    fn wait(mut self: Box<Self>) -> std::result::Result<Embeddings, EngineError> {
        let landed = |error: DriverError| engine_error(fault::candle(&error), 0);
        self.berth.landed.synchronize().map_err(landed)?;
        self.under_way = false;
        let answers = &self.berth.answers.as_slice().map_err(landed)?[..self.rows * self.dimensions];
        let embeddings = Embeddings::from_slice(answers, self.dimensions);
        self.cuda.tell_pool();
        Ok(embeddings)
    }
}

impl Drop for Landing {
    /// The berth goes back to the pool after this: everything that was queued on it has to be over.
    fn drop(&mut self) {
        if self.under_way {
            // What it reports was or will be reported to whoever waits.
            let _over = self.cuda.synchronize();
        }
    }
}
