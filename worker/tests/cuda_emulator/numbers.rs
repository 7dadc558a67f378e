//! Numbers of the three precisions: made up, rounded, compared.

use forebay_worker::device::Precision;
use half::{bf16, f16};

/// `len` numbers between -2 and 2 that `precision` can represent; the same for the same seed.
pub fn values(precision: Precision, len: usize, seed: u64) -> Vec<f32> {
    // SplitMix64 (Steele et al., 2014).
    let mut state = seed;
    let numbers: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    })
    .take(len)
    .collect();
    rounded(precision, &numbers)
}

pub fn rounded(precision: Precision, values: &[f32]) -> Vec<f32> {
    read(precision, &write(precision, values))
}

pub fn write(precision: Precision, values: &[f32]) -> Vec<u8> {
    let values = values.iter();
    match precision {
        Precision::F32 => values.flat_map(|x| x.to_ne_bytes()).collect(),
        Precision::F16 => values.flat_map(|x| f16::from_f32(*x).to_ne_bytes()).collect(),
        Precision::Bf16 => values.flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect(),
    }
}

pub fn read(precision: Precision, bytes: &[u8]) -> Vec<f32> {
    let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
    match precision {
        Precision::F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Precision::F16 => bytes.chunks_exact(2).map(|b| f16::from_ne_bytes(pair(b)).to_f32()).collect(),
        Precision::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes(pair(b)).to_f32()).collect(),
    }
}

/// Every number within `tolerance`, relative to its size where that is above 1. NaN is near nothing.
pub fn assert_near(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(near, "{what}: number {at} is {got}, expected {expected}");
    }
}
