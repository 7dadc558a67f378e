//! All series of one stem in one process.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use super::instrument::{Gauge, Instrument};
use super::label::LabelSet;
use super::registry::Registry;
use super::schema::{Descriptor, Kind, Merge};
use crate::ids::ModelName;

/// All series of one stem, by labels. Cheap to clone.
pub struct Family<M: Instrument, L: LabelSet>(Arc<Inner<M, L>>);

struct Inner<M: Instrument, L> {
    descriptor: &'static Descriptor,
    collector: M::Vec,
    children: RwLock<FxHashMap<L, M>>,
    /// The only child of a family without labels.
    lone: OnceLock<M>,
    registry: Arc<Registry>,
}

impl<M: Instrument, L: LabelSet> Clone for Family<M, L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Instrument, L: LabelSet> Family<M, L> {
    pub(super) fn new(descriptor: &'static Descriptor, registry: &Arc<Registry>) -> Self {
        let collector = registry.register::<M>(descriptor);
        Self(Arc::new(Inner {
            descriptor,
            collector,
            children: RwLock::default(),
            lone: OnceLock::new(),
            registry: Arc::clone(registry),
        }))
    }

    /// The series with these labels, created at 0 if it is new. Hot paths keep the handle.
    ///
    /// A model that is not registered yet is counted as `unknown`, and a handle taken for it stays so: register first.
    pub fn with(&self, labels: &L) -> M {
        if let Some(child) = self.0.children.read().unwrap_or_else(PoisonError::into_inner).get(labels) {
            return child.clone();
        }
        let labels = labels.bounded(self.0.registry.models());
        let mut children = self.0.children.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = children.get(&labels) {
            return child.clone();
        }
        let texts = labels.texts();
        let child = M::child(&self.0.collector, &texts.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        self.0.registry.add_series(self.0.descriptor, texts.iter().map(|text| text.to_string()).collect(), &child);
        children.insert(labels, child.clone());
        child
    }

    /// Creates what must stand at 0 before its first event. A gauge whose 0 would be a statement (a loss, a size) waits
    /// until somebody knows its value.
    pub(super) fn start_at_zero(&self, model: Option<&ModelName>) {
        let zero_is_neutral = self.0.descriptor.kind != Kind::Gauge || self.0.descriptor.merge == Merge::Sum;
        if zero_is_neutral {
            for labels in L::combinations(model).unwrap_or_default() {
                self.with(&labels);
            }
        }
    }
}

impl<L: LabelSet> Family<Gauge, L> {
    /// Sets exactly these series and removes all others: for what is computed as a whole, such as who is alive. Only
    /// for families that are never reported to an aggregator.
    pub fn replace(&self, values: impl IntoIterator<Item = (L, f64)>) {
        let mut kept = HashSet::new();
        for (labels, value) in values {
            self.with(&labels).set(value);
            kept.insert(labels.bounded(self.0.registry.models()));
        }
        self.0.children.write().unwrap_or_else(PoisonError::into_inner).retain(|labels, _| {
            let keep = kept.contains(labels);
            if !keep {
                let texts = labels.texts();
                Gauge::remove(&self.0.collector, &texts.iter().map(AsRef::as_ref).collect::<Vec<_>>());
            }
            keep
        });
    }
}

/// A family without labels is its only series.
impl<M: Instrument> Deref for Family<M, ()> {
    type Target = M;

    fn deref(&self) -> &M {
        self.0.lone.get_or_init(|| self.with(&()))
    }
}
