//! From token vectors to one vector per sequence, as sentence-transformers' `Pooling` and `Normalize` modules do.

use candle_core::{CpuStorage, CudaStorage, InplaceOp2, Layout, Result, Tensor, bail};

use super::PackedRows;
use super::storage::{expect_shape, floats, floats_mut};
use crate::device::Exec;
pub use crate::kernels::cpu::norm::l2_normalize;
use crate::kernels::cpu::pooling::{maximum, scaled_sum};
use crate::kernels::cuda::run as cuda;

/// How the token vectors of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// The largest value per dimension.
    Max,
    /// The sum divided by the square root of the length.
    MeanSqrtLen,
    /// The last token's vector.
    LastToken,
}

impl Pooling {
    pub const ALL: [Self; 5] = [Self::Cls, Self::Mean, Self::Max, Self::MeanSqrtLen, Self::LastToken];

    /// The name that sentence-transformers uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::MeanSqrtLen => "mean_sqrt_len",
            Self::LastToken => "lasttoken",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|pooling| pooling.as_str() == name || (name, *pooling) == ("mean_sqrt_len_tokens", Self::MeanSqrtLen))
    }
}

/// Pools. Not scaled to length 1: whether to is the request's choice, see [`l2_normalize`].
///
/// * `hidden`: `[tokens, dim]`, of the device's type
/// * `rows`: which tokens belong together; no sequence is empty
/// * `out`: `[rows, dim]`, `f32`
///
/// # Errors
/// If shapes do not belong together.
pub fn pool(exec: &Exec<'_>, hidden: &Tensor, rows: &PackedRows, pooling: Pooling, out: &Tensor) -> Result<()> {
    expect_shape(out, &[rows.rows(), hidden.dim(1)?], "the output of pooling")?;
    out.inplace_op2(hidden, &Op { exec, rows, pooling, dim: hidden.dim(1)? })
}

struct Op<'a> {
    exec: &'a Exec<'a>,
    rows: &'a PackedRows,
    pooling: Pooling,
    dim: usize,
}

impl InplaceOp2 for Op<'_> {
    fn name(&self) -> &'static str {
        "pooling"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, hidden: &CpuStorage, layout: &Layout) -> Result<()> {
        let (hidden, out) = (floats(hidden, layout)?, floats_mut(out, out_layout)?);
        for (bounds, row) in self.rows.offsets.windows(2).zip(out.chunks_exact_mut(self.dim)) {
            let tokens = &hidden[bounds[0] as usize * self.dim..bounds[1] as usize * self.dim];
            let len = (bounds[1] - bounds[0]) as f32;
            match self.pooling {
                Pooling::Mean => scaled_sum(tokens, row, 1.0 / len),
                Pooling::MeanSqrtLen => scaled_sum(tokens, row, 1.0 / len.sqrt()),
                Pooling::Max => maximum(tokens, row),
                Pooling::Cls => row.copy_from_slice(&tokens[..self.dim]),
                Pooling::LastToken => row.copy_from_slice(&tokens[tokens.len() - self.dim..]),
            }
        }
        Ok(())
    }

    fn cuda_fwd(
        &self,
        out: &mut CudaStorage,
        out_layout: &Layout,
        hidden: &CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let Some(rows) = &self.rows.on_device else { bail!("the boundaries of this batch are not on the GPU") };
        cuda::pool(self.exec, (out, out_layout), (hidden, layout), rows, self.pooling, self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Counters, Device};
    use crate::models::TokenBatch;
    use candle_core::{DType, Device as CandleDevice};

    #[test]
    fn each_mode_sees_its_own_sequence_only() {
        let hidden =
            Tensor::new(&[[1f32, -2.0], [3.0, 4.0], [9.0, 9.0], [5.0, 0.0], [1.0, 7.0]], &CandleDevice::Cpu).unwrap();
        let device = Device::cpu(Some(1)).unwrap();
        let batch = TokenBatch::from_rows([vec![0; 2], vec![0; 3]]);
        let rows = PackedRows::gather(&batch, &[0, 1], &CandleDevice::Cpu).unwrap();
        let root2 = 2f32.sqrt();
        let cases = [
            (Pooling::Cls, [1.0, -2.0]),
            (Pooling::Mean, [2.0, 1.0]),
            (Pooling::Max, [3.0, 4.0]),
            (Pooling::MeanSqrtLen, [4.0 / root2, 2.0 / root2]),
            (Pooling::LastToken, [3.0, 4.0]),
        ];
        for (pooling, expected) in cases {
            let out = Tensor::zeros((2, 2), DType::F32, &CandleDevice::Cpu).unwrap();
            device.with_exec(&Counters::default(), |exec| pool(exec, &hidden, &rows, pooling, &out)).unwrap();
            let rows = out.to_vec2::<f32>().unwrap();
            assert!(rows[0].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{pooling:?} {rows:?}");
            assert_eq!(Pooling::parse(pooling.as_str()), Some(pooling));
        }
    }
}
