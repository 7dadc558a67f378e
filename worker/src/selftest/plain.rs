//! The definition of each layer in double precision, written to be read: what the CPU's kernels are compared with.
//!
//! Deliberately shares no line with [`crate::kernels`].

use candle_core::cpu::erf::erf_f64;

use crate::layers::linear::Finish;
use crate::layers::pooling::Pooling;

/// y = (x - mean) / √(variance + epsilon) · weight + bias for every row, `[rows, dim]`.
pub fn layer_norm(x: &[f64], weight: &[f32], bias: &[f32], epsilon: f64) -> Vec<f64> {
    let dim = weight.len();
    let row = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / dim as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim as f64;
        let parameters = weight.iter().zip(bias);
        row.iter()
            .zip(parameters)
            .map(|(x, (w, b))| (x - mean) / (variance + epsilon).sqrt() * f64::from(*w) + f64::from(*b))
            .collect()
    };
    x.chunks_exact(dim).flat_map(row).collect()
}

/// words\[id\] + positions\[position\] for every token, `[tokens, dim]`.
pub fn embedding(words: &[f32], positions: &[f32], dim: usize, rows: &[Vec<u32>]) -> Vec<f64> {
    let at = |table: &[f32], row: usize, i: usize| f64::from(table[row * dim + i]);
    let tokens = rows.iter().flat_map(|row| row.iter().enumerate());
    tokens.flat_map(|(p, id)| (0..dim).map(move |i| at(words, *id as usize, i) + at(positions, p, i))).collect()
}

/// finish(x Wᵀ + b): `x` is `[rows, k]`, `weight` `[n, k]`, `before` `[rows, n]` what the output held.
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], before: &[f32], finish: Finish) -> Vec<f64> {
    let (n, k) = (bias.len(), weight.len() / bias.len());
    let mut out = Vec::with_capacity(before.len());
    for (x, before) in x.chunks_exact(k).zip(before.chunks_exact(n)) {
        for ((weight, bias), before) in weight.chunks_exact(k).zip(bias).zip(before) {
            let dot: f64 = x.iter().zip(weight).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let y = dot + f64::from(*bias);
            out.push(match finish {
                Finish::Store => y,
                Finish::Gelu => 0.5 * y * (1.0 + erf_f64(y / std::f64::consts::SQRT_2)),
                Finish::Add => f64::from(*before) + y,
            });
        }
    }
    out
}

/// softmax(Q Kᵀ / √head_dim) V per head and sequence; `qkv` is `[tokens, 3 · heads · head_dim]`.
pub fn attention(qkv: &[f32], lengths: &[usize], heads: usize, head_dim: usize) -> Vec<f64> {
    let dim = heads * head_dim;
    let mut out = vec![0.0; qkv.len() / 3];
    let mut first = 0;
    for len in lengths {
        let vector = |part: usize, token: usize, head: usize| {
            let from = (first + token) * 3 * dim + part * dim + head * head_dim;
            &qkv[from..from + head_dim]
        };
        for (head, query) in (0..heads).flat_map(|head| (0..*len).map(move |query| (head, query))) {
            let score = |key: usize| -> f64 {
                let pairs = vector(0, query, head).iter().zip(vector(1, key, head));
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..*len).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            let answer = &mut out[(first + query) * dim + head * head_dim..][..head_dim];
            for (key, score) in scores.iter().enumerate() {
                let share = (score - largest).exp() / sum;
                for (answer, value) in answer.iter_mut().zip(vector(2, key, head)) {
                    *answer += share * f64::from(*value);
                }
            }
        }
        first += len;
    }
    out
}

/// One vector per sequence, `[rows, dim]`; no sequence is empty.
pub fn pool(hidden: &[f32], lengths: &[usize], dim: usize, pooling: Pooling) -> Vec<f64> {
    let mut out = Vec::with_capacity(lengths.len() * dim);
    let mut first = 0;
    for len in lengths {
        for i in 0..dim {
            let column = || (first..first + len).map(|token| f64::from(hidden[token * dim + i]));
            out.push(match pooling {
                Pooling::Cls => f64::from(hidden[first * dim + i]),
                Pooling::LastToken => f64::from(hidden[(first + len - 1) * dim + i]),
                Pooling::Mean => column().sum::<f64>() / *len as f64,
                Pooling::MeanSqrtLen => column().sum::<f64>() / (*len as f64).sqrt(),
                Pooling::Max => column().fold(f64::NEG_INFINITY, f64::max),
            });
        }
        first += len;
    }
    out
}
