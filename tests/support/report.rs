//! What a load generator saw.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    pub sent: Instant,
    pub took: Duration,
    pub result: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// 200, and the answer belongs to the request.
    Right,
    /// 200 with somebody else's answer, or none.
    Wrong(String),
    Status(u16, String),
    /// The connection failed before the answer was complete.
    Broken(String),
}

#[derive(Debug, Default)]
pub struct Report {
    pub samples: Vec<Sample>,
}

impl Report {
    pub fn sent(&self) -> usize {
        self.samples.len()
    }

    pub fn right(&self) -> usize {
        self.count(|seen| *seen == Seen::Right)
    }

    pub fn wrong(&self) -> usize {
        self.count(|seen| matches!(seen, Seen::Wrong(_)))
    }

    pub fn broken(&self) -> usize {
        self.count(|seen| matches!(seen, Seen::Broken(_)))
    }

    /// Answers by status; 200 counts right and wrong ones.
    pub fn by_status(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for sample in &self.samples {
            let status = match &sample.result {
                Seen::Right | Seen::Wrong(_) => 200,
                Seen::Status(status, _) => *status,
                Seen::Broken(_) => continue,
            };
            *counts.entry(status).or_default() += 1;
        }
        counts
    }

    /// Every request that was sent got its own answer.
    pub fn all_right(&self) -> bool {
        self.sent() > 0 && self.right() == self.sent()
    }

    /// The latency that `quantile` (0 to 1) of the right answers did not exceed.
    pub fn latency(&self, quantile: f64) -> Duration {
        let mut took: Vec<Duration> = self.successes().map(|sample| sample.took).collect();
        took.sort_unstable();
        let last = took.len().saturating_sub(1);
        took.get((last as f64 * quantile).round() as usize).copied().unwrap_or_default()
    }

    /// The longest time in which no right answer arrived, between the first request and the last answer.
    pub fn max_gap(&self) -> Duration {
        let Some(begin) = self.samples.iter().map(|sample| sample.sent).min() else { return Duration::ZERO };
        let end = self.samples.iter().map(|sample| sample.sent + sample.took).max().unwrap_or(begin);
        let mut arrivals: Vec<Instant> =
            self.successes().map(|sample| sample.sent + sample.took).chain([begin, end]).collect();
        arrivals.sort_unstable();
        arrivals.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Right answers per second.
    pub fn throughput(&self) -> f64 {
        let first = self.samples.iter().map(|sample| sample.sent).min();
        let last = self.samples.iter().map(|sample| sample.sent + sample.took).max();
        match (first, last) {
            (Some(first), Some(last)) if last > first => self.right() as f64 / (last - first).as_secs_f64(),
            _ => 0.0,
        }
    }

    fn successes(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.result == Seen::Right)
    }

    fn count(&self, of: impl Fn(&Seen) -> bool) -> usize {
        self.samples.iter().filter(|sample| of(&sample.result)).count()
    }
}

/// Numbers, and the first few of each way in which requests failed.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} sent, {} right, {} wrong, {} broken, by status {:?}; {:.0}/s, p50 {:?}, p99 {:?}, max {:?}, longest gap {:?}",
            self.sent(),
            self.right(),
            self.wrong(),
            self.broken(),
            self.by_status(),
            self.throughput(),
            self.latency(0.5),
            self.latency(0.99),
            self.latency(1.0),
            self.max_gap()
        )?;
        let failed = self.samples.iter().filter(|sample| sample.result != Seen::Right);
        failed.take(5).try_for_each(|sample| writeln!(f, "  after {:?}: {:?}", sample.took, sample.result))
    }
}
