//! A model, its workers and somebody who follows the advice, in steps of 10 ms and without randomness of the host.
//!
//! Jobs wait in one line. A worker that is free takes up to 64; a batch takes 20 ms and 2 ms for each row, so a busy one does
//! 432 jobs/s. Counters rise when a batch ends, but for its fill, which
//! is counted when it begins. Once a second the advice is asked for, and as many workers as are missing begin
//! to start; too many end with their batch. A model without a worker for 15 s refuses.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::measure::Sample;
use super::{Scaling, ScalingArgs, Seen};
use crate::merge::Millis;

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
/// Jobs per second of one busy worker.
pub const CAPACITY: f64 = 64.0 / 0.148;
const TICK: Millis = 10;
const BATCH_ROWS: usize = 64;
const NO_WORKER_AFTER: Millis = 15 * SECOND;

#[derive(Debug, Default)]
pub struct World {
    args: ScalingArgs,
    pub scalings: Vec<Scaling>,
    now: Millis,
    /// When each waiting job came.
    waiting: VecDeque<Millis>,
    /// Jobs that came, in parts.
    due: f64,
    /// For each worker, its batch: rows and when it ends.
    workers: Vec<Option<(usize, Millis)>>,
    starting: Vec<Millis>,
    /// Workers that may stay.
    wanted: usize,
    last_ready: Millis,
    counted: Sample,
    random: u64,
    pub seen: Story,
}

/// What happened.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Story {
    /// Every change of the advice, beginning with the first.
    pub advice: Vec<(Millis, u32)>,
    /// Longest time without a pause in which the oldest job had waited longer than the target.
    pub longest_late: Millis,
    late_since: Option<Millis>,
    pub largest_backlog: usize,
    pub refused: usize,
    pub done: usize,
}

impl Story {
    pub fn largest(&self) -> u32 {
        self.advice.iter().map(|(_, workers)| *workers).max().unwrap_or(0)
    }

    /// How often a fall follows a rise, or a rise a fall.
    pub fn turns(&self) -> usize {
        turns(self.advice.iter().map(|(_, workers)| *workers))
    }
}

pub fn turns(advice: impl Iterator<Item = u32>) -> usize {
    let (mut before, mut rising, mut turns) = (None, None, 0);
    for workers in advice {
        let direction = before.replace(workers).filter(|before| *before != workers).map(|before| workers > before);
        if let Some(up) = direction {
            turns += usize::from(rising.replace(up).is_some_and(|rose| rose != up));
        }
    }
    turns
}

impl World {
    /// With so many workers that are ready.
    pub fn new(args: ScalingArgs, workers: usize) -> Self {
        let targets = args.targets().unwrap();
        let scalings = vec![Scaling::new(args.clone(), targets)];
        Self {
            args,
            scalings,
            workers: vec![None; workers],
            wanted: workers,
            random: 0x9e37_79b9_7f4a_7c15,
            ..Self::default()
        }
    }

    /// Goes on for so long, while `rate` jobs come each second.
    pub fn run(&mut self, lasting: Millis, rate: impl Fn(Millis) -> f64) {
        let until = self.now + lasting;
        let begun = self.now;
        while self.now < until {
            self.arrive(rate(self.now - begun));
            self.work();
            self.judge();
            if self.now.is_multiple_of(SECOND) {
                self.ask();
            }
            self.now += TICK;
        }
    }

    /// The same with as many jobs again or none, by chance, in each second.
    pub fn run_noisy(&mut self, lasting: Millis, rate: f64) {
        for _ in 0..lasting / SECOND {
            // Marsaglia's xorshift64.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let factor = (self.random >> 11) as f64 / (1u64 << 52) as f64;
            self.run(SECOND, |_| rate * factor);
        }
    }

    fn arrive(&mut self, rate: f64) {
        self.due += rate * TICK as f64 / 1_000.0;
        let jobs = self.due as usize;
        self.due -= jobs as f64;
        self.counted.asked += jobs as f64;
        if !self.workers.is_empty() {
            self.last_ready = self.now;
        } else if self.now >= self.last_ready + NO_WORKER_AFTER {
            self.seen.refused += jobs;
            return;
        }
        self.counted.arrived += jobs as f64;
        self.waiting.extend(std::iter::repeat_n(self.now, jobs));
    }

