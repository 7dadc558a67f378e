//! Speed of an encoder on this machine, without queue, HTTP or batching policy.
//!
//! ```text
//! cargo bench -p forebay-worker --bench encoder -- <model folder> <sentences.txt> [threads]
//! ```
//! Prints sentences, tokens and GFLOP per second for batches of 64 and for fixed shapes, the share of time per kernel, what
//! the output check and the tokenizer cost, and the machine's own multiply-add rate to compare with. Every figure is the
//! median of several passes, and GFLOP per second are also given per second of CPU time, because other processes may share
//! the cores.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay_worker::device::{Device, Op};
use forebay_worker::kernels::cpu::Level;
use forebay_worker::kernels::cpu::simd::{Kernel, Simd};
use forebay_worker::models::{self, Embeddings, Encoder, LoadedModel, ModelSource, TokenBatch};
use forebay_worker::output_check::OutputCheck;

/// Least time per figure.
const LEAST: Duration = Duration::from_millis(700);

fn main() {
    // cargo passes `--bench` along.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let [model, sentences, rest @ ..] = args.as_slice() else {
        println!("usage: cargo bench -p forebay-worker --bench encoder -- <model folder> <sentences.txt> [threads]");
        return;
    };
    let threads = rest.first().map(|text| text.parse().expect("threads is a number"));
    let device = Device::cpu(threads).expect("the machine has threads");
    let start = Instant::now();
    let mut model =
        models::load(&ModelSource::parse(model), &device, &|_| ()).unwrap_or_else(|error| panic!("{error}"));
    println!("{} on {}, loaded in {:.0?}", model.info.name, device.describe(), start.elapsed());
    for level in Level::available() {
        println!("multiply-add peak of one thread, {}: {:.0} GFLOP/s", level.as_str(), peak(level));
    }
    let text = std::fs::read_to_string(sentences).expect("the sentences can be read");
    let shape = Shape::read(Path::new(&args[0]));
    let rows = tokenize(&model, &text);
    whole_file(&mut model, &rows, &shape);
    for (count, len) in [(1, 8), (1, 16), (1, 25), (1, 128), (8, 16), (32, 16), (32, 128), (8, 256)] {
        let len = len.min(model.info.max_tokens);
        let batch = TokenBatch::from_rows(
            (0..count).map(|i| (0..len).map(|t| 1000 + (i * 31 + t * 7) as u32 % 20000).collect::<Vec<_>>()),
        );
        if batch.validate(model.info.vocab_size, model.info.max_tokens).is_err() {
            continue;
        }
        let time = median(|| drop(model.encoder.encode(&batch).expect("the batch is valid")));
        report(&format!("{count} x {len}"), count, &[len].repeat(count), time, &shape);
    }
}

/// What a forward pass costs, from `config.json`.
struct Shape {
    layers: f64,
    hidden: f64,
    inner: f64,
}

impl Shape {
    fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a model folder has config.json");
        let config: serde_json::Value = serde_json::from_str(&text).expect("config.json is JSON");
        let number = |key: &str| config[key].as_f64().expect("a BERT configuration");
        Self { layers: number("num_hidden_layers"), hidden: number("hidden_size"), inner: number("intermediate_size") }
    }

    /// Multiplications and additions for one sequence, matrix products only.
    fn flops(&self, len: usize) -> f64 {
        let linear = 4.0 * self.hidden * self.hidden + 2.0 * self.hidden * self.inner;
        let attention = 2.0 * self.hidden * len as f64;
        2.0 * self.layers * len as f64 * (linear + attention)
    }
}

fn tokenize(model: &LoadedModel, text: &str) -> Vec<Vec<u32>> {
    let lines: Vec<&str> = text.lines().collect();
    let encode = |line: &&str| {
        let mut ids = Vec::new();
        model.tokenizer.encode(line, true, &mut ids).expect("plain text");
        ids
    };
    let rows: Vec<Vec<u32>> = lines.iter().map(encode).collect();
    let time = median(|| lines.iter().map(encode).for_each(drop));
    println!("tokenizer, one thread: {:.1} us per sentence", time.cpu.as_secs_f64() * 1e6 / lines.len() as f64);
    rows
}

