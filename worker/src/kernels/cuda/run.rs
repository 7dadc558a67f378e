//! Starts kernels on candle's storages. Queues work and returns; errors of the work itself show at the next synchronisation.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::{Layout, Result, Storage, Tensor, bail};

use super::launch;
use crate::device::cuda::{Arg, Epilogue, ROW_STEP};
use crate::device::{Exec, Precision};
use crate::kernels::cpu::linear::Finish;
use crate::layers::pooling::Pooling;
use crate::layers::{OnDevice, PackedRows};

/// Contiguous numbers on a device.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub address: u64,
    /// Numbers of the tensor.
    pub len: usize,
    /// Numbers from the tensor's first to the end of its allocation.
    pub room: usize,
}

impl Span {
    /// Of a tensor on a GPU.
    ///
    /// # Errors
    /// If it is somewhere else, or not contiguous.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Self::in_storage(storage, layout),
            _ => bail!("a tensor that a GPU should read is not on it"),
        }
    }

    fn in_storage(storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        let Some((from, to)) = layout.contiguous_offsets() else { bail!("packed activations are contiguous") };
        let stream = storage.device.cuda_stream();
        let (address, size, room) = match &storage.slice {
            CudaStorageSlice::F32(slice) => (start(slice, &stream), 4, slice.len()),
            CudaStorageSlice::F16(slice) => (start(slice, &stream), 2, slice.len()),
            CudaStorageSlice::BF16(slice) => (start(slice, &stream), 2, slice.len()),
            CudaStorageSlice::U32(slice) => (start(slice, &stream), 4, slice.len()),
            _ => bail!("kernels compute with f32, f16, bf16 and u32"),
        };
        Ok(Self { address: address + (from * size) as u64, len: to - from, room: room - from })
    }

    fn arg(self) -> Arg {
        Arg::Pointer(self.address)
    }
}

fn start<T>(slice: &CudaSlice<T>, stream: &candle_core::cuda_backend::cudarc::driver::CudaStream) -> u64 {
    // Event tracking is off, so the guard has nothing to record.
    slice.device_ptr(stream).0
}

/// A storage and its layout, as candle hands them to an operation.
pub type Part<'a> = (&'a CudaStorage, &'a Layout);

fn precision(storage: &CudaStorage) -> Result<Precision> {
    match &storage.slice {
        CudaStorageSlice::F32(_) => Ok(Precision::F32),
        CudaStorageSlice::F16(_) => Ok(Precision::F16),
        CudaStorageSlice::BF16(_) => Ok(Precision::Bf16),
        _ => bail!("activations are f32, f16 or bf16"),
    }
}

/// out = layernorm(words\[ids\] + positions\[position\]): see [`crate::layers::embedding`].
///
/// # Errors
/// If a tensor is not where it should be, or what the driver reports.
pub fn embed_norm(
    exec: &Exec<'_>,
    rows: &PackedRows,
    out: Part<'_>,
    words: Part<'_>,
    positions: Part<'_>,
    (weight, bias, epsilon): (&Tensor, &Tensor, f32),
) -> Result<()> {
    let (tokens, dim) = (rows.tokens(), weight.dim(0)?);
    let (to, words_at, positions_at) = (
        Span::in_storage(out.0, out.1)?,
        Span::in_storage(words.0, words.1)?,
        Span::in_storage(positions.0, positions.1)?,
    );
    let launch = launch::embed_norm(precision(out.0)?, tokens, dim);
    let args = [
        words_at.arg(),
        positions_at.arg(),
        Span::of(weight)?.arg(),
        Span::of(bias)?.arg(),
        Arg::F32(epsilon),
        Span::of(&rows.ids)?.arg(),
        Span::of(&rows.positions)?.arg(),
        to.arg(),
        Arg::U32(tokens as u32),
        Arg::U32(dim as u32),
    ];
    // SAFETY: the layer has compared all shapes, batches are validated, and candle keeps what is queued on its stream alive.
    unsafe { gpu(exec)?.launch(&launch, &args) }
}

/// x = layernorm(x) in place.
///
/// # Errors
/// If a tensor is not where it should be, or what the driver reports.
pub fn layer_norm(exec: &Exec<'_>, x: Part<'_>, weight: Part<'_>, bias: Part<'_>, epsilon: f32) -> Result<()> {
    let span = Span::in_storage(x.0, x.1)?;
    let (weight, bias) = (Span::in_storage(weight.0, weight.1)?, Span::in_storage(bias.0, bias.1)?);
    let (dim, tokens) = (weight.len, span.len / weight.len.max(1));
    let launch = launch::layer_norm(precision(x.0)?, tokens, dim);
    let args = [span.arg(), weight.arg(), bias.arg(), Arg::F32(epsilon), Arg::U32(tokens as u32), Arg::U32(dim as u32)];
    // SAFETY: as above.
    unsafe { gpu(exec)?.launch(&launch, &args) }
}

