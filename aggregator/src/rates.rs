//! Per-second rates over the last ten seconds, for people who look at `/v1/fleet`: pure, told the time.

use std::collections::{BTreeMap, VecDeque};

use crate::merge::{Millis, Totals};

const WINDOW_MS: Millis = 10_000;

/// Name in the answer, and the counter it comes from.
pub const RATES: &[(&str, &str)] = &[
    ("requests_per_second", "requests_total"),
    ("predictions_per_second", "predictions_total"),
    ("tokens_per_second", "tokens_total"),
    ("refused_per_second", "admission_refused_total"),
    ("jobs_per_second", "jobs_total"),
    ("rows_per_second", "rows_total"),
    ("inference_errors_per_second", "inference_errors_total"),
];

type Sample = BTreeMap<(&'static str, String), f64>;

/// One sample a second.
#[derive(Debug, Default)]
pub struct Rates(VecDeque<(Millis, Sample)>);

impl Rates {
    pub fn observe(&mut self, totals: &Totals, now: Millis) {
        let mut sample = Sample::new();
        for (name, stem) in RATES {
            for (model, value) in totals.sum_by(stem, "model", |_| true) {
                sample.insert((name, model), value);
            }
        }
        self.push(sample, now);
    }

    fn push(&mut self, sample: Sample, now: Millis) {
        self.0.push_back((now, sample));
        // The oldest kept is the youngest that is a whole window old.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW_MS) {
            self.0.pop_front();
        }
    }

    /// Rates by model; a model that is new since the window began counts from 0.
    pub fn per_second(&self) -> BTreeMap<&str, BTreeMap<&'static str, f64>> {
        let mut out: BTreeMap<&str, BTreeMap<&'static str, f64>> = BTreeMap::new();
        let (Some((from, before)), Some((to, now))) = (self.0.front(), self.0.back()) else { return out };
        let seconds = to.saturating_sub(*from) as f64 / 1000.0;
        for ((name, model), value) in now {
            let grown = value - before.get(&(*name, model.clone())).copied().unwrap_or(0.0);
            let rate = if seconds > 0.0 { grown / seconds } else { 0.0 };
            out.entry(model).or_default().insert(name, (rate * 1000.0).round() / 1000.0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_covers_the_last_ten_seconds_only() {
        let mut rates = Rates::default();
        let sample = |value| Sample::from([(("jobs_per_second", "mini".to_owned()), value)]);
        for second in 0..20u32 {
            // 100 a second for ten seconds, then 5.
            let value = f64::from(second.min(10)) * 100.0 + f64::from(second.saturating_sub(10)) * 5.0;
            rates.push(sample(value), u64::from(second) * 1000);
        }
        rates.push(sample(1050.0), 20_000);
        assert_eq!(rates.per_second()["mini"]["jobs_per_second"], 5.0);
        assert_eq!(rates.0.len(), 11);
    }

    #[test]
    fn one_sample_makes_no_rate() {
        let mut rates = Rates::default();
        rates.push(Sample::from([(("jobs_per_second", "mini".to_owned()), 5.0)]), 0);
        assert_eq!(rates.per_second()["mini"]["jobs_per_second"], 0.0);
    }
}
