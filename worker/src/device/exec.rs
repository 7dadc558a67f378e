//! What a layer computes with: the device's hands, whichever device it is.

use std::ops::Range;

use super::counters::{Counters, Op};
use super::cpu::pool::ThreadPool;
use super::cuda::Cuda;
use crate::kernels::cpu::Level;

/// Threads and instruction set, or a GPU; and counters.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    on: On<'a>,
    counters: &'a Counters,
}

#[derive(Clone, Copy)]
enum On<'a> {
    Cpu { level: Level, team: Option<(&'a ThreadPool, usize)> },
    Cuda(&'a Cuda),
}

impl<'a> Exec<'a> {
    pub(super) fn on_cpu(level: Level, team: Option<(&'a ThreadPool, usize)>, counters: &'a Counters) -> Self {
        Self { on: On::Cpu { level, team }, counters }
    }

    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no GPU to compute on"))]
    pub(super) fn on_cuda(cuda: &'a Cuda, counters: &'a Counters) -> Self {
        Self { on: On::Cuda(cuda), counters }
    }

    /// The instruction set for tensors on the host.
    pub fn level(&self) -> Level {
        match self.on {
            On::Cpu { level, .. } => level,
            On::Cuda(_) => Level::detect(),
        }
    }

    /// The GPU whose stream takes the work, if it is one.
    pub fn cuda(&self) -> Option<&'a Cuda> {
        match self.on {
            On::Cpu { .. } => None,
            On::Cuda(cuda) => Some(cuda),
        }
    }

    pub fn counters(&self) -> &Counters {
        self.counters
    }

    /// Runs `work` and adds its duration to `op`. A GPU's time is taken only while it is profiled: see [`Cuda::profile`].
    pub fn time<T>(&self, op: Op, work: impl FnOnce() -> T) -> T {
        match self.on {
            On::Cpu { .. } => self.counters.time(op, work),
            On::Cuda(cuda) => cuda.time(self.counters, op, work),
        }
    }

    /// Covers `0..units` with disjoint ranges, one call of `work` each, at the same time if this is shared work.
    pub fn split(&self, units: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        match self.on {
            On::Cpu { team: Some((pool, team)), .. } if units > 1 => {
                let parts = team.min(units);
                pool.run(parts, &|part| work(units * part / parts..units * (part + 1) / parts));
            }
            _ => work(0..units),
        }
    }
}
