//! From demand to a number of workers: pure, told the time.
//!
//! ```text
//! need = (arrivals / 0.8 + excess / H + stored / stored wait) / capacity      workers, rounded up
//!
//!   arrivals / 0.8          what arrives keeps them busy for four fifths of the time
//!   excess / H              what waits beyond the target is gone H after they are there:
//!                           excess = depth − target wait × ready × capacity, or 0
//!                           H      = the longer of the target wait and the time that a worker takes to start
//!   stored / stored wait    rows of asynchronous jobs that wait
//!
//! wanted = the largest need of the last `down_after`, at least 1 for `zero_after` after the last demand,
//!          then kept between the bounds
//! desired = wanted, but where that is a fall, a tenth (rounded up) less than before every 15 s until it is reached
//! ```
//! arrivals and capacity: jobs per second, see [`super::measure`]. depth: jobs that wait or run.
//!
//! Falls are slow because capacity is partly a guess while workers have little to do: as they become fewer, their batches
//! become fuller, and what was guessed is seen before it does harm.
//!
//! Invariants:
//! - The bounds hold always, and nothing else moves a model that nobody asks for.
//! - More at once: the answer is never less than the present need within the bounds.
//! - Fewer late: between a rise and the next fall lies at least `down_after`, so in any time `t` the direction changes at
//!   most 2 × (1 + t / down_after) times, whatever the demand does.
//! - From 0 to 1 at the first sign of demand, from 1 to 0 no sooner than `zero_after` after the last.
//! - What cannot be seen changes nothing: while the broker is away, the last answer stands and counts as a need.

use std::collections::VecDeque;
use std::time::Duration;

use crate::merge::Millis;

/// Share of the time that workers should be busy: above it waiting grows faster than load.
pub const TARGET_BUSY: f64 = 0.8;
/// Workers are given up in steps, this far apart.
const FALL_EVERY: Millis = 15_000;

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    pub wait: Duration,
    pub start_time: Duration,
    pub stored_wait: Duration,
    pub down_after: Duration,
    pub zero_after: Duration,
}

/// The fewest and the most workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
}

/// What is asked of a model's workers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    /// Jobs per second that came, refused ones included.
    pub arrivals: f64,
    /// Jobs that wait or run.
    pub depth: f64,
    /// Rows of asynchronous jobs that nobody works on.
    pub stored: f64,
    /// Workers that are ready.
    pub ready: u32,
    /// Jobs per second that one worker can do; `None` before any was measured.
    pub capacity: Option<f64>,
}

/// The formula above, before hysteresis and bounds.
pub fn need(demand: &Demand, targets: &Targets) -> u32 {
    let Demand { arrivals, depth, stored, ready, capacity } = *demand;
    let Some(capacity) = capacity.filter(|capacity| *capacity > 0.0) else {
        // Nothing is known of their speed, so nothing speaks for another number than the present one.
        return if arrivals > 0.0 || depth > 0.0 || stored > 0.0 { ready.max(1) } else { 0 };
    };
    let wait = targets.wait.as_secs_f64();
    let excess = (depth - wait * f64::from(ready) * capacity).max(0.0);
    let per_second =
        arrivals / TARGET_BUSY + excess / targets.drain_seconds() + stored / targets.stored_wait.as_secs_f64();
    // A float that is too large for the type becomes its largest value.
    (per_second / capacity).ceil() as u32
}

impl Targets {
    fn drain_seconds(&self) -> f64 {
        self.wait.max(self.start_time).as_secs_f64()
    }
}

/// One model's hysteresis.
#[derive(Debug, Default)]
pub struct Steps {
    /// Needs that are still the largest of all since: times rise, numbers fall.
    needs: VecDeque<(Millis, u32)>,
    last_demand: Option<Millis>,
    fell: Option<Millis>,
    desired: u32,
}

impl Steps {
    /// For a model that has `workers` now, of whose past nothing is known: they count as needed.
    pub fn beginning_with(workers: u32, now: Millis) -> Self {
        let mut steps = Self { desired: workers, ..Self::default() };
        if workers > 0 {
            steps.push(workers, now);
            steps.last_demand = Some(now);
        }
        steps
    }

    /// `is_wanted`: somebody asked for the model since the last time, whether or not it was let in.
    pub fn decide(&mut self, need: u32, is_wanted: bool, targets: &Targets, bounds: Bounds, now: Millis) -> u32 {
        if is_wanted || need > 0 {
            self.last_demand = Some(now);
        }
        self.push(need, now);
        let is_recent = |at: Millis, within: Duration| u128::from(now.saturating_sub(at)) < within.as_millis();
        while self.needs.len() > 1 && self.needs.front().is_some_and(|(at, _)| !is_recent(*at, targets.down_after)) {
            self.needs.pop_front();
        }
        let largest = self.needs.front().map_or(need, |(_, largest)| *largest);
        let kept = u32::from(self.last_demand.is_some_and(|at| at == now || is_recent(at, targets.zero_after)));
        let wanted = largest.max(kept).clamp(bounds.min.min(bounds.max), bounds.max);
        if wanted >= self.desired {
            self.desired = wanted;
        } else if self.fell.is_none_or(|at| now.saturating_sub(at) >= FALL_EVERY) {
            self.desired = wanted.max(self.desired - self.desired.div_ceil(10)).min(bounds.max);
            self.fell = Some(now);
        }
        self.desired
    }

    /// Nothing can be seen at the moment.
    pub fn hold(&mut self, now: Millis) -> u32 {
        self.push(self.desired, now);
        if self.desired > 0 {
            self.last_demand = Some(now);
        }
        self.desired
    }

    pub fn desired(&self) -> u32 {
        self.desired
    }

    fn push(&mut self, need: u32, now: Millis) {
        while self.needs.back().is_some_and(|(_, before)| *before <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
    }
}
