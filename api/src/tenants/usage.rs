//! What one tenant uses of its limits in this api. Outlives reloads of the configuration, so that one is no way around a
//! limit.
//!
//! Order at the door: seats (requests at once), then requests per second; later, when the inputs are known, tokens per
//! minute, then tokens per day. A refusal takes nothing from what comes after it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bucket::{Bucket, Level, Rate};
use super::config::Limits;
use super::quota::{Day, Quota};
use crate::error::Failure;

/// What a caller over its limit of requests at once is told to wait: nobody knows when one will end.
const SEAT_WAIT: Duration = Duration::from_secs(1);
/// Tokens per minute may come all at once.
const MINUTE: f64 = 60.0;

/// See the module.
pub struct Usage(Mutex<State>);

struct State {
    limits: Limits,
    apis: usize,
    seats: u32,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    quota: Option<Quota>,
}

/// What a client is told of its limits; `None` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    pub requests: Option<Level>,
    pub tokens: Option<Level>,
}

impl Usage {
    pub fn new(limits: Limits, apis: usize, now: Instant, day: Day) -> Self {
        let state = State { limits, apis, seats: 0, requests: None, tokens: None, quota: None };
        let this = Self(Mutex::new(state));
        this.configure(limits, apis, now, day);
        this
    }

    /// Takes over limits, divided by the number of `apis`.
    pub fn configure(&self, limits: Limits, apis: usize, now: Instant, day: Day) {
        let mut state = self.0.lock();
        (state.limits, state.apis) = (limits, apis);
        let requests = limits.requests_per_second.map(|rate| Rate::share(rate, 1.0, apis));
        let tokens = limits.tokens_per_minute.map(|tokens| Rate::share(f64::from(tokens.get()), MINUTE, apis));
        adjust(&mut state.requests, requests, now);
        adjust(&mut state.tokens, tokens, now);
        match (&mut state.quota, limits.tokens_per_day) {
            (Some(quota), Some(limit)) => quota.set_limit(limit),
            (quota, limit) => *quota = limit.map(|limit| Quota::new(limit, day)),
        }
    }

    /// Lets one request in, and gives it a seat that [`Self::leave`] gives back.
    ///
    /// # Errors
    /// [`Failure::RateLimited`]
    pub fn enter(&self, now: Instant) -> Result<(), Failure> {
        let mut state = self.0.lock();
        let apis = u32::try_from(state.apis).unwrap_or(u32::MAX).max(1);
        if let Some(most) = state.limits.concurrency
            && state.seats >= most.get().div_ceil(apis)
        {
            return Err(limited(format!("{most} requests at the same time"), SEAT_WAIT));
        }
        if let Some(requests) = &mut state.requests
            && let Err(wait) = requests.take(1, now)
        {
            let rate = state.limits.requests_per_second.unwrap_or_default();
            return Err(limited(format!("{rate} requests per second"), wait));
        }
        state.seats += 1;
        Ok(())
    }

    pub fn leave(&self) {
        let mut state = self.0.lock();
        state.seats = state.seats.saturating_sub(1);
    }

    /// Takes so many tokens of the minute and of the day.
    ///
    /// # Errors
    /// [`Failure::RateLimited`]; [`Failure::QuotaExceeded`], which says that the next day begins in `day_ends`.
    pub fn take_tokens(&self, tokens: u32, now: Instant, day: Day, day_ends: Duration) -> Result<(), Failure> {
        let mut state = self.0.lock();
        let State { limits, tokens: minute, quota, .. } = &mut *state;
        if let Some(minute) = minute.as_mut()
            && let Err(wait) = minute.take(tokens, now)
        {
            let most = limits.tokens_per_minute.map_or(0, std::num::NonZeroU32::get);
            return Err(limited(format!("{most} tokens per minute"), wait));
        }
        if let Some(quota) = quota
            && quota.take(u64::from(tokens), day).is_err()
        {
            if let Some(minute) = minute {
                minute.correct(-i64::from(tokens));
            }
            let limit = format!("{} tokens per day", quota.limit());
            return Err(Failure::QuotaExceeded { limit, retry_after_ms: day_ends.as_millis() as u64 });
        }
        Ok(())
    }

