//! What a forward pass must multiply, read and write, from the shape of the model: the floor under its time.
//!
//! With T tokens, H hidden, I intermediate and L layers, every operation counts all its L calls. Multiplications are those of
//! matrix products, 2 FLOP per multiply-add; norms, softmax and GELU count as nothing. Bytes are weights once per batch, and
//! each operand read or written once, as if nothing stayed in a cache and nothing was fused.

use serde::{Deserialize, Serialize};

use crate::device::{Op, Precision};

/// The part of `config.json` that decides what a pass costs.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Shape {
    #[serde(rename = "num_hidden_layers")]
    pub layers: f64,
    #[serde(rename = "hidden_size")]
    pub hidden: f64,
    #[serde(rename = "intermediate_size")]
    pub inner: f64,
}

/// What one operation costs in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

impl Shape {
    /// `rows` sequences of `length` tokens.
    pub fn cost(&self, op: Op, rows: usize, length: usize, precision: Precision) -> Cost {
        let Self { layers, hidden, inner } = *self;
        let (rows, length) = (rows as f64, length as f64);
        let tokens = rows * length;
        let (narrow, wide) = (tokens * hidden, tokens * inner);
        let product = |inputs: f64, outputs: f64, moved: f64| {
            (layers * 2.0 * tokens * inputs * outputs, layers * (inputs * outputs + moved))
        };
        let (flops, numbers) = match op {
            Op::Embedding => (0.0, 3.0 * narrow),
            Op::Qkv => product(hidden, 3.0 * hidden, 4.0 * narrow),
            // Q Kᵀ and P V: two products of length² · hidden each.
            Op::Attention => (layers * 4.0 * rows * length * length * hidden, layers * 4.0 * narrow),
            Op::Projection => product(hidden, hidden, 3.0 * narrow),
            Op::Up => product(hidden, inner, narrow + wide),
            Op::Down => product(inner, hidden, wide + 2.0 * narrow),
            Op::Norm => (0.0, (2.0 * layers + 1.0) * 2.0 * narrow),
            Op::Pooling => (0.0, narrow + rows * hidden),
        };
        Cost { flops, bytes: numbers * precision.size_bytes() as f64 }
    }

    /// Multiplications and additions of a whole pass.
    pub fn flops(&self, rows: usize, length: usize) -> f64 {
        Op::ALL.iter().map(|op| self.cost(*op, rows, length, Precision::F32).flops).sum()
    }
}

/// What a device can do at most, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    pub bandwidth_tb_s: Option<f64>,
    pub peak_tflop_s: Option<f64>,
}

impl Limits {
    /// What was given, else what is known of the device.
    pub fn of(device: &str, precision: Precision, bandwidth: Option<f64>, peak: Option<f64>) -> Self {
        let known = device.contains("H200") && !device.contains("MIG");
        let half = precision != Precision::F32;
        Self {
            bandwidth_tb_s: bandwidth.or(known.then_some(4.3)),
            peak_tflop_s: peak.or((known && half).then_some(790.0)),
        }
    }

    /// Least time in seconds, and what sets it; nothing while nothing is known.
    pub fn floor(&self, cost: Cost) -> Option<(f64, &'static str)> {
        let compute = self.peak_tflop_s.map(|peak| (cost.flops / (peak * 1e12), "products"));
        let memory = self.bandwidth_tb_s.map(|bandwidth| (cost.bytes / (bandwidth * 1e12), "memory"));
        compute.into_iter().chain(memory).max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINILM: Shape = Shape { layers: 6.0, hidden: 384.0, inner: 1536.0 };

    #[test]
    fn a_pass_costs_what_its_products_cost() {
        // Per token and layer 4 H² + 2 H I in linear layers and 2 H per key in attention, 2 FLOP each.
        let by_hand = 2.0 * 6.0 * 100.0 * (4.0 * 384.0 * 384.0 + 2.0 * 384.0 * 1536.0 + 2.0 * 384.0 * 25.0);
        assert_eq!(MINILM.flops(4, 25), by_hand);
        let up = MINILM.cost(Op::Up, 1, 1, Precision::Bf16);
        assert_eq!(up.bytes, 2.0 * 6.0 * (384.0 * 1536.0 + 384.0 + 1536.0));
    }

    #[test]
    fn the_slower_of_memory_and_products_is_the_floor() {
        let limits = Limits::of("NVIDIA H200", Precision::Bf16, None, None);
        assert_eq!(limits.floor(Cost { flops: 790e12, bytes: 4.3e11 }), Some((1.0, "products")));
        assert_eq!(limits.floor(Cost { flops: 0.0, bytes: 4.3e12 }), Some((1.0, "memory")));
        let cpu = Limits::of("cpu, 2 threads", Precision::F32, None, None);
        assert_eq!(cpu.floor(Cost { flops: 1.0, bytes: 1.0 }), None);
        assert_eq!(
            Limits::of("cpu", Precision::F32, Some(0.1), None).floor(Cost { flops: 1.0, bytes: 1e11 }),
            Some((1.0, "memory"))
        );
    }
}
