//! The kernels of a build without the feature `cuda`: no tensor is on a GPU, so none of them is reached.

use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

use crate::device::Exec;
use crate::kernels::cpu::linear::Finish;
use crate::layers::pooling::Pooling;
use crate::layers::{OnDevice, PackedRows};

/// A storage and its layout, as candle hands them to an operation.
pub type Part<'a> = (&'a CudaStorage, &'a Layout);

fn absent() -> Result<()> {
    bail!("this build has no kernels for GPUs")
}

pub fn embed_norm(
    _: &Exec<'_>,
    _: &PackedRows,
    _: Part<'_>,
    _: Part<'_>,
    _: Part<'_>,
    _: (&Tensor, &Tensor, f32),
) -> Result<()> {
    absent()
}

pub fn layer_norm(_: &Exec<'_>, _: Part<'_>, _: Part<'_>, _: Part<'_>, _: f32) -> Result<()> {
    absent()
}

pub fn linear(_: &Exec<'_>, _: Part<'_>, _: Part<'_>, _: &Tensor, _: Part<'_>, _: Finish) -> Result<()> {
    absent()
}

pub fn attention(_: &Exec<'_>, _: Part<'_>, _: Part<'_>, _: &OnDevice, _: usize, _: usize) -> Result<()> {
    absent()
}

pub fn pool(_: &Exec<'_>, _: Part<'_>, _: Part<'_>, _: &OnDevice, _: Pooling, _: usize) -> Result<()> {
    absent()
}
