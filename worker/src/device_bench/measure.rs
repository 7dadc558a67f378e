//! Batches of one shape, as many under way as the device takes, for a while.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::device::Op;
use crate::models::{Encoder, LoadedModel, TokenBatch};
use crate::selftest::in_flight;
use crate::selftest::random::Random;

/// Batches with different ids, in turn: a cache must not see the same table rows each time.
const BATCHES: usize = 4;
/// Rounds of which the middle one counts.
const ROUNDS: usize = 3;

/// What was measured of one shape.
pub struct Measured {
    /// Wall time per batch, with the next already under way.
    pub seconds: f64,
    /// Time of one batch alone, from handing it over until its answer is there.
    pub latency_seconds: f64,
    /// Seconds per batch in each operation, summed over threads where several compute.
    pub ops: [(Op, f64); Op::ALL.len()],
}

/// Measures `rows` rows of `length` tokens for at least `least`.
///
/// # Errors
/// What the engine reports; and an answer that is not finite.
pub fn measure(
    model: &mut LoadedModel,
    rows: usize,
    length: usize,
    least: Duration,
    random: &mut Random,
) -> anyhow::Result<Measured> {
    let mut batch = || TokenBatch::from_rows((0..rows).map(|_| random.ids(length, model.info.vocab_size)));
    let batches: [TokenBatch; BATCHES] = std::array::from_fn(|_| batch());
    let encoder = model.encoder.as_mut();
    let warm_up = run(encoder, &batches, BATCHES)?;
    let mut latencies: Vec<f64> = Vec::new();
    for batch in &batches {
        let begun = Instant::now();
        encoder.encode(batch)?;
        latencies.push(begun.elapsed().as_secs_f64());
    }
    let per_batch = warm_up / BATCHES as f64;
    let count = (least.as_secs_f64() / ROUNDS as f64 / per_batch).ceil().clamp(2.0, 1e5) as usize;
    let before = op_seconds(encoder);
    let mut rounds = (0..ROUNDS).map(|_| run(encoder, &batches, count)).collect::<anyhow::Result<Vec<_>>>()?;
    let after = op_seconds(encoder);
    rounds.sort_unstable_by(f64::total_cmp);
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(Measured {
        seconds: rounds[ROUNDS / 2] / count as f64,
        latency_seconds: latencies[BATCHES / 2],
        ops: std::array::from_fn(|i| (Op::ALL[i], (after[i] - before[i]) / (ROUNDS * count) as f64)),
    })
}

/// Seconds that `count` batches take.
fn run(encoder: &mut dyn Encoder, batches: &[TokenBatch], count: usize) -> anyhow::Result<f64> {
    let begun = Instant::now();
    in_flight(encoder, batches.iter().cycle().take(count), &mut |flight| {
        // Looked at as a worker looks at every answer; here one row will do.
        let embeddings = flight.wait()?;
        ensure!(embeddings.iter().next().is_none_or(|row| row[0].is_finite()), "an answer is not a number");
        Ok(())
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn op_seconds(encoder: &dyn Encoder) -> [f64; Op::ALL.len()] {
    let times = encoder.counters().map(|counters| counters.times());
    std::array::from_fn(|i| times.map_or(0.0, |times| times[i].1.as_secs_f64()))
}
