//! The CPU as a device: a few kept threads and an instruction set chosen at start.

pub mod memory;
pub mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::counters::Counters;
use super::exec::Exec;
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
        let alone = Exec::on_cpu(self.level, None, counters);
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
                self.pool
                    .kept_awake(team, || work(&Exec::on_cpu(self.level, Some((&self.pool, team)), counters), 0, &rows));
            }
        }
    }
}
