//! The names of the five reference stacks, each with what it stands for among ours.
//!
//! One table for two readers: `monitoring/gen` writes recording rules from it, and the aggregator serves it as
//! `GET /metrics?names=1` … `5`. Both give the same series.
//!
//! Invariants:
//! - A series has the labels that its stack's guide prints, and `model` only where the guide says "by model" or where
//!   values of different models cannot be put together (a loss, a size). So a query of the guide sees what it expects.
//! - Two parts of one name differ in a fixed label; their series never collide.
//! - Nothing of the machine (`container_*`, `node_*`) is here: their own exporters serve it.

mod stacks;
#[cfg(test)]
mod tests;

use super::{AggregatorMetrics, ApiMetrics, Descriptor, Kind, WorkerMetrics};

/// The number of stacks; they are counted from 1.
pub const STACKS: u8 = 5;

/// One name of another stack.
#[derive(Debug)]
pub struct Alias {
    /// As its guide prints it; of a histogram without `_bucket`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// How series that differ only in labels which are dropped become one.
    pub fold: Fold,
    /// Theirs = ours × this.
    pub scale: f64,
    /// 0 where we have no such series at all: the name answers on every machine.
    pub zero_if_absent: bool,
    pub parts: Vec<Part>,
}

/// How values are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    Sum,
    Max,
}

impl Fold {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
        }
    }
}

/// Series of one of our metrics.
#[derive(Debug)]
pub struct Part {
    pub stem: &'static str,
    /// All must hold.
    pub matchers: Vec<Matcher>,
    pub labels: Vec<Mapped>,
}

/// A condition on a label of ours.
#[derive(Debug)]
pub struct Matcher {
    pub label: &'static str,
    /// Whether the label must be one of the values, or none of them.
    pub one_of: bool,
    pub values: &'static [&'static str],
}

impl Matcher {
    /// Whether a series whose label has this value belongs to the part.
    pub fn accepts(&self, value: &str) -> bool {
        self.values.contains(&value) == self.one_of
    }
}

/// One label of theirs.
#[derive(Debug)]
pub enum Mapped {
    /// Has the value of a label of ours.
    From { theirs: &'static str, ours: &'static str },
    /// Always the same.
    Fixed { theirs: &'static str, value: &'static str },
}

impl Part {
    fn of(stem: &'static str) -> Self {
        Self { stem, matchers: Vec::new(), labels: Vec::new() }
    }

    fn only(mut self, label: &'static str, values: &'static [&'static str]) -> Self {
        self.matchers.push(Matcher { label, one_of: true, values });
        self
    }

    fn except(mut self, label: &'static str, values: &'static [&'static str]) -> Self {
        self.matchers.push(Matcher { label, one_of: false, values });
        self
    }

    /// Keeps a label as it is.
    fn keep(self, label: &'static str) -> Self {
        self.rename(label, label)
    }

    fn rename(mut self, ours: &'static str, theirs: &'static str) -> Self {
        self.labels.push(Mapped::From { theirs, ours });
        self
    }

    fn fixed(mut self, theirs: &'static str, value: &'static str) -> Self {
        self.labels.push(Mapped::Fixed { theirs, value });
        self
    }

    /// Our declaration; `None` for what no version of this binary counts yet.
    pub fn source(&self) -> Option<&'static Descriptor> {
        let tables = [ApiMetrics::TABLE, WorkerMetrics::TABLE, AggregatorMetrics::TABLE];
        tables.into_iter().flatten().find(|metric| metric.stem == self.stem)
    }
}

impl Alias {
    fn new(kind: Kind, name: &'static str, help: &'static str, part: Part) -> Self {
        Self { name, help, kind, fold: Fold::Sum, scale: 1.0, zero_if_absent: false, parts: vec![part] }
    }

    fn counter(name: &'static str, help: &'static str, part: Part) -> Self {
        Self::new(Kind::Counter, name, help, part)
    }

    fn gauge(name: &'static str, help: &'static str, part: Part) -> Self {
        Self::new(Kind::Gauge, name, help, part)
    }

    fn histogram(name: &'static str, help: &'static str, part: Part) -> Self {
        Self::new(Kind::Histogram, name, help, part)
    }

    fn and(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    fn largest(self) -> Self {
        Self { fold: Fold::Max, ..self }
    }

    fn times(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    fn or_zero(self) -> Self {
        Self { zero_if_absent: true, ..self }
    }
}

/// The names of one stack, in the order of its guide; none for a number that is no stack's.
pub fn stack(number: u8) -> Vec<Alias> {
    match number {
        1 => stacks::dynamic_batcher(),
        2 => stacks::fastapi_locust(),
        3 => stacks::inferno(),
        4 => stacks::gateway(),
        5 => stacks::red(),
        _ => Vec::new(),
    }
}

/// A bound of a bucket as Python's client prints it: `1.0`, `0.25`, `+Inf`.
pub fn le(bound: f64) -> String {
    if bound == f64::INFINITY { "+Inf".to_owned() } else { format!("{bound:?}") }
}
