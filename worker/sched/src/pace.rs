//! How long a batch will take on the device, judged by the ones before it.
//!
//! A batch costs something of its own and something per token, so the time is a line over the tokens, fitted by least
//! squares in which the past fades. Where all batches were alike there is no slope to see: then time goes with tokens.

use std::time::Duration;

/// Weight of the last batch.
const LAST: f64 = 0.1;

/// What is known of the device. Batches that failed say nothing and are not learned from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    line: Option<Line>,
    /// Mean time in which the host hands a batch over, in seconds.
    host: f64,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    tokens: f64,
    seconds: f64,
    variance: f64,
    covariance: f64,
}

impl Pace {
    pub(crate) fn learn(&mut self, tokens: usize, took: Duration) {
        let (tokens, seconds) = (tokens as f64, took.as_secs_f64());
        let line = self.line.get_or_insert(Line { tokens, seconds, variance: 0.0, covariance: 0.0 });
        let (more_tokens, more_seconds) = (tokens - line.tokens, seconds - line.seconds);
        line.tokens += LAST * more_tokens;
        line.seconds += LAST * more_seconds;
        line.variance = (1.0 - LAST) * (line.variance + LAST * more_tokens * more_tokens);
        line.covariance = (1.0 - LAST) * (line.covariance + LAST * more_tokens * more_seconds);
    }

    pub(crate) fn learn_host(&mut self, took: Duration) {
        self.host += LAST * (took.as_secs_f64() - self.host);
    }

    /// `None` before the first batch.
    pub(crate) fn predict(&self, tokens: usize) -> Option<Duration> {
        let line = self.line?;
        // No batch gets cheaper with more tokens, and none costs less than nothing of its own.
        let steepest = line.seconds / line.tokens.max(1.0);
        let slope = if line.variance >= 1.0 { line.covariance / line.variance } else { steepest };
        let seconds = line.seconds + slope.clamp(0.0, steepest) * (tokens as f64 - line.tokens);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }

    pub(crate) fn host(&self) -> Duration {
        Duration::try_from_secs_f64(self.host).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_cost_and_a_cost_per_token_are_told_apart() {
        let mut pace = Pace::default();
        assert_eq!(pace.predict(100), None);
        let cost = |tokens: usize| Duration::from_micros(2_000 + 10 * tokens as u64);
        for tokens in [100, 1_000, 400, 50, 700, 900, 300].into_iter().cycle().take(100) {
            pace.learn(tokens, cost(tokens));
        }
        for tokens in [10, 500, 2_000] {
            let (predicted, true_cost) = (pace.predict(tokens).unwrap().as_secs_f64(), cost(tokens).as_secs_f64());
            assert!((predicted / true_cost - 1.0).abs() < 0.02, "{tokens}: {predicted} {true_cost}");
        }
    }

    #[test]
    fn where_all_batches_were_alike_time_goes_with_tokens() {
        let mut pace = Pace::default();
        (0..10).for_each(|_| pace.learn(100, Duration::from_millis(10)));
        assert_eq!(pace.predict(50).unwrap().as_micros().div_ceil(10), 500);
    }
}
