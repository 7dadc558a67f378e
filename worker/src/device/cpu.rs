//! The CPU as a device: a few kept threads and an instruction set chosen at start.

pub mod memory;
pub mod pool;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::counters::{Counters, Op};
use super::plan::{Plan, plan};
use crate::kernels::cpu::Level;
use pool::ThreadPool;

/// Most threads that share one operation: beyond this, waking and joining them costs more than they do.
const MAX_TEAM: usize = 8;

/// The CPU of this machine, as far as this worker may use it.
pub struct Cpu {
    pool: ThreadPool,
    level: Level,
}

impl Cpu {
    /// `threads` includes the calling thread of each batch; `None` takes as many as this process may use.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub fn new(threads: Option<usize>) -> std::io::Result<Self> {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
        Ok(Self { pool: ThreadPool::new(threads.max(1))?, level: Level::detect() })
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set that weights are packed for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Computes rows of the given lengths: calls `work(exec, part, rows)` until every row was in one call.
    ///
    /// Calls with different `part < threads()` may run at the same time, calls with the same `part` never do: `part` can index
    /// buffers.
    pub fn for_rows(&self, lengths: &[usize], counters: &Counters, work: &(dyn Fn(&Exec<'_>, usize, &[usize]) + Sync)) {
        let alone = Exec { level: self.level, team: None, counters };
        match plan(lengths, self.threads()) {
            Plan::Chunks(chunks) if chunks.len() == 1 => work(&alone, 0, &chunks[0]),
            Plan::Chunks(chunks) => {
                let next = AtomicUsize::new(0);
                self.pool.run(chunks.len().min(self.threads()), &|part| {
                    while let Some(rows) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        work(&alone, part, rows);
                    }
                });
            }
            Plan::Together => {
                let rows: Vec<usize> = (0..lengths.len()).collect();
                let team = self.threads().min(MAX_TEAM);
                self.pool.kept_awake(team, || work(&Exec { team: Some((&self.pool, team)), ..alone }, 0, &rows));
            }
        }
    }
}

/// What a layer computes with: instruction set, threads to share an operation with, and counters.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    level: Level,
    team: Option<(&'a ThreadPool, usize)>,
    counters: &'a Counters,
}

impl Exec<'_> {
    pub fn level(&self) -> Level {
        self.level
    }

    pub fn counters(&self) -> &Counters {
        self.counters
    }

    /// Runs `work` and adds its duration to `op`.
    pub fn time<T>(&self, op: Op, work: impl FnOnce() -> T) -> T {
        self.counters.time(op, work)
    }

    /// Covers `0..units` with disjoint ranges, one call of `work` each, at the same time if this is shared work.
    pub fn split(&self, units: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        match self.team {
            Some((pool, team)) if units > 1 => {
                let parts = team.min(units);
                pool.run(parts, &|part| work(units * part / parts..units * (part + 1) / parts));
            }
            _ => work(0..units),
        }
    }
}
