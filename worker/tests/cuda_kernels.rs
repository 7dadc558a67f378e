//! CUDA kernels against their CPU twins, on the emulator: the same sources, the launches that a GPU would get.
//!
//! Outputs start as NaN and end in a sentinel, blocks run forwards and backwards and must agree in every bit. What this cannot
//! show is in the emulator's own words (`cuda_emulator/emulator.cpp`). Without a C++ compiler these tests say so and pass.

mod cuda_emulator;

use cuda_emulator::memory::{Floats, Words};
use cuda_emulator::numbers::{self, assert_near, values};
use cuda_emulator::{Arg, Emulator};
use forebay_worker::device::Precision;
use forebay_worker::kernels::cpu::attention::Attention;
use forebay_worker::kernels::cpu::linear::SharedOut;
use forebay_worker::kernels::cpu::norm::LayerNorm;
use forebay_worker::kernels::cpu::simd::{Kernel, Simd};
use forebay_worker::kernels::cpu::{Level, embedding, math, pooling};
use forebay_worker::kernels::cuda::launch::{self, Launch};
use forebay_worker::layers::pooling::Pooling;

const DIMS: [usize; 6] = [33, 64, 384, 768, 1024, 1100];
const EPSILON: f32 = 1e-12;

/// What rounding an output costs, and the arithmetic before it.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::F16 => 6e-4,
        Precision::Bf16 => 4.5e-3,
    }
}

fn cpu_layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32]) {
    LayerNorm { x, weight, bias, epsilon: EPSILON }.compute(Level::detect());
}

#[test]
fn layer_norm_is_its_twin() {
    let Some(emulator) = Emulator::load() else { return };
    for precision in Precision::ALL {
        for dim in DIMS {
            let tokens = 9;
            // A mean far from 0: the variance must not cancel.
            let x: Vec<f32> = values(precision, tokens * dim, dim as u64).iter().map(|x| x + 8.0).collect();
            let x = numbers::rounded(precision, &x);
            let (weight, bias) = (values(Precision::F32, dim, 1), values(Precision::F32, dim, 2));
            let mut expected = x.clone();
            cpu_layer_norm(&mut expected, &weight, &bias);
            let (gamma, beta) = (Floats::of(Precision::F32, &weight), Floats::of(Precision::F32, &bias));
            let run = |rows: std::ops::Range<usize>| {
                emulator.both_ways(&launch::layer_norm(precision, rows.len(), dim), || {
                    let out = Floats::of(precision, &x[rows.start * dim..rows.end * dim]);
                    let args = vec![out.arg(), gamma.arg(), beta.arg(), Arg::F32(EPSILON)];
                    (out, [args, vec![Arg::U32(rows.len() as u32), Arg::U32(dim as u32)]].concat())
                })
            };
            let all = run(0..tokens);
            assert_near(&all, &expected, tolerance(precision), &format!("{precision:?}, {dim}"));
            assert_eq!(run(5..6), all[5 * dim..6 * dim], "alone as in company: {precision:?}, {dim}");
        }
    }
}

