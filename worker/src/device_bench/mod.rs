//! How fast a device runs a model without queue, HTTP or batching policy: `forebay device-bench`.
//!
//! A device that computes wrongly is fast at nothing: [`run`] tests it first, in the same process, and no figure exists
//! without that. Each figure stands beside what its bytes and multiplications must take at least (`cost`).

mod cost;
mod measure;
mod report;
mod settings;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::device::Device;
use crate::models::folder::ModelFolder;
use crate::models::{self, LoadedModel, ModelSource, TokenBatch};
use crate::selftest::random::Random;
use crate::selftest::{self, SelfTestArgs, rig};
use cost::{Limits, Shape};

pub use report::{BenchReport, Cell, Start};
pub use settings::DeviceBenchArgs;

/// Tests the device with the model, then measures it.
///
/// # Errors
/// If the device or the model cannot be used, and if the self-test finds anything.
pub fn run(args: &DeviceBenchArgs) -> anyhow::Result<BenchReport> {
    let shape: Shape = ModelFolder::open(&args.model)?.config()?;
    let (mut model, device, start) = start(args)?;
    let test = SelfTestArgs {
        threads: args.threads,
        models: vec![args.model.clone()],
        seed: args.seed,
        ..SelfTestArgs::new(args.device.clone(), args.dtype)
    };
    let tested = selftest::run(&test)?;
    if !tested.is_passed() {
        let (passed, all) = tested.passed_of();
        let missed: Vec<&str> = tested.missed().map(|case| case.name.as_str()).collect();
        bail!("the self-test passed {passed} of {all}, so no speed means anything; missed: {}", missed.join("; "));
    }
    let precision = rig::precision(&device);
    let limits = Limits::of(&tested.device, precision, args.bandwidth, args.peak);
    let mut random = Random::new(args.seed);
    let mut cells = Vec::new();
    let longest = model.info.max_tokens;
    for length in args.lengths.iter().copied().filter(|length| *length <= longest) {
        for rows in args.rows.iter().copied() {
            let least = Duration::from_secs_f64(args.seconds);
            let measured = measure::measure(&mut model, rows, length, least, &mut random);
            cells.push(Cell::new(rows, length, measured, &shape, precision, limits));
        }
    }
    Ok(BenchReport {
        device: tested.device.clone(),
        stand_in: tested.stand_in,
        model: model.info.name.clone(),
        dtype: precision.as_str(),
        self_test: tested.passed_of(),
        limits,
        start,
        depth: model.encoder.depth(),
        cells,
    })
}

/// Loads the model as a worker does at its start, and takes the time.
fn start(args: &DeviceBenchArgs) -> anyhow::Result<(LoadedModel, Device, Start)> {
    let begun = Instant::now();
    let device = rig::open(&args.device, args.threads, args.dtype)?;
    let open = begun.elapsed();
    let begun = Instant::now();
    let mut model = models::load(&ModelSource::Folder(args.model.clone()), &device, &|_| ())?;
    let load = begun.elapsed();
    model.encoder.encode(&TokenBatch::from_rows([[0]]))?;
    let ready = since_process_start().unwrap_or_default();
    let read = read_again(&args.model).with_context(|| format!("cannot read {}", args.model.display()))?;
    let seconds = |duration: Duration| duration.as_secs_f64();
    let start = Start {
        ready_seconds: seconds(ready),
        open_seconds: seconds(open),
        load_seconds: seconds(load),
        read_seconds: seconds(read),
        weights_bytes: model.info.size_bytes,
    };
    Ok((model, device, start))
}

/// Time to read the weights once more, from the page cache where it holds them: what loading cannot be faster than.
fn read_again(folder: &Path) -> std::io::Result<Duration> {
    let begun = Instant::now();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some("safetensors".as_ref()) {
            std::io::copy(&mut std::fs::File::open(path)?, &mut Touch)?;
        }
    }
    Ok(begun.elapsed())
}

/// Takes bytes as reading does and keeps none. (`std::io::sink` lets Linux skip the copy.)
struct Touch;

impl std::io::Write for Touch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(std::hint::black_box(bytes).len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Age of this process to a hundredth of a second (Linux; elsewhere nothing is known).
fn since_process_start() -> Option<Duration> {
    /// `USER_HZ`, which is 100 on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    /// Field 22 of `/proc/self/stat`, counted from the third, which follows the name in brackets.
    const START_TIME: usize = 22 - 3;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let started: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(START_TIME)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(now - started / TICKS_PER_SECOND).ok()
}