    /// So many more tokens were used than were taken on `day`, or fewer if below 0.
    pub fn correct_tokens(&self, more: i64, day: Day) {
        let mut state = self.0.lock();
        if let Some(minute) = &mut state.tokens {
            minute.correct(more);
        }
        if let Some(quota) = &mut state.quota {
            quota.correct(more, day);
        }
    }

    pub fn levels(&self, now: Instant) -> Levels {
        let state = self.0.lock();
        let level = |bucket: &Option<Bucket>| bucket.as_ref().map(|bucket| bucket.level(now));
        Levels { requests: level(&state.requests), tokens: level(&state.tokens) }
    }

    /// Asks the quota, if there is one.
    pub fn with_quota<T>(&self, ask: impl FnOnce(&mut Quota) -> T) -> Option<T> {
        self.0.lock().quota.as_mut().map(ask)
    }
}

fn limited(limit: String, wait: Duration) -> Failure {
    let millis = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    Failure::RateLimited { limit, retry_after_ms: millis }
}

/// Makes, changes or removes a bucket so that it has this rate.
fn adjust(bucket: &mut Option<Bucket>, rate: Option<Rate>, now: Instant) {
    match (bucket.as_ref(), rate) {
        (Some(old), Some(rate)) if old.rate() == rate => {}
        (Some(old), Some(rate)) => *bucket = Some(old.at_rate(rate, now)),
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, now)),
        (_, None) => *bucket = None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            requests_per_second: Some(4.0),
            tokens_per_minute: NonZeroU32::new(600),
            tokens_per_day: Some(1_000),
            concurrency: NonZeroU32::new(3),
        }
    }

    fn failure(result: Result<(), Failure>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn requests_at_once_and_per_second_are_bounded_apart() {
        let start = Instant::now();
        let usage = Usage::new(limits(), 1, start, 1);
        (0..3).for_each(|_| usage.enter(start).unwrap());
        assert_eq!(failure(usage.enter(start)), "over the limit of 3 requests at the same time; retry after 1000 ms");
        (0..3).for_each(|_| usage.leave());
        usage.enter(start).unwrap();
        assert_eq!(failure(usage.enter(start)), "over the limit of 4 requests per second; retry after 250 ms");
        assert!(usage.enter(start + SECOND).is_ok());
    }

    #[test]
    fn limits_are_divided_among_the_apis() {
        let start = Instant::now();
        let usage = Usage::new(limits(), 2, start, 1);
        (0..2).for_each(|_| usage.enter(start).unwrap());
        assert!(failure(usage.enter(start)).contains("3 requests at the same time"), "2 of the 3 are this api's");
        (0..2).for_each(|_| usage.leave());
        assert_eq!(usage.levels(start).requests.map(|level| (level.limit, level.remaining)), Some((2, 0)));
        assert_eq!(usage.levels(start).tokens.map(|level| level.limit), Some(300));
    }

    #[test]
    fn a_reload_or_another_api_does_not_give_back_what_was_used() {
        let start = Instant::now();
        let usage = Usage::new(limits(), 1, start, 1);
        usage.take_tokens(600, start, 1, SECOND).unwrap();
        usage.configure(limits(), 1, start, 1);
        usage.configure(limits(), 2, start, 1);
        assert!(failure(usage.take_tokens(10, start, 1, SECOND)).contains("600 tokens per minute"));
        assert_eq!(usage.with_quota(|quota| quota.used()), Some(600));
        usage.configure(Limits::default(), 1, start, 1);
        assert_eq!(usage.levels(start), Levels { requests: None, tokens: None });
        assert!(usage.take_tokens(u32::MAX, start, 1, SECOND).is_ok());
    }

    #[test]
    fn a_day_that_is_used_up_takes_nothing_from_the_minute() {
        let start = Instant::now();
        let usage = Usage::new(Limits { tokens_per_day: Some(100), ..limits() }, 1, start, 1);
        usage.take_tokens(100, start, 1, SECOND).unwrap();
        let refused = usage.take_tokens(50, start, 1, 3 * SECOND).unwrap_err();
        let limit = "100 tokens per day".to_owned();
        assert_eq!(refused, Failure::QuotaExceeded { limit, retry_after_ms: 3_000 });
        usage.correct_tokens(-60, 1);
        assert_eq!(usage.take_tokens(50, start, 1, SECOND), Ok(()));
        assert!(usage.take_tokens(100, start, 2, SECOND).is_ok(), "the next day");
    }
}