#[test]
fn embed_norm_is_its_twin() {
    let Some(emulator) = Emulator::load() else { return };
    for precision in Precision::ALL {
        for dim in DIMS {
            let (ids, position_ids) = ([3, 0, 10, 10, 7, 1, 2], [0, 1, 2, 0, 4, 3, 0]);
            let (words, positions) = (values(precision, 11 * dim, 3), values(precision, 5 * dim, 4));
            let (weight, bias) = (values(Precision::F32, dim, 1), values(Precision::F32, dim, 2));
            let mut expected = vec![0.0; ids.len() * dim];
            embedding::gather_sum(&words, &positions, &ids, &position_ids, &mut expected, dim);
            cpu_layer_norm(&mut expected, &weight, &bias);
            let tables = [Floats::of(precision, &words), Floats::of(precision, &positions)];
            let affine = [Floats::of(Precision::F32, &weight), Floats::of(Precision::F32, &bias)];
            let run = |ids: &[u32], position_ids: &[u32]| {
                let (id_words, position_words) = (Words::of(ids), Words::of(position_ids));
                emulator.both_ways(&launch::embed_norm(precision, ids.len(), dim), || {
                    let out = Floats::unset(precision, ids.len() * dim);
                    let args = vec![tables[0].arg(), tables[1].arg(), affine[0].arg(), affine[1].arg()];
                    let more = vec![Arg::F32(EPSILON), id_words.arg(), position_words.arg(), out.arg()];
                    (out, [args, more, vec![Arg::U32(ids.len() as u32), Arg::U32(dim as u32)]].concat())
                })
            };
            let all = run(&ids, &position_ids);
            assert_near(&all, &expected, tolerance(precision), &format!("{precision:?}, {dim}"));
            assert_eq!(run(&ids[4..5], &position_ids[4..5]), all[4 * dim..5 * dim], "alone as in company");
        }
    }
}

struct Gelu<'a>(&'a mut [f32]);

impl Kernel for Gelu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for chunk in self.0.chunks_mut(S::LANES) {
            // SAFETY: exactly the numbers of the chunk are read and written.
            unsafe {
                let x = s.load_part(chunk.as_ptr(), chunk.len());
                s.store_part(chunk.as_mut_ptr(), math::gelu(s, x), chunk.len());
            }
        }
    }
}

#[test]
fn bias_gelu_is_its_twin() {
    let Some(emulator) = Emulator::load() else { return };
    for precision in Precision::ALL {
        for (rows, n) in [(1, 33), (9, 64), (25, 1536), (8, 1100), (17, 3072)] {
            let x: Vec<f32> = values(precision, rows * n, 5).iter().map(|x| 3.0 * x).collect();
            let x = numbers::rounded(precision, &x);
            let bias = values(precision, n, 6);
            let mut expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + bias[i % n]).collect();
            Level::detect().run(Gelu(&mut expected));
            let addend = Floats::of(precision, &bias);
            let got = emulator.both_ways(&launch::bias_gelu(precision, rows, n), || {
                let out = Floats::of(precision, &x);
                let args = vec![out.arg(), addend.arg(), Arg::U32(rows as u32), Arg::U32(n as u32)];
                (out, args)
            });
            assert_near(&got, &expected, tolerance(precision), &format!("{precision:?}, {rows} × {n}"));
        }
    }
}

