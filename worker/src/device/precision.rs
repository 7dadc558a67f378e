//! In which type a device keeps weights and activations.

use std::str::FromStr;

use candle_core::DType;

/// Type of weights and activations; sums are always taken in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one number.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// candle's name for it.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Least cosine between an answer and the reference's in `f32` that counts as the same answer.
    ///
    /// `bf16` has 8 bits of mantissa. PyTorch 2.15 in `bf16` falls to 0.9996 against its own `f32` on rows of one to eight random
    /// tokens (12 of 160 with a tiny BERT, 10 of 160 with MiniLM are below 0.9999), so a closer bound would fail devices that are right.
    pub const fn least_cosine(self) -> f64 {
        match self {
            Self::F32 => 0.99999,
            Self::F16 => 0.9999,
            Self::Bf16 => 0.9995,
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |precision: &Self| precision.as_str() == text;
        Self::ALL.into_iter().find(known).ok_or_else(|| format!("{text:?} is not one of f32, f16, bf16"))
    }
}
