//! From candle's storage to plain slices.

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// The floats of a contiguous tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = contiguous(layout)?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

/// The floats of a contiguous tensor, to be written.
pub(super) fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (from, to) = contiguous(layout)?;
    match storage {
        CpuStorage::F32(data) => Ok(&mut data[from..to]),
        _ => bail!("activations are f32"),
    }
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(bounds) => Ok(bounds),
        None => bail!("packed activations are contiguous"),
    }
}

/// Fails unless `tensor` has this shape: the kernels rely on it.
pub(super) fn expect_shape(tensor: &Tensor, shape: &[usize], what: &str) -> Result<()> {
    if tensor.dims() != shape {
        bail!("{what} has shape {:?}, expected {shape:?}", tensor.dims());
    }
    Ok(())
}
