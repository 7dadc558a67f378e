//! One request of a tenant, from the door to its answer: its seat, its outcome, and what its answer says of the limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use forebay_shared::job::{Input, Output};
use forebay_shared::metrics::{Outcome, TokenKind};

use super::bucket::Level;
use super::quota::Day;
use super::{Account, Caller};
use crate::error::Failure;

/// The headers of one kind of limit, in OpenAI's names: limit, remaining, reset.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// A request inside; counted as cancelled when dropped unfinished.
pub struct Visit {
    account: Arc<Account>,
    seated: bool,
    outcome: Outcome,
}

impl Visit {
    /// Lets it in, or says why not: both are a visit, and both are finished alike.
    pub(super) fn begin(account: &Arc<Account>, now: Instant) -> (Self, Result<(), Failure>) {
        let entered = account.usage.enter(now);
        let visit = Self { account: Arc::clone(account), seated: entered.is_ok(), outcome: Outcome::Cancelled };
        (visit, entered)
    }

    /// Counts it, and writes onto its answer what is left of the limits that there are.
    pub fn finish(mut self, outcome: Outcome, headers: &mut HeaderMap) {
        self.outcome = outcome;
        let levels = self.account.usage.levels(Instant::now());
        write(headers, &REQUESTS, levels.requests);
        write(headers, &TOKENS, levels.tokens);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.seated {
            self.account.usage.leave();
        }
        self.account.requests(self.outcome).inc();
    }
}

fn write(headers: &mut HeaderMap, names: &Names, level: Option<Level>) {
    let Some(level) = level else { return };
    let [limit, remaining, reset] = names;
    headers.insert(limit.clone(), HeaderValue::from(level.limit));
    headers.insert(remaining.clone(), HeaderValue::from(level.remaining));
    if let Ok(text) = HeaderValue::try_from(duration(level.reset)) {
        headers.insert(reset.clone(), text);
    }
}

/// As OpenAI writes durations: `0s`, `20ms`, `1.5s`, `6m0s`.
fn duration(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1_000);
    match millis {
        0 => "0s".to_owned(),
        1..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}s", millis as f64 / 1_000.0),
        _ => format!("{}m{}s", millis / 60_000, (millis % 60_000).div_ceil(1_000)),
    }
}

/// Tokens taken for a request before it runs, estimated. Dropped, the estimate stays charged: a client that goes away in
/// the middle has had the work.
#[must_use]
pub struct Charge {
    account: Option<Arc<Account>>,
    taken: u32,
    day: Day,
}

impl Charge {
    pub(super) fn take(caller: &Caller, rows: &[Input]) -> Result<Self, Failure> {
        let Some(account) = &caller.account else { return Ok(Self { account: None, taken: 0, day: 0 }) };
        let taken = estimated_tokens(rows);
        let (day, day_ends) = account.today();
        account.usage.take_tokens(taken, Instant::now(), day, day_ends)?;
        Ok(Self { account: Some(Arc::clone(account)), taken, day })
    }

    /// What was charged for these inputs on `day`, by this api or another.
    pub(super) fn earlier(account: Option<Arc<Account>>, rows: &[Input], day: Day) -> Self {
        Self { account, taken: estimated_tokens(rows), day }
    }

    /// The request was answered: what it really used is charged. Answers from the cache count like any other, so that a
    /// tenant is charged what its `usage` says.
    pub fn settle(self, outputs: &[Output]) {
        let Some(account) = &self.account else { return };
        let used: u64 = outputs.iter().map(|output| u64::from(output.tokens)).sum();
        account.usage.correct_tokens(used as i64 - i64::from(self.taken), self.day);
        account.tokens(TokenKind::Prompt).inc_by(used);
    }

    /// The request failed: nothing is charged.
    pub fn refund(self) {
        let Some(account) = &self.account else { return };
        account.usage.correct_tokens(-i64::from(self.taken), self.day);
    }
}

/// Before anything has been tokenised: four bytes to a token and two special ones, as workers reckon too.
fn estimated_tokens(rows: &[Input]) -> u32 {
    let tokens: usize = rows.iter().map(|row| row.len_bytes() / 4 + 2).sum();
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        let written =
            [0, 1, 20_000, 1_500_000, 59_999_999, 360_000_000, 61_200_000].map(Duration::from_micros).map(duration);
        assert_eq!(written, ["0s", "1ms", "20ms", "1.5s", "1m0s", "6m0s", "1m2s"]);
    }
}
