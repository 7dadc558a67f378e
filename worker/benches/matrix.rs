//! Our matrix kernel on packed weights against the general product of the `gemm` crate (what candle's own matmul uses).
//!
//! ```text
//! cargo bench -p forebay-worker --bench matrix
//! ```
//! One thread, the shapes of a small encoder, GFLOP per second: why the encoders have a kernel of their own.

use std::hint::black_box;
use std::time::{Duration, Instant};

use forebay_worker::kernels::cpu::Level;
use forebay_worker::kernels::cpu::linear::{Finish, Linear, SharedOut};
use forebay_worker::kernels::cpu::packed::PackedMatrix;

fn main() {
    println!("{:>6} {:>6} {:>6} {:>10} {:>10}", "tokens", "k", "n", "packed", "gemm");
    for (k, n) in [(384, 1152), (384, 384), (384, 1536), (1536, 384)] {
        for tokens in [1, 8, 16, 32, 128, 512, 2048] {
            let numbers =
                |count: usize| (0..count).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<f32>>();
            let (x, w, bias, mut out) = (numbers(tokens * k), numbers(n * k), numbers(n), vec![0.0; tokens * n]);
            let rate = |time: Duration| 2.0 * (tokens * k * n) as f64 / time.as_secs_f64() / 1e9;
            let level = Level::detect();
            let weight = PackedMatrix::from_transposed(&[&w], k, level);
            let packed = fastest(|| {
                let out = SharedOut::new(&mut out);
                let panels = 0..weight.panels();
                let linear = Linear { x: &x, weight: &weight, bias: &bias, out, panels, finish: Finish::Store };
                // SAFETY: `out` is alive and touched by nobody else.
                unsafe { linear.compute(level) }
            });
            let general = fastest(|| general(&x, &w, &mut out, k, n));
            println!("{tokens:>6} {k:>6} {n:>6} {:>10.0} {:>10.0}", rate(packed), rate(general));
            black_box(&out);
        }
    }
}

/// out = x Wᵀ, the weight as a linear layer stores it.
fn general(x: &[f32], w: &[f32], out: &mut [f32], k: usize, n: usize) {
    let rows = x.len() / k;
    let (k_stride, n_stride) = (k as isize, n as isize);
    // SAFETY: out is rows × n, x rows × k, w n × k, all row-major and long enough.
    unsafe {
        gemm::gemm(
            rows,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n_stride,
            false,
            x.as_ptr(),
            1,
            k_stride,
            w.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Fastest of many passes: what the code can do when nobody else has the core.
fn fastest(mut work: impl FnMut()) -> Duration {
    let (mut best, start) = (Duration::MAX, Instant::now());
    while start.elapsed() < Duration::from_millis(120) {
        let pass = Instant::now();
        work();
        best = best.min(pass.elapsed());
    }
    best
}