/// All sentences in batches of 64, in the order of the file.
fn whole_file(model: &mut LoadedModel, rows: &[Vec<u32>], shape: &Shape) {
    let batches: Vec<TokenBatch> = rows.chunks(64).map(TokenBatch::from_rows).collect();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let before = times(model.encoder.as_ref());
    let mut answers: Vec<Embeddings> = Vec::new();
    let time = median(|| answers = batches.iter().map(|batch| model.encoder.encode(batch).expect("valid")).collect());
    report("file, batches of 64", rows.len(), &lengths, time, shape);
    let spent: Vec<(Op, f64)> = times(model.encoder.as_ref())
        .iter()
        .zip(&before)
        .map(|((op, after), (_, before))| (*op, after - before))
        .collect();
    let all: f64 = spent.iter().map(|(_, seconds)| seconds).sum();
    let share = |(op, seconds): &(Op, f64)| format!("{} {:.1}%", op.as_str(), seconds / all * 100.0);
    println!("    {}", spent.iter().map(share).collect::<Vec<_>>().join(", "));
    let mut check = OutputCheck::new();
    let checking = median(|| {
        for (batch, answer) in batches.iter().zip(&answers) {
            assert!(check.check(batch, answer).is_empty(), "a good model has good answers");
        }
    });
    println!(
        "    output check: {:.3}% of the forward pass's CPU time",
        checking.cpu.as_secs_f64() / time.cpu.as_secs_f64() * 100.0
    );
}

fn times(encoder: &dyn Encoder) -> Vec<(Op, f64)> {
    let counters = encoder.counters().expect("an encoder that computes");
    counters.times().map(|(op, time)| (op, time.as_secs_f64())).to_vec()
}

fn report(what: &str, sentences: usize, lengths: &[usize], time: Cost, shape: &Shape) {
    let seconds = time.wall.as_secs_f64();
    let tokens: usize = lengths.iter().sum();
    let flops: f64 = lengths.iter().map(|len| shape.flops(*len)).sum();
    println!(
        "{what:>20}: {:8.2} ms {:8.1} sentences/s {:8.0} tokens/s {:5.0} GFLOP/s, {:4.0} per core in use",
        seconds * 1e3,
        sentences as f64 / seconds,
        tokens as f64 / seconds,
        flops / seconds / 1e9,
        flops / time.cpu.as_secs_f64() / 1e9,
    );
}

/// What one pass takes.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    /// CPU time of all threads: what the pass takes on a machine without other work.
    cpu: Duration,
}

/// Median wall time and mean CPU time of `work` over as many passes as fit, at least five, after one to warm up.
fn median(mut work: impl FnMut()) -> Cost {
    work();
    let (mut passes, start, cpu) = (Vec::new(), Instant::now(), cpu_time());
    while passes.len() < 5 || start.elapsed() < LEAST {
        let pass = Instant::now();
        work();
        passes.push(pass.elapsed());
    }
    let cpu = (cpu_time() - cpu) / passes.len() as u32;
    passes.sort_unstable();
    Cost { wall: passes[passes.len() / 2], cpu }
}

/// CPU time of this process's living threads so far (Linux; nothing elsewhere).
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let run = |task: std::fs::DirEntry| -> Option<u64> {
        std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(run).sum())
}

/// Independent multiply-adds, as many at a time as hide their latency.
struct Chains;

impl Kernel for Chains {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        const ROUNDS: usize = 1 << 22;
        let (factor, mut sums) = (s.splat(0.999), [s.splat(1.0); CHAINS]);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, factor);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let total: f32 = sums.iter().map(|sum| s.sum_lanes(*sum)).sum();
        std::hint::black_box(total);
        (2 * ROUNDS * CHAINS * S::LANES) as f64 / seconds / 1e9
    }
}

fn peak(level: Level) -> f64 {
    (0..5).map(|_| level.run(Chains)).fold(0.0, f64::max)
}
