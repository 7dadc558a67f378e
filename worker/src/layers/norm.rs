//! LayerNorm in place.

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};

use super::storage::{expect_shape, floats, floats_mut};
use crate::device::Exec;
use crate::kernels::cpu::norm::LayerNorm as Kernel;

/// Normalises every row to mean 0 and variance 1, then scales and shifts it.
pub struct LayerNorm {
    /// `[dim]`
    weight: Tensor,
    /// `[dim]`
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// * `weight`, `bias`: `[dim]`, `f32`
    pub fn new(weight: Tensor, bias: Tensor, epsilon: f64) -> Self {
        Self { weight, bias, epsilon: epsilon as f32 }
    }

    /// * `x`: `[tokens, dim]`, `f32`, in place
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
}
