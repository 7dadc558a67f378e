//! What the headers of a request say beside its body: who it is, which trace it belongs to, how long and how urgently.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use forebay_shared::ids::Lane;
use forebay_shared::trace::{TRACEPARENT, TraceContext};

use super::span::Notes;
use crate::error::Failure;
use crate::validate::RequestLimits;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Hugging Face's clients send their request id.
pub const X_AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
pub const X_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub const X_PRIORITY: HeaderName = HeaderName::from_static("x-priority");
pub const TRACE_PARENT: HeaderName = HeaderName::from_static(TRACEPARENT);

/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What every request has, whatever it is for.
#[derive(Debug, Clone)]
pub struct Context {
    /// When its head had been read.
    pub started: Instant,
    /// The client's, or one of ours. Only visible ASCII.
    pub request_id: HeaderValue,
    /// A span of our own, below the client's if it sent one.
    pub trace: TraceContext,
    /// The client's.
    pub parent: Option<TraceContext>,
    /// What the span of this request says beside what all say.
    pub notes: Notes,
    /// The most urgent lane that the caller may use; all, until somebody says otherwise.
    pub highest_lane: Lane,
    timeout: Option<HeaderValue>,
    priority: Option<HeaderValue>,
}

/// Until when an inference request is worth an answer, and before whom it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency {
    pub deadline: Instant,
    pub lane: Lane,
}

impl Context {
    /// One pass over the headers; what they hold is judged by [`Self::urgency`], where it matters.
    pub fn read(headers: &HeaderMap, started: Instant) -> Self {
        let (mut id, mut fallback_id, mut trace, mut timeout, mut priority) = (None, None, None, None, None);
        for (name, value) in headers {
            match name.as_str() {
                "x-request-id" => id = Some(value),
                "x-amzn-trace-id" => fallback_id = Some(value),
                TRACEPARENT => trace = value.to_str().ok().and_then(TraceContext::parse),
                "x-request-timeout" => timeout = Some(value.clone()),
                "x-priority" => priority = Some(value.clone()),
                _ => {}
            }
        }
        let request_id = [id, fallback_id].into_iter().flatten().find(|id| is_usable_id(id));
        Self {
            started,
            request_id: request_id.cloned().unwrap_or_else(new_request_id),
            trace: trace.map_or_else(TraceContext::root, TraceContext::child),
            parent: trace,
            notes: Notes::default(),
            highest_lane: Lane::High,
            timeout,
            priority,
        }
    }

    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// # Errors
    /// [`Failure`] naming the header that cannot be understood; [`Failure::Forbidden`] for a lane above the caller's.
    pub fn urgency(&self, limits: &RequestLimits) -> Result<Urgency, Failure> {
        let timeout = match &self.timeout {
            None => limits.default_timeout,
            Some(value) => value.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
                Failure::invalid("x-request-timeout", "header x-request-timeout must be a time such as 2.5 or 500ms")
            })?,
        };
        let lane =
            match &self.priority {
                None => Lane::Normal.max(self.highest_lane),
                Some(value) => value.to_str().ok().and_then(|lane| lane.parse().ok()).ok_or_else(|| {
                    Failure::invalid("x-priority", "header x-priority must be one of high, normal, low")
                })?,
            };
        if lane < self.highest_lane {
            let (asked, highest) = (lane.as_str(), self.highest_lane.as_str());
            return Err(Failure::Forbidden(format!(
                "this API key may not use the lane '{asked}', at most '{highest}'; change the header x-priority or leave it out"
            )));
        }
        Ok(Urgency { deadline: self.started + timeout.min(limits.max_timeout), lane })
    }
}

/// Seconds such as `2.5`, or a number with a unit such as `500ms`; `None` for zero and for anything else.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let timeout = match text.parse::<f64>() {
        // More seconds than fit are simply very many; the caller cuts them.
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => {
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        }
        Ok(_) => return None,
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    (!timeout.is_zero()).then_some(timeout)
}

fn is_usable_id(id: &HeaderValue) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// 32 hexadecimal digits.
fn new_request_id() -> HeaderValue {
    let text = forebay_shared::ids::hex(&rand::random::<[u8; 16]>());
    HeaderValue::try_from(text).expect("hexadecimal digits are a header value")
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
