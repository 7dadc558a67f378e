//! Linear layers, with bias and what follows in one pass.

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};

use super::storage::{expect_shape, floats, floats_mut};
use crate::device::{Device, Exec};
pub use crate::kernels::cpu::linear::Finish;
use crate::kernels::cpu::linear::{Linear as Kernel, SharedOut};
use crate::kernels::cpu::packed::PackedMatrix;

/// y = finish(x Wᵀ + b), with `W` laid out for the device at load.
pub struct Linear {
    weight: PackedMatrix,
    /// `[out]`
    bias: Tensor,
}

impl Linear {
    /// One layer out of one or more that read the same input, their outputs side by side.
    ///
    /// * `weights`: `[out_i, in]` each, `f32`; `biases`: `[out_i]` each
    ///
    /// # Errors
    /// If shapes do not belong together.
    pub fn new(weights: &[Tensor], biases: &[Tensor], device: &Device) -> Result<Self> {
        let Device::Cpu(cpu) = device;
        let inputs = weights.first().map_or(Ok(0), |weight| weight.dim(1))?;
        for (weight, bias) in weights.iter().zip(biases) {
            expect_shape(weight, &[bias.elem_count(), inputs], "a linear weight")?;
        }
        let rows = weights.iter().map(|w| w.flatten_all()?.to_vec1::<f32>()).collect::<Result<Vec<_>>>()?;
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let weight = PackedMatrix::from_transposed(&rows, inputs, cpu.level());
        Ok(Self { weight, bias: Tensor::cat(biases, 0)? })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.weight.n()
    }

    /// * `x`: `[tokens, in]`, `out`: `[tokens, outputs]`, both `f32`
    ///
    /// # Errors
    /// If shapes do not belong together.
    pub fn forward(&self, exec: &Exec<'_>, x: &Tensor, out: &Tensor, finish: Finish) -> Result<()> {
        let tokens = x.dim(0)?;
        expect_shape(x, &[tokens, self.weight.k()], "the input of a linear layer")?;
        expect_shape(out, &[tokens, self.weight.n()], "the output of a linear layer")?;
        out.inplace_op3(x, &self.bias, &Op { exec, weight: &self.weight, finish })
    }
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    weight: &'a PackedMatrix,
    finish: Finish,
}

impl InplaceOp3 for Op<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (x, bias) = (floats(x, x_layout)?, floats(bias, bias_layout)?);
        let out = SharedOut::new(floats_mut(out, out_layout)?);
        let (weight, finish) = (self.weight, self.finish);
        self.exec.split(weight.panels(), &|panels| {
            // SAFETY: `out` is borrowed for this call, which returns after all parts; parts have disjoint panels.
            unsafe { Kernel { x, weight, bias, out, panels, finish }.compute(self.exec.level()) }
        });
        Ok(())
    }
}
