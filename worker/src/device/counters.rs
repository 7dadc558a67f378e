//! What an engine did: token rows computed, and where the time went.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The parts of a forward pass that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Embedding,
    Qkv,
    Attention,
    Projection,
    Up,
    Down,
    Norm,
    Pooling,
}

impl Op {
    pub const ALL: [Self; 8] = [
        Self::Embedding,
        Self::Qkv,
        Self::Attention,
        Self::Projection,
        Self::Up,
        Self::Down,
        Self::Norm,
        Self::Pooling,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Qkv => "qkv",
            Self::Attention => "attention",
            Self::Projection => "projection",
            Self::Up => "up",
            Self::Down => "down",
            Self::Norm => "norm",
            Self::Pooling => "pooling",
        }
    }
}

/// Monotonic counters of one encoder. Threads add to them without order.
#[derive(Default)]
pub struct Counters {
    token_rows: AtomicU64,
    nanos: [AtomicU64; Op::ALL.len()],
}

impl Counters {
    /// Counts token rows that one layer worked on.
    pub fn add_token_rows(&self, rows: usize) {
        self.token_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Token rows so far, summed over layers.
    pub fn token_rows(&self) -> u64 {
        self.token_rows.load(Ordering::Relaxed)
    }

    /// Runs `work` and adds its duration to `op`: some fifty nanoseconds for operations that take at least tens of microseconds.
    pub fn time<T>(&self, op: Op, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(op, start.elapsed());
        result
    }

    /// Adds a duration that was measured elsewhere.
    pub fn add(&self, op: Op, took: Duration) {
        self.nanos[op as usize].fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Time spent per operation so far, summed over threads.
    pub fn times(&self) -> [(Op, Duration); Op::ALL.len()] {
        Op::ALL.map(|op| (op, Duration::from_nanos(self.nanos[op as usize].load(Ordering::Relaxed))))
    }
}
