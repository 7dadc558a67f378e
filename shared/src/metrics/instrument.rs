//! The four kinds of metric, as thin as the `prometheus` crate allows.

use prometheus::core::{Collector, Metric};
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::schema::Kind;

/// Counts events: an integer, exact up to 2^53 in the exposition.
pub type Counter = prometheus::IntCounter;
/// Adds up a quantity that is not whole, e.g. seconds.
pub type FloatCounter = prometheus::Counter;
pub type Gauge = prometheus::Gauge;
pub type Histogram = prometheus::Histogram;

/// A handle to one series: cheap to clone, updated without a lock.
pub trait Instrument: Clone + Send + Sync + 'static {
    const KIND: Kind;
    type Vec: Collector + Clone + 'static;

    /// # Errors
    /// A name or label that Prometheus does not allow.
    fn family(opts: Opts, buckets: &[f64], labels: &[&str]) -> prometheus::Result<Self::Vec>;

    fn child(family: &Self::Vec, values: &[&str]) -> Self;

    fn remove(family: &Self::Vec, values: &[&str]);

    /// Appends the values as they travel: one, or for a histogram its cumulative buckets, its sum and its count.
    fn cells(&self, out: &mut Vec<f64>);
}

macro_rules! instrument {
    ($type:ty, $vec:ty, $kind:ident, |$opts:ident, $buckets:ident| $build:expr, |$this:ident, $out:ident| $cells:expr) => {
        impl Instrument for $type {
            const KIND: Kind = Kind::$kind;
            type Vec = $vec;

            fn family($opts: Opts, $buckets: &[f64], labels: &[&str]) -> prometheus::Result<$vec> {
                <$vec>::new($build, labels)
            }

            fn child(family: &$vec, values: &[&str]) -> Self {
                family.with_label_values(values)
            }

            fn remove(family: &$vec, values: &[&str]) {
                let _absent_is_fine = family.remove_label_values(values);
            }

            fn cells(&self, $out: &mut Vec<f64>) {
                let $this = self;
                $cells
            }
        }
    };
}

instrument!(Counter, IntCounterVec, Counter, |opts, _buckets| opts, |this, out| out.push(this.get() as f64));
instrument!(FloatCounter, CounterVec, Counter, |opts, _buckets| opts, |this, out| out.push(this.get()));
instrument!(Gauge, GaugeVec, Gauge, |opts, _buckets| opts, |this, out| out.push(this.get()));
instrument!(
    Histogram,
    HistogramVec,
    Histogram,
    |opts, buckets| HistogramOpts::from(opts).buckets(buckets.to_vec()),
    |this, out| {
        // Only `Metric` gives buckets, sum and count of the same instant.
        let metric = this.metric();
        let histogram = metric.get_histogram();
        out.extend(histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count() as f64));
        out.push(histogram.get_sample_sum());
        out.push(histogram.get_sample_count() as f64);
    }
);
