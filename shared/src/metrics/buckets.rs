//! Bucket bounds, one constant per quantity. Their hash is part of a report, so changing one here is safe in a rolling
//! update: old and new stand as separate series until the old processes are gone.

use sha2::{Digest, Sha256};

/// Seconds a caller waits: request latency, time in the queue. 0.2 is there because alerts ask for it.
pub const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds one batch spends in one stage on the worker, from a single short text on a fast device upwards.
pub const COMPUTE_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Seconds to read weights and warm up.
pub const LOAD_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Rows in one batch or jobs in one bundle.
pub const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Tokens in one batch.
pub const TOKENS: &[f64] =
    &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0];

/// A share of a limit, 0 to 1.
pub const RATIO: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Identifies a set of bounds on the wire: histograms with different ids are never added up. 0 means "no histogram".
pub fn schema_id(bounds: &[f64]) -> u32 {
    if bounds.is_empty() {
        return 0;
    }
    let mut hash = Sha256::new();
    for bound in bounds {
        hash.update(bound.to_le_bytes());
    }
    let digest = hash.finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}
