//! A device that has warmed up takes no more memory, whatever batches come.

use std::path::Path;

use super::random::Random;
use super::report::{Case, Verdict};
use super::{rig, subject};
use crate::device::Device;
use crate::models::{Encoder, TokenBatch};

/// Batches of the same kind that come first.
const WARM_UP: usize = 25;
/// Largest batch, in inputs of the longest kind.
const LONGEST_INPUTS: usize = 8;
/// What the process itself may grow by: allocators keep pages in steps, and the report itself takes some.
const HOST_GROWTH_BYTES: u64 = 16 << 20;

/// Runs `batches` batches of random sizes and compares memory before and after.
pub fn case(folder: &Path, device: &Device, batches: usize, random: &mut Random) -> Case {
    let dtype = rig::precision(device).as_str();
    let name = "memory after warming up";
    try_case(name, folder, device, batches, random)
        .unwrap_or_else(|error| Case::failed(name, dtype, format!("{error:#}")))
}

fn try_case(name: &str, folder: &Path, device: &Device, batches: usize, random: &mut Random) -> anyhow::Result<Case> {
    let mut model = subject::load(folder, device)?;
    let (max, vocab_size) = (model.info.max_tokens, model.info.vocab_size);
    let largest = TokenBatch::from_rows((0..LONGEST_INPUTS).map(|_| random.ids(max, vocab_size)));
    model.encoder.encode(&largest)?;
    run(model.encoder.as_mut(), max, vocab_size, WARM_UP, random)?;
    let before = (resident_bytes(), rig::device_memory(device));
    run(model.encoder.as_mut(), max, vocab_size, batches, random)?;
    let after = (resident_bytes(), rig::device_memory(device));
    let growth = |(before, after): (u64, u64)| after.saturating_sub(before);
    let (host, on_device) = (before.0.zip(after.0).map(growth), before.1.zip(after.1).map(growth));
    let said = |what: &str, growth: Option<u64>| match growth {
        Some(bytes) => format!("{what} +{:.1} MiB", bytes as f64 / (1 << 20) as f64),
        None => format!("{what} not told"),
    };
    Ok(Case {
        shapes: format!("{batches} batches of up to {} tokens", largest.tokens()),
        limit: format!("device +0, process +{} MiB", HOST_GROWTH_BYTES >> 20),
        verdict: judge(host, on_device),
        detail: format!("{}, {}", said("process", host), said("device", on_device)),
        ..Case::failed(name, rig::precision(device).as_str(), "")
    })
}

/// What growth of the process and of the device, as far as they are known, says.
fn judge(host: Option<u64>, on_device: Option<u64>) -> Verdict {
    match (host, on_device) {
        (None, None) => Verdict::Noted,
        _ => Verdict::of(host.unwrap_or(0) <= HOST_GROWTH_BYTES && on_device.unwrap_or(0) == 0),
    }
}

/// Encodes batches of any number of tokens up to the largest, in rows of any length.
fn run(
    encoder: &mut dyn Encoder,
    max: usize,
    vocab_size: usize,
    batches: usize,
    random: &mut Random,
) -> anyhow::Result<()> {
    for _ in 0..batches {
        let mut left = random.between(1, max * LONGEST_INPUTS);
        let mut batch = TokenBatch::new();
        while left > 0 {
            let len = random.between(1, left.min(max));
            batch.push(&random.ids(len, vocab_size));
            left -= len;
        }
        encoder.encode(&batch)?;
    }
    Ok(())
}

/// What this process has in memory (Linux; elsewhere nothing is known).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_may_not_grow_at_all_and_the_process_a_little() {
        assert_eq!(judge(Some(HOST_GROWTH_BYTES), Some(0)), Verdict::Passed);
        assert_eq!(judge(Some(HOST_GROWTH_BYTES + 1), None), Verdict::Missed);
        assert_eq!(judge(Some(0), Some(1)), Verdict::Missed);
        assert_eq!(judge(None, None), Verdict::Noted);
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().unwrap() > 1 << 20);
        }
    }
}
