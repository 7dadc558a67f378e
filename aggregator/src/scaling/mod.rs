//! `forebay_desired_workers`: how many workers each model should have.
//!
//! ```text
//! merged counters, depth of the queues, who is ready ──samples──▶ measure ──demand──▶ policy ──▶ gauge, /v1/fleet
//! ```
//! Once a second, from what the aggregator knows anyway. It gives advice and starts nothing: whoever runs the workers (an
//! autoscaler that reads Prometheus, or a person) may follow it. Several aggregators see the same counters at slightly
//! different moments and answer nearly the same; the largest answer is meant, so that one that has just started and
//! remembers nothing takes no worker away.
//!
//! A model is known here once an api has read its record, or a worker serves it, and from then on also without workers:
//! what was counted for it is kept for ever.

mod capacity;
mod measure;
mod policy;
mod samples;
mod settings;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use forebay_shared::ids::ModelName;

use crate::merge::Millis;
use measure::{Measure, Sample};
pub use policy::Targets;
use policy::{Steps, need};
pub use samples::look;
pub use settings::{PerModel, ScalingArgs};

/// An observation later than this after the last one is the first of a new series: this process was stopped, or its host.
const INTERRUPTION_MS: Millis = 10_000;

/// All models.
#[derive(Debug)]
pub struct Scaling {
    args: ScalingArgs,
    targets: Targets,
    models: BTreeMap<ModelName, Model>,
    last: Option<Millis>,
}

#[derive(Debug)]
struct Model {
    measure: Measure,
    steps: Steps,
}

/// What is known of a model at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    pub sample: Sample,
    /// Workers that serve it, also those that are starting.
    pub workers: u32,
}

/// What a model should have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advice {
    pub workers: u32,
    /// Jobs per second that one of them can do, if that is known.
    pub capacity: Option<f64>,
}

impl Scaling {
    pub fn new(args: ScalingArgs, targets: Targets) -> Self {
        Self { args, targets, models: BTreeMap::new(), last: None }
    }

    /// Takes what is seen at `now`; `None` while the broker does not answer, and nothing that is seen is the whole truth.
    pub fn observe(&mut self, seen: Option<BTreeMap<ModelName, Seen>>, now: Millis) {
        let gap = self.last.replace(now).is_some_and(|last| now.saturating_sub(last) > INTERRUPTION_MS);
        if gap || seen.is_none() {
            for model in self.models.values_mut() {
                model.measure.interrupted();
                model.steps.hold(now);
            }
        }
        for (name, Seen { sample, workers }) in seen.into_iter().flatten() {
            let bounds = self.args.bounds(name.as_str());
            let model = self
                .models
                .entry(name)
                .or_insert_with(|| Model { measure: Measure::default(), steps: Steps::beginning_with(workers, now) });
            let is_wanted = model.measure.observe(Sample { at: now, ..sample });
            let need = need(&model.measure.demand(), &self.targets);
            model.steps.decide(need, is_wanted, &self.targets, bounds, now);
        }
    }

    pub fn advice(&self) -> impl Iterator<Item = (&ModelName, Advice)> {
        self.models.iter().map(|(name, model)| {
            let advice = Advice { workers: model.steps.desired(), capacity: model.measure.demand().capacity };
            (name, advice)
        })
    }
}
