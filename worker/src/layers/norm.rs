//! LayerNorm in place.

use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp3, Layout, Result, Tensor};

use super::storage::{expect_shape, floats, floats_mut};
use crate::device::{Device, Exec};
use crate::kernels::cpu::norm::LayerNorm as Kernel;
use crate::kernels::cuda::run as cuda;

/// Normalises every row to mean 0 and variance 1, then scales and shifts it.
pub struct LayerNorm {
    /// `[dim]`
    weight: Tensor,
    /// `[dim]`
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// * `weight`, `bias`: `[dim]`, `f32`; they stay `f32` on every device
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new(weight: &Tensor, bias: &Tensor, epsilon: f64, device: &Device) -> Result<Self> {
        let place = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(device.tensors());
        Ok(Self { weight: place(weight)?, bias: place(bias)?, epsilon: epsilon as f32 })
    }

    /// Scale and shift, `[dim]` each, and what is added to the variance.
    pub(super) fn parts(&self) -> (&Tensor, &Tensor, f32) {
        (&self.weight, &self.bias, self.epsilon)
    }

    /// * `x`: `[tokens, dim]`, of the device's type, in place
    ///
    /// # Errors
    /// If shapes do not belong together.
    pub fn forward(&self, exec: &Exec<'_>, x: &Tensor) -> Result<()> {
        expect_shape(x, &[x.dim(0)?, self.weight.dim(0)?], "the input of a layer norm")?;
        x.inplace_op3(&self.weight, &self.bias, &Op { exec, epsilon: self.epsilon })
    }
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    epsilon: f32,
}

impl InplaceOp3 for Op<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (weight, bias) = (floats(weight, weight_layout)?, floats(bias, bias_layout)?);
        Kernel { x: floats_mut(x, x_layout)?, weight, bias, epsilon: self.epsilon }.compute(self.exec.level());
        Ok(())
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        cuda::layer_norm(self.exec, (x, x_layout), (weight, weight_layout), (bias, bias_layout), self.epsilon)
    }
}
