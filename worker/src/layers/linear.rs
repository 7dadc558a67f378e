//! Linear layers, with bias and what follows in one pass.

use candle_core::{CpuStorage, CudaStorage, InplaceOp3, Layout, Result, Tensor, bail};

use super::storage::{expect_shape, floats, floats_mut};
use crate::device::{Device, Exec};
pub use crate::kernels::cpu::linear::Finish;
use crate::kernels::cpu::linear::{Linear as Kernel, SharedOut};
use crate::kernels::cpu::packed::PackedMatrix;
use crate::kernels::cuda::run as cuda;

/// y = finish(x Wᵀ + b), with `W` laid out for the device at load.
pub struct Linear {
    weight: Weight,
    /// `[out]`
    bias: Tensor,
    inputs: usize,
    outputs: usize,
}

enum Weight {
    /// In the order in which the CPU's product reads it.
    Packed(PackedMatrix),
    /// `[out, in]`, of the device's type
    Plain(Tensor),
}

impl Linear {
    /// One layer out of one or more that read the same input, their outputs side by side.
    ///
    /// * `weights`: `[out_i, in]` each, `f32`; `biases`: `[out_i]` each
    ///
    /// # Errors
    /// If shapes do not belong together.
    pub fn new(weights: &[Tensor], biases: &[Tensor], device: &Device) -> Result<Self> {
        let inputs = weights.first().map_or(Ok(0), |weight| weight.dim(1))?;
        for (weight, bias) in weights.iter().zip(biases) {
            expect_shape(weight, &[bias.elem_count(), inputs], "a linear weight")?;
        }
        let bias = Tensor::cat(biases, 0)?;
        let outputs = bias.elem_count();
        let dtype = device.precision().dtype();
        let weight = match device {
            Device::Cpu(cpu) => {
                let rows = weights.iter().map(|w| w.flatten_all()?.to_vec1::<f32>()).collect::<Result<Vec<_>>>()?;
                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                Weight::Packed(PackedMatrix::from_transposed(&rows, inputs, cpu.level()))
            }
            // Converted on the host: the copy is half as long, and the device needs no room for both.
            Device::Cuda(gpu) => Weight::Plain(Tensor::cat(weights, 0)?.to_dtype(dtype)?.to_device(gpu.tensors())?),
        };
        Ok(Self { weight, bias: bias.to_dtype(dtype)?.to_device(device.tensors())?, inputs, outputs })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// * `x`: `[tokens, in]`, `out`: `[tokens, outputs]`, both of the device's type. On a GPU, rows of `out`'s allocation beyond its
    ///   own, up to a multiple of 64, are overwritten.
    ///
    /// # Errors
    /// If shapes do not belong together.
    pub fn forward(&self, exec: &Exec<'_>, x: &Tensor, out: &Tensor, finish: Finish) -> Result<()> {
        let tokens = x.dim(0)?;
        expect_shape(x, &[tokens, self.inputs], "the input of a linear layer")?;
        expect_shape(out, &[tokens, self.outputs], "the output of a linear layer")?;
        out.inplace_op3(x, &self.bias, &Op { exec, weight: &self.weight, finish })
    }
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    weight: &'a Weight,
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
        let Weight::Packed(weight) = self.weight else { bail!("the weights are on a GPU, the input is not") };
        let finish = self.finish;
        self.exec.split(weight.panels(), &|panels| {
            // SAFETY: `out` is borrowed for this call, which returns after all parts; parts have disjoint panels.
            unsafe { Kernel { x, weight, bias, out, panels, finish }.compute(self.exec.level()) }
        });
        Ok(())
    }

    fn cuda_fwd(
        &self,
        out: &mut CudaStorage,
        out_layout: &Layout,
        x: &CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let Weight::Plain(weight) = self.weight else { bail!("the input is on a GPU, the weights are not") };
        cuda::linear(self.exec, (out, out_layout), (x, x_layout), weight, (bias, bias_layout), self.finish)
    }
}
