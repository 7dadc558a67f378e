//! Arrivals, what waits and what a worker can do, from what is seen once a second: pure, told the time.
//!
//! **Arrivals** are what the apis admitted for clients and what they had no room for, over the last 10 s, or over
//! the last 3 s where those say clearly more: a step must not wait for an average. Asynchronous jobs
//! and batches are no arrivals: they take what workers leave, so their rate follows the number of workers and says nothing
//! about how many there should be. They count by what waits.
//!
//! **Capacity** is learnt ([`Capacity`]) from the youngest batches that are enough, at most 30 s old, and at the limit
//! from times of 5 s and longer in which more jobs waited than everybody's next batch can take.

use std::collections::VecDeque;

use super::capacity::{Batches, Capacity, LEAST_BATCHES, LEAST_BUSY_SECONDS};
use super::policy::Demand;
use crate::merge::Millis;

const ARRIVALS_MS: Millis = 10_000;
const BURST_MS: Millis = 3_000;
const KEPT_MS: Millis = 30_000;
const LIMIT_MS: Millis = 5_000;

/// A model at one moment. Counters are those of the fleet since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    pub at: Millis,
    /// Counter: jobs admitted for clients, and jobs that found no room.
    pub arrived: f64,
    /// Counter: whatever was asked of the model, also what was refused because nobody serves it.
    pub asked: f64,
    /// Counter: rows that were computed.
    pub rows: f64,
    /// Counter: seconds of computing.
    pub busy_seconds: f64,
    /// Counter: batches that were computed.
    pub batches: f64,
    /// Counter: batches that began, which is earlier.
    pub begun: f64,
    /// Counter: sum over those that began of how full they were, 0 to 1.
    pub fill: f64,
    /// Jobs that wait for a worker.
    pub waiting: f64,
    /// Jobs that wait or run.
    pub depth: f64,
    /// Rows of asynchronous jobs that nobody works on.
    pub stored: f64,
    /// Workers that are ready.
    pub ready: u32,
}

impl Sample {
    fn batches_since(&self, then: &Self) -> Batches {
        let begun = self.begun - then.begun;
        Batches {
            count: self.batches - then.batches,
            rows: self.rows - then.rows,
            seconds: self.busy_seconds - then.busy_seconds,
            // Nothing is made of batches that cannot be told.
            fill: if begun > 0.0 { (self.fill - then.fill) / begun } else { 1.0 },
        }
    }

    fn seconds_since(&self, then: &Self) -> f64 {
        self.at.saturating_sub(then.at) as f64 / 1_000.0
    }
}

/// One model's.
#[derive(Debug, Default)]
pub struct Measure {
    /// The last [`KEPT_MS`], in order.
    samples: VecDeque<Sample>,
    capacity: Capacity,
}