/// Boundaries of sequences of these lengths.
fn offsets(lengths: &[u32]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn cpu_pool(pooling: Pooling, tokens: &[f32], out: &mut [f32]) {
    let (dim, count) = (out.len(), (tokens.len() / out.len()) as f32);
    match pooling {
        _ if tokens.is_empty() => out.fill(0.0),
        Pooling::Cls => out.copy_from_slice(&tokens[..dim]),
        Pooling::LastToken => out.copy_from_slice(&tokens[tokens.len() - dim..]),
        Pooling::Mean => pooling::scaled_sum(tokens, out, 1.0 / count),
        Pooling::MeanSqrtLen => pooling::scaled_sum(tokens, out, 1.0 / count.sqrt()),
        Pooling::Max => pooling::maximum(tokens, out),
    }
}

#[test]
fn pooling_is_its_twin() {
    let Some(emulator) = Emulator::load() else { return };
    let offsets = offsets(&[25, 0, 1, 300, 64, 0, 65, 129]);
    let (rows, tokens) = (offsets.len() - 1, offsets[offsets.len() - 1] as usize);
    let bounds = Words::of(&offsets);
    for precision in Precision::ALL {
        for dim in [33, 384, 1100] {
            let hidden = values(precision, tokens * dim, 7);
            let input = Floats::of(precision, &hidden);
            for (mode, pooling) in Pooling::ALL.into_iter().enumerate() {
                let mut expected = vec![0.0; rows * dim];
                for (row, out) in expected.chunks_mut(dim).enumerate() {
                    let [from, to] = [offsets[row], offsets[row + 1]].map(|token| token as usize * dim);
                    cpu_pool(pooling, &hidden[from..to], out);
                }
                let run = |input: &Floats, bounds: &Words, rows: usize| {
                    emulator.both_ways(&launch::pool(precision, rows, dim), || {
                        let out = Floats::unset(Precision::F32, rows * dim);
                        let args = vec![input.arg(), bounds.arg(), Arg::U32(mode as u32), out.arg()];
                        (out, [args, vec![Arg::U32(rows as u32), Arg::U32(dim as u32)]].concat())
                    })
                };
                let all = run(&input, &bounds, rows);
                let what = format!("{precision:?}, {dim}, {pooling:?}");
                assert_near(&all, &expected, tolerance(Precision::F32), &what);
                let last = Floats::of(precision, &hidden[(tokens - 129) * dim..]);
                assert_eq!(run(&last, &Words::of(&[0, 129]), 1), all[(rows - 1) * dim..], "alone: {what}");
            }
        }
    }
}

/// A batch of random queries, keys and values.
struct Heads {
    precision: Precision,
    heads: usize,
    head_dim: usize,
    offsets: Vec<u32>,
    qkv: Vec<f32>,
}

impl Heads {
    fn new(precision: Precision, heads: usize, head_dim: usize, lengths: &[u32]) -> Self {
        let offsets = offsets(lengths);
        let tokens = offsets[lengths.len()] as usize;
        let qkv: Vec<f32> = values(precision, tokens * 3 * heads * head_dim, 8).iter().map(|x| 1.5 * x).collect();
        Self { precision, heads, head_dim, offsets, qkv: numbers::rounded(precision, &qkv) }
    }

    /// One of its sequences as a batch.
    fn alone(&self, row: usize) -> Self {
        let (from, to) = (self.offsets[row], self.offsets[row + 1]);
        let stride = 3 * self.heads * self.head_dim;
        let qkv = self.qkv[from as usize * stride..to as usize * stride].to_vec();
        Self { offsets: vec![0, to - from], qkv, ..*self }
    }

    fn on_cpu(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.qkv.len() / 3];
        let attention = Attention {
            qkv: &self.qkv,
            offsets: &self.offsets,
            head_dim: self.head_dim,
            heads: self.heads,
            range: 0..self.heads,
            out: SharedOut::new(&mut out),
        };
        // SAFETY: `out` is alive, and only this thread touches it.
        unsafe { attention.compute(Level::detect()) };
        out
    }

    fn launch(&self, tiles: &mut Vec<u32>) -> Launch {
        launch::attention_tiles(&self.offsets, tiles);
        // Lists may be padded.
        tiles.extend([0, u32::MAX]);
        let queries = launch::tile_queries(&self.offsets);
        launch::attention(self.precision, tiles.len() / 2, queries, self.heads, self.head_dim).expect("a kernel")
    }

    fn emulated(&self, emulator: &Emulator) -> Vec<f32> {
        let mut tiles = Vec::new();
        let launch = self.launch(&mut tiles);
        let (qkv, bounds, tiles) = (Floats::of(self.precision, &self.qkv), Words::of(&self.offsets), Words::of(&tiles));
        emulator.both_ways(&launch, || {
            let out = Floats::unset(self.precision, self.qkv.len() / 3);
            let args = vec![qkv.arg(), bounds.arg(), tiles.arg(), out.arg()];
            (out, [args, vec![Arg::U32(self.heads as u32), Arg::U32(self.head_dim as u32)]].concat())
        })
    }
}

const SHORT: [u32; 5] = [25, 0, 65, 1, 64];
const LONG: [u32; 5] = [1, 300, 0, 25, 129];