    fn work(&mut self) {
        let now = self.now;
        for rows in self.workers.iter_mut().filter_map(|worker| worker.take_if(|(_, until)| *until <= now)) {
            let (rows, _) = rows;
            self.counted.rows += rows as f64;
            self.counted.busy_seconds += seconds(rows);
            self.counted.batches += 1.0;
            self.seen.done += rows;
        }
        let (ready, starting) = self.starting.iter().partition(|at| **at <= now);
        self.starting = starting;
        let ready: Vec<Millis> = ready;
        self.workers.extend(ready.iter().map(|_| None));
        let mut surplus = self.workers.len().saturating_sub(self.wanted);
        self.workers.retain(|batch| {
            let leaves = surplus > 0 && batch.is_none();
            surplus -= usize::from(leaves);
            !leaves
        });
        for worker in self.workers.iter_mut().filter(|worker| worker.is_none()) {
            let rows = self.waiting.len().min(BATCH_ROWS);
            if rows > 0 {
                self.waiting.drain(..rows);
                self.counted.begun += 1.0;
                self.counted.fill += rows as f64 / BATCH_ROWS as f64;
                *worker = Some((rows, now + (seconds(rows) * 1_000.0) as Millis));
            }
        }
    }

    fn judge(&mut self) {
        let late = self.args.target_wait.as_millis() as Millis;
        self.seen.largest_backlog = self.seen.largest_backlog.max(self.waiting.len());
        if self.waiting.front().is_some_and(|came| self.now - came > late) {
            let since = *self.seen.late_since.get_or_insert(self.now);
            self.seen.longest_late = self.seen.longest_late.max(self.now - since + TICK);
        } else {
            self.seen.late_since = None;
        }
    }

    fn ask(&mut self) {
        let running: usize = self.workers.iter().flatten().map(|(rows, _)| rows).sum();
        let sample = Sample {
            waiting: self.waiting.len() as f64,
            depth: (self.waiting.len() + running) as f64,
            ready: self.workers.len() as u32,
            ..self.counted
        };
        let seen = Seen { sample, workers: (self.workers.len() + self.starting.len()) as u32 };
        let models = BTreeMap::from([("m".into(), seen)]);
        for scaling in &mut self.scalings {
            scaling.observe(Some(models.clone()), self.now);
        }
        let advice = self.scalings.iter().flat_map(|one| one.advice().map(|(_, advice)| advice.workers)).max();
        let Some(wanted) = advice else { return };
        if self.seen.advice.last().is_none_or(|(_, before)| *before != wanted) {
            self.seen.advice.push((self.now, wanted));
        }
        self.follow(wanted as usize);
    }

    fn follow(&mut self, wanted: usize) {
        let ready_at = self.now + self.args.worker_start_time.as_millis() as Millis;
        let there = self.workers.len() + self.starting.len();
        self.starting.extend(std::iter::repeat_n(ready_at, wanted.saturating_sub(there)));
        self.starting.truncate(wanted.saturating_sub(self.workers.len()));
        self.wanted = wanted;
    }

    pub fn desired(&self) -> u32 {
        self.seen.advice.last().map_or(0, |(_, workers)| *workers)
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    /// Forgets what happened, for another part of the story.
    pub fn turn_the_page(&mut self) {
        let advice = self.seen.advice.last().copied().into_iter().collect();
        self.seen = Story { advice, ..Story::default() };
    }
}

/// What a batch takes.
fn seconds(rows: usize) -> f64 {
    0.02 + 0.002 * rows as f64
}

/// Short times, so that a simulated hour shows much.
pub fn args() -> ScalingArgs {
    ScalingArgs {
        worker_start_time: Duration::from_secs(10),
        max_workers: super::PerModel::all(50),
        ..ScalingArgs::default()
    }
}
