//! W3C trace context (`traceparent`), carried from HTTP through NATS to the worker's spans and back.
//!
//! Format: <https://www.w3.org/TR/trace-context/#traceparent-header>, version 00. What is recorded of a trace, and by whom, is
//! [`crate::telemetry::span`]'s business; here is only the name of a span and whether it is sampled.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{hex, parse_hex};

/// Name of the header in HTTP and in NATS.
pub const TRACEPARENT: &str = "traceparent";

/// Flag: somebody records this trace.
const SAMPLED: u8 = 1;

/// Which trace a job belongs to, and its parent span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    #[serde(with = "serde_bytes")]
    trace_id: [u8; 16],
    #[serde(with = "serde_bytes")]
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// A new root that is not sampled.
    pub fn root() -> Self {
        Self { trace_id: rand::random(), span_id: rand::random(), flags: 0 }
    }

    /// The same trace under a span of our own.
    pub fn child(self) -> Self {
        Self { span_id: rand::random(), ..self }
    }

    /// The same span, recorded or not.
    pub fn with_sampled(self, sampled: bool) -> Self {
        Self { flags: if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..self }
    }

    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub fn trace_id(&self) -> String {
        hex(&self.trace_id)
    }

    pub fn span_id(&self) -> String {
        hex(&self.span_id)
    }

    pub(crate) const fn trace_id_bytes(&self) -> [u8; 16] {
        self.trace_id
    }

    pub(crate) const fn span_id_bytes(&self) -> [u8; 8] {
        self.span_id
    }

    /// Reads a `traceparent` header; `None` when it is malformed or all zero, which the specification says to ignore.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version == "ff" || parse_hex::<1>(version).is_none() || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let context = Self { trace_id: parse_hex(trace)?, span_id: parse_hex(span)?, flags: parse_hex::<1>(flags)?[0] };
        (context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.span_id), self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_survives() {
        assert_eq!(TraceContext::parse(SAMPLE).unwrap().to_string(), SAMPLE);
    }

    #[test]
    fn a_child_keeps_the_trace_and_changes_the_span() {
        let parent = TraceContext::parse(SAMPLE).unwrap();
        let child = parent.child();
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child, parent);
    }

    #[test]
    fn only_the_sampled_flag_is_ours_to_change() {
        let context = TraceContext::parse(&SAMPLE.replace("-01", "-03")).unwrap();
        assert!(context.is_sampled() && context.child().is_sampled());
        assert!(context.with_sampled(false).to_string().ends_with("-02"));
        assert_eq!(context.with_sampled(false).with_sampled(true), context);
        assert!(!TraceContext::root().is_sampled());
    }

    #[test]
    fn malformed_headers_are_ignored() {
        for bad in
            ["", "00-1-2-3", &SAMPLE.replace("4bf", "xyz"), &format!("{SAMPLE}-00"), &SAMPLE.replacen("00", "ff", 1)]
        {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
        assert_eq!(TraceContext::parse("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
    }
}