/// out = finish(x Wᵀ + bias).
///
/// In half precision GELU is the tanh form, whose distance to the exact one (at most 5e-4) is below what the type resolves where it is
/// largest; in `f32` it is exact and a pass of its own.
///
/// # Errors
/// If a tensor is not where it should be, or what the libraries report.
pub fn linear(
    exec: &Exec<'_>,
    out: Part<'_>,
    x: Part<'_>,
    weight: &Tensor,
    bias: Part<'_>,
    finish: Finish,
) -> Result<()> {
    let precision = precision(out.0)?;
    let (outputs, inputs) = weight.dims2()?;
    let (to, from, bias) =
        (Span::in_storage(out.0, out.1)?, Span::in_storage(x.0, x.1)?, Span::in_storage(bias.0, bias.1)?);
    let tokens = to.len / outputs.max(1);
    let stepped = tokens.next_multiple_of(ROW_STEP);
    let fits = to.room >= stepped * outputs && from.room >= stepped * inputs;
    let apart = finish == Finish::Gelu && precision == Precision::F32;
    let product = crate::device::cuda::Product {
        x: from.address,
        weight: Span::of(weight)?.address,
        bias: bias.address,
        out: to.address,
        rows: if fits { stepped } else { tokens },
        inputs,
        outputs,
        precision,
        epilogue: match finish {
            Finish::Store => Epilogue::Bias,
            Finish::Add => Epilogue::BiasAdd,
            Finish::Gelu if apart => Epilogue::Plain,
            Finish::Gelu => Epilogue::BiasGelu,
        },
    };
    let gpu = gpu(exec)?;
    // SAFETY: the layer has compared all shapes, and both sides have as many rows as `rows` says.
    unsafe { gpu.multiply(&product) }?;
    if apart {
        let launch = launch::bias_gelu(precision, tokens, outputs);
        let args = [to.arg(), bias.arg(), Arg::U32(tokens as u32), Arg::U32(outputs as u32)];
        // SAFETY: as above.
        unsafe { gpu.launch(&launch, &args) }?;
    }
    Ok(())
}

/// out = softmax(Q Kᵀ / √head_dim) V per head and sequence.
///
/// # Errors
/// If a tensor is not where it should be, or what the driver reports.
pub fn attention(
    exec: &Exec<'_>,
    out: Part<'_>,
    qkv: Part<'_>,
    rows: &OnDevice,
    heads: usize,
    head_dim: usize,
) -> Result<()> {
    let tiles = rows.tiles.dim(0)? / 2;
    let Some(launch) = launch::attention(precision(out.0)?, tiles, rows.tile_queries, heads, head_dim) else {
        bail!("heads of {head_dim} numbers: kernels on a GPU take up to {}", launch::MOST_HEAD_DIM);
    };
    let args = [
        Span::in_storage(qkv.0, qkv.1)?.arg(),
        Span::of(&rows.offsets)?.arg(),
        Span::of(&rows.tiles)?.arg(),
        Span::in_storage(out.0, out.1)?.arg(),
        Arg::U32(heads as u32),
        Arg::U32(head_dim as u32),
    ];
    // SAFETY: as above.
    unsafe { gpu(exec)?.launch(&launch, &args) }
}

/// One `f32` vector per sequence.
///
/// # Errors
/// If a tensor is not where it should be, or what the driver reports.
pub fn pool(
    exec: &Exec<'_>,
    out: Part<'_>,
    hidden: Part<'_>,
    rows: &OnDevice,
    pooling: Pooling,
    dim: usize,
) -> Result<()> {
    let count = rows.offsets.dim(0)? - 1;
    let mode = Pooling::ALL.iter().position(|known| *known == pooling).unwrap_or_default();
    let launch = launch::pool(precision(hidden.0)?, count, dim);
    let args = [
        Span::in_storage(hidden.0, hidden.1)?.arg(),
        Span::of(&rows.offsets)?.arg(),
        Arg::U32(mode as u32),
        Span::in_storage(out.0, out.1)?.arg(),
        Arg::U32(count as u32),
        Arg::U32(dim as u32),
    ];
    // SAFETY: as above.
    unsafe { gpu(exec)?.launch(&launch, &args) }
}

fn gpu<'a>(exec: &Exec<'a>) -> Result<&'a crate::device::Cuda> {
    match exec.cuda() {
        Some(cuda) => Ok(cuda),
        None => bail!("a tensor on a GPU is given to the CPU's hands"),
    }
}