fn attention_is_its_twin(precision: Precision) {
    let Some(emulator) = Emulator::load() else { return };
    // Weights are rounded too before they meet the values.
    let tolerance = if precision == Precision::F32 { 2e-5 } else { 2.5 * tolerance(precision) };
    for head_dim in [5, 16, 32, 64, 80, 96, 128, 136, 256] {
        for lengths in [SHORT, LONG] {
            let batch = Heads::new(precision, 2, head_dim, &lengths);
            let all = batch.emulated(&emulator);
            let what = format!("{precision:?}, {head_dim}, {lengths:?}");
            assert_near(&all, &batch.on_cpu(), tolerance, &what);
            // 25 tokens: in the long batch by tiles of 128 queries, alone by tiles of 64.
            let row = lengths.iter().position(|length| *length == 25).expect("is there");
            let dim = 2 * head_dim;
            let here = batch.offsets[row] as usize * dim..batch.offsets[row + 1] as usize * dim;
            assert_eq!(batch.alone(row).emulated(&emulator), all[here], "alone as in company: {what}");
        }
    }
}

#[test]
fn attention_in_f32_is_its_twin() {
    attention_is_its_twin(Precision::F32);
}

#[test]
fn attention_in_f16_is_its_twin() {
    attention_is_its_twin(Precision::F16);
}

#[test]
fn attention_in_bf16_is_its_twin() {
    attention_is_its_twin(Precision::Bf16);
}

#[test]
fn the_emulated_tensor_cores_multiply() {
    let Some(emulator) = Emulator::load() else { return };
    for (kernel, precision) in [("test_multiply_f16", Precision::F16), ("test_multiply_bf16", Precision::Bf16)] {
        let (a, b) = (values(precision, 16 * 16, 9), values(precision, 16 * 8, 10));
        let product = |i: usize| (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum::<f32>();
        let expected: Vec<f32> = (0..16 * 8).map(product).collect();
        let (left, right) = (Floats::of(precision, &a), Floats::of(precision, &b));
        let launch = Launch { kernel, grid: [1; 3], block: [32, 1, 1], shared_bytes: 1024 };
        let got = emulator.both_ways(&launch, || {
            let out = Floats::unset(Precision::F32, 16 * 8);
            let args = vec![left.arg(), right.arg(), out.arg()];
            (out, args)
        });
        assert_near(&got, &expected, 1e-5, kernel);
    }
}

#[test]
fn misuse_of_a_block_is_an_error() {
    let Some(emulator) = Emulator::load() else { return };
    let out = Floats::unset(Precision::F32, 16);
    let run = |how: u32| {
        let launch = Launch { kernel: "test_misuse", grid: [1; 3], block: [64, 1, 1], shared_bytes: 64 };
        // SAFETY: the parameters of that kernel; it reads at most 16 numbers.
        unsafe { emulator.launch(&launch, &[Arg::U32(how), out.arg()]) }
    };
    let outcomes = [
        ("lanes wait for each other at two barriers", 0, 2),
        ("lanes shuffle with different masks", 1, 3),
        ("shared memory is overrun", 2, 3),
        ("a lane is missing from a shuffle", 3, 3),
        ("nobody waits for a copy", 4, 3),
        ("an address is misaligned", 5, 3),
        ("threads that have returned are not waited for", 6, 0),
        ("nothing happens", 7, 0),
    ];
    for (what, how, expected) in outcomes {
        // A sanitizer ends the process at an overrun.
        if how == 2 && cuda_emulator::sanitized() {
            continue;
        }
        assert_eq!(run(how).map_or_else(|(code, _)| code, |()| 0), expected, "{what}: {:?}", run(how));
    }
    let unknown = Launch { kernel: "nobody", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0 };
    // SAFETY: nothing runs.
    assert_eq!(unsafe { emulator.launch(&unknown, &[]) }.map_err(|(code, _)| code), Err(1));
}