impl Measure {
    /// Takes what is seen at `sample.at`; true if the model was asked for since the last time, or still is.
    pub fn observe(&mut self, sample: Sample) -> bool {
        let before = self.samples.back().copied().unwrap_or(sample);
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|next| sample.at.saturating_sub(next.at) >= KEPT_MS) {
            self.samples.pop_front();
        }
        self.capacity.ended(&sample.batches_since(&before));
        if let Some(recent) = self.recent_batches() {
            if let Some(then) = self.at_the_limit_since(&recent) {
                let seconds = sample.seconds_since(&then) * f64::from(sample.ready);
                self.capacity.at_its_limit(&sample.batches_since(&then), seconds);
            }
            self.capacity.learn(&recent);
        }
        sample.asked > before.asked || sample.depth > 0.0 || sample.stored > 0.0
    }

    /// Forgets when things were counted, not what was learnt: for a time in which nothing could be seen.
    pub fn interrupted(&mut self) {
        self.samples.clear();
    }

    pub fn demand(&self) -> Demand {
        let capacity = self.capacity.per_second();
        let Some(now) = self.samples.back() else { return Demand { capacity, ..Demand::default() } };
        let arrived = |since: Millis| {
            let is_old = |sample: &&Sample| now.at.saturating_sub(sample.at) >= since;
            let then = self.samples.iter().rev().find(is_old).or(self.samples.front()).unwrap_or(now);
            ((now.arrived - then.arrived).max(0.0), now.seconds_since(then).max(1.0))
        };
        let ((jobs, seconds), (late_jobs, late_seconds)) = (arrived(ARRIVALS_MS), arrived(BURST_MS));
        // What chance alone brings in a short time is taken off: two standard deviations, as if jobs came one by one.
        let burst = (late_jobs - 2.0 * late_jobs.sqrt()) / late_seconds;
        let arrivals = (jobs / seconds).max(burst);
        Demand { arrivals, depth: now.depth, stored: now.stored, ready: now.ready, capacity }
    }

    /// The youngest that are enough to say something, or all.
    fn recent_batches(&self) -> Option<Batches> {
        let now = self.samples.back()?;
        let enough = |then: &&Sample| {
            let batches = now.batches_since(then);
            batches.seconds >= LEAST_BUSY_SECONDS.max(f64::from(now.ready)) && batches.count >= LEAST_BATCHES
        };
        let then = self.samples.iter().rev().find(enough).or(self.samples.front())?;
        Some(now.batches_since(then)).filter(|batches| batches.count > 0.0)
    }

    /// Since when there has always been more to do than fits into everybody's next batch, if that is long enough.
    fn at_the_limit_since(&self, recent: &Batches) -> Option<Sample> {
        let now = self.samples.back()?;
        let full_batch = recent.full_rows();
        let has_more = |sample: &&Sample| {
            sample.ready == now.ready && sample.waiting >= full_batch.max(1.0) * f64::from(sample.ready)
        };
        let then = self.samples.iter().rev().take_while(has_more).last()?;
        (now.ready > 0 && now.at.saturating_sub(then.at) >= LIMIT_MS).then_some(*then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many seconds of one worker whose batches hold 64, take 0.1 s and have `batch` rows.
    fn run(measure: &mut Measure, last: &mut Sample, seconds: u32, batch: f64, batches: f64) {
        for _ in 0..seconds {
            *last = Sample {
                at: last.at + 1_000,
                arrived: last.arrived + batch * batches,
                rows: last.rows + batch * batches,
                busy_seconds: last.busy_seconds + batches * 0.1,
                batches: last.batches + batches,
                begun: last.begun + batches,
                fill: last.fill + batches * batch / 64.0,
                ready: 1,
                ..*last
            };
            measure.observe(*last);
        }
    }

    fn capacity(measure: &Measure) -> f64 {
        measure.demand().capacity.unwrap()
    }

    #[test]
    fn a_change_of_load_is_seen_within_seconds() {
        let (mut measure, mut last) = (Measure::default(), Sample::default());
        run(&mut measure, &mut last, 30, 1.0, 5.0);
        assert!((measure.demand().arrivals - 5.0).abs() < 1e-9);
        assert!((capacity(&measure) - 640.0).abs() < 1e-6, "nothing says that a full batch takes longer");
        run(&mut measure, &mut last, 10, 64.0, 9.0);
        assert!((measure.demand().arrivals - 576.0).abs() < 1e-9);
        assert!((capacity(&measure) - 640.0).abs() < 1e-6);
    }

    #[test]
    fn batches_that_never_become_full_are_taken_as_they_are_once_work_has_piled_up() {
        let (mut measure, mut last) = (Measure::default(), Sample { waiting: 1_000.0, ..Sample::default() });
        run(&mut measure, &mut last, 5, 32.0, 8.0);
        assert!((capacity(&measure) - 640.0).abs() < 1e-6, "they may yet");
        run(&mut measure, &mut last, 2, 32.0, 8.0);
        assert!((capacity(&measure) - 256.0).abs() < 1e-6, "8 × 32 each second, a fifth of it between batches");
    }

    #[test]
    fn a_few_jobs_that_always_wait_are_no_limit() {
        let (mut measure, mut last) = (Measure::default(), Sample { waiting: 5.0, ..Sample::default() });
        run(&mut measure, &mut last, 60, 6.0, 9.9);
        assert!((capacity(&measure) - 640.0).abs() < 1e-6, "they fill the next batch");
    }

    #[test]
    fn a_refusal_is_a_sign_of_demand_though_nothing_arrives() {
        let mut measure = Measure::default();
        let mut seen = |at, asked| measure.observe(Sample { at, asked, ..Sample::default() });
        assert!(!seen(0, 7.0), "it was asked at an unknown time");
        assert!(!seen(1_000, 7.0) && seen(2_000, 8.0));
        assert_eq!(measure.demand().arrivals, 0.0);
    }
}
