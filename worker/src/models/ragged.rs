//! An encoder out of a forward pass over packed rows: everything that architectures share.
//!
//! Splits a batch over the device's threads, keeps each thread's activations, and puts answers back in the order of the batch.

use std::sync::Arc;

use candle_core::{Device as CandleDevice, Result, Tensor};
use parking_lot::Mutex;

use super::{Embeddings, Encoder, EngineError, Pooling, TokenBatch};
use crate::device::{Counters, Device, Exec, Op};
use crate::layers::pooling::pool;
use crate::layers::{Buffer, PackedRows};

/// One architecture's forward pass.
pub trait Forward: Send + Sync {
    /// Activations of one thread.
    type Workspace: Send;

    /// Empty activations.
    ///
    /// # Errors
    /// If candle cannot allocate.
    fn workspace(&self) -> Result<Self::Workspace>;

    /// Token vectors after the last layer: `[tokens, dimensions]`, `f32`. They live in `workspace` until the next call.
    ///
    /// # Errors
    /// What candle reports.
    fn forward(&self, exec: &Exec<'_>, rows: &PackedRows, workspace: &mut Self::Workspace) -> Result<Tensor>;

    /// Length of a token vector.
    fn dimensions(&self) -> usize;
}

/// What an encoder accepts and how it answers.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub vocab_size: usize,
    pub max_positions: usize,
    pub pooling: Pooling,
}

/// Encodes batches with one architecture on one device.
pub struct RaggedEncoder<F: Forward> {
    model: F,
    head: Head,
    device: Device,
    counters: Arc<Counters>,
    /// By part of the device; uncontended, because a part runs one call at a time.
    slots: Vec<Mutex<Slot<F::Workspace>>>,
}

struct Slot<W> {
    workspace: W,
    pooled: Buffer,
}

impl<F: Forward> RaggedEncoder<F> {
    /// # Errors
    /// If candle cannot allocate.
    pub fn new(model: F, head: Head, device: Device) -> Result<Self> {
        let Device::Cpu(cpu) = &device;
        let slot = || -> Result<_> {
            let pooled = Buffer::new(model.dimensions(), &CandleDevice::Cpu)?;
            Ok(Mutex::new(Slot { workspace: model.workspace()?, pooled }))
        };
        let slots = (0..cpu.threads()).map(|_| slot()).collect::<Result<_>>()?;
        Ok(Self { model, head, device, counters: Arc::default(), slots })
    }

    /// Computes some rows of a batch and writes them where they belong.
    fn rows(
        &self,
        exec: &Exec<'_>,
        part: usize,
        batch: &TokenBatch,
        rows: &[usize],
        out: &Mutex<Embeddings>,
    ) -> Result<()> {
        let mut slot = self.slots[part].lock();
        let Slot { workspace, pooled } = &mut *slot;
        let packed = PackedRows::gather(batch, rows, &CandleDevice::Cpu)?;
        let hidden = self.model.forward(exec, &packed, workspace)?;
        let pooled = pooled.rows(rows.len())?;
        exec.time(Op::Pooling, || {
            pool(&hidden, &packed.offsets, self.head.pooling, &pooled)?;
            let vectors = pooled.flatten_all()?.to_vec1::<f32>()?;
            let mut out = out.lock();
            for (row, vector) in rows.iter().zip(vectors.chunks_exact(self.model.dimensions())) {
                out.row_mut(*row).copy_from_slice(vector);
            }
            Ok(())
        })
    }
}

impl<F: Forward> Encoder for RaggedEncoder<F> {
    fn encode(&mut self, batch: &TokenBatch) -> std::result::Result<Embeddings, EngineError> {
        batch.validate(self.head.vocab_size, self.head.max_positions)?;
        let lengths: Vec<usize> = batch.iter().map(<[u32]>::len).collect();
        let out = Mutex::new(Embeddings::zeros(batch.rows(), self.model.dimensions()));
        let failure = Mutex::new(None);
        let Device::Cpu(cpu) = &self.device;
        cpu.for_rows(&lengths, &self.counters, &|exec, part, rows| {
            if let Err(error) = self.rows(exec, part, batch, rows, &out) {
                *failure.lock() = Some(error);
            }
        });
        match failure.into_inner() {
            Some(error) => Err(error.into()),
            None => Ok(out.into_inner()),
        }
    }

    fn runs_inline(&self) -> bool {
        false
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }
}
