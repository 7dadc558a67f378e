//! One operation of a trace, as it is recorded: begun somewhere on the path, sent when it is dropped.
//!
//! A [`Span`] that is not recorded is an empty pointer, and whatever is said to it costs a branch: values are asked for only
//! when there is somebody to hear them. Names and keys are the semantic conventions' where those have one
//! (<https://opentelemetry.io/docs/specs/semconv/>), else `forebay.…`. **No input ever goes in**: not the text, not a path or
//! a query that a client has written.

use std::time::{Instant, SystemTime};

pub use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{SpanId, TraceFlags, TraceId, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::otlp;
use crate::metrics::Outcome;
use crate::trace::TraceContext;

/// Most links of one span, as the specification bounds them.
const MAX_LINKS: usize = 128;

/// What a span is on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request of another process.
    Server,
    /// Puts work on the queue.
    Producer,
    /// Takes work from the queue.
    Consumer,
    Internal,
}

/// A span in the making, or nothing.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Making>>);

#[derive(Debug)]
struct Making {
    context: TraceContext,
    parent: Option<TraceContext>,
    kind: Kind,
    name: String,
    begun: Instant,
    ended: Option<Instant>,
    attributes: Vec<KeyValue>,
    links: Vec<TraceContext>,
    failed: bool,
}

impl Span {
    pub const fn none() -> Self {
        Self(None)
    }

    /// `context`, a span below `parent`: recorded if it is sampled and traces are exported.
    #[inline]
    pub fn begin(
        context: TraceContext,
        parent: Option<TraceContext>,
        kind: Kind,
        begun: Instant,
        name: impl FnOnce() -> String,
    ) -> Self {
        if !(context.is_sampled() && otlp::is_on()) {
            return Self::none();
        }
        Self(Some(Box::new(Making::new(context, parent, kind, begun, name()))))
    }

    /// A new span below one of this process.
    #[inline]
    pub fn below(parent: TraceContext, kind: Kind, begun: Instant, name: impl FnOnce() -> String) -> Self {
        if !(parent.is_sampled() && otlp::is_on()) {
            return Self::none();
        }
        Self::begin(parent.child(), Some(parent), kind, begun, name)
    }

    #[inline]
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// What those below it name as their parent.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|making| making.context)
    }

    pub fn begun(&self) -> Option<Instant> {
        self.0.as_ref().map(|making| making.begun)
    }

    /// Adds an attribute.
    #[inline]
    pub fn note<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(making) = &mut self.0 {
            making.attributes.push(KeyValue::new(key, value()));
        }
    }

    pub fn note_all(&mut self, attributes: impl IntoIterator<Item = KeyValue>) {
        if let Some(making) = &mut self.0 {
            making.attributes.extend(attributes);
        }
    }

    /// Points to a span that is neither above nor below.
    pub fn link(&mut self, to: TraceContext) {
        if let Some(making) = &mut self.0 {
            making.links.push(to);
        }
    }

    /// It failed for a reason that is ours; `error` is a code, never a text that somebody wrote.
    pub fn fail(&mut self, error: &'static str) {
        if let Some(making) = &mut self.0 {
            making.failed = true;
            making.attributes.push(KeyValue::new("error.type", error));
        }
    }

    /// How it ended; an error where that is neither the client's doing nor its wish.
    pub fn conclude(&mut self, outcome: Outcome) {
        self.note("forebay.outcome", || outcome.as_str());
        match outcome {
            Outcome::Failed | Outcome::Overloaded | Outcome::DeadlineExceeded => self.fail(outcome.as_str()),
            Outcome::Ok
            | Outcome::Invalid
            | Outcome::Unauthorized
            | Outcome::RateLimited
            | Outcome::QuotaExceeded
            | Outcome::Cancelled => {}
        }
    }

    /// It was over at this time already.
    pub fn end_at(&mut self, ended: Instant) {
        if let Some(making) = &mut self.0 {
            making.ended = Some(ended);
        }
    }

    #[cfg(test)]
    pub(super) fn sample_for_tests() -> SpanData {
        let context = TraceContext::root().with_sampled(true);
        let making = Making::new(context, None, Kind::Internal, Instant::now(), "sample".to_owned());
        making.data(Instant::now(), SystemTime::now())
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some(making) = self.0.take() {
            otlp::send(making.data(Instant::now(), SystemTime::now()));
        }
    }
}

impl Making {
    fn new(context: TraceContext, parent: Option<TraceContext>, kind: Kind, begun: Instant, name: String) -> Self {
        let (attributes, links) = (Vec::with_capacity(12), Vec::new());
        Self { context, parent, kind, name, begun, ended: None, attributes, links, failed: false }
    }

    /// What is sent. `now` and `wall` are the same moment: times are measured by the one and told by the other.
    fn data(self, now: Instant, wall: SystemTime) -> SpanData {
        let Self { context, parent, kind, name, begun, ended, attributes, mut links, failed } = self;
        let at = |instant: Instant| wall.checked_sub(now.saturating_duration_since(instant)).unwrap_or(wall);
        let dropped_links = links.len().saturating_sub(MAX_LINKS);
        links.truncate(MAX_LINKS);
        let mut all_links = SpanLinks::default();
        all_links.links = links.into_iter().map(|to| Link::with_context(named(to, false))).collect();
        all_links.dropped_count = dropped_links as u32;
        SpanData {
            span_context: named(context, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id_bytes())),
            parent_span_is_remote: parent.is_some() && matches!(kind, Kind::Server | Kind::Consumer),
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
                Kind::Internal => SpanKind::Internal,
            },
            name: name.into(),
            start_time: at(begun),
            end_time: at(ended.unwrap_or(now)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: all_links,
            status: if failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: otlp::scope(),
        }
    }
}

fn named(context: TraceContext, remote: bool) -> SpanContext {
    let (trace, span) = (context.trace_id_bytes(), context.span_id_bytes());
    let flags = TraceFlags::default().with_sampled(context.is_sampled());
    SpanContext::new(TraceId::from_bytes(trace), SpanId::from_bytes(span), flags, remote, TraceState::default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn making(kind: Kind, parent: Option<TraceContext>) -> Making {
        let context = parent.map_or_else(TraceContext::root, TraceContext::child).with_sampled(true);
        Making::new(context, parent, kind, Instant::now(), "name".to_owned())
    }

    #[test]
    fn times_are_measured_by_one_clock_and_told_by_the_other() {
        let mut making = making(Kind::Internal, None);
        let (begun, wall) = (making.begun, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
        making.ended = Some(begun + Duration::from_secs(2));
        let data = making.data(begun + Duration::from_secs(5), wall);
        assert_eq!(data.start_time, SystemTime::UNIX_EPOCH + Duration::from_secs(995));
        assert_eq!(data.end_time, SystemTime::UNIX_EPOCH + Duration::from_secs(997));
    }

    #[test]
    fn a_span_has_its_ids_and_its_parents() {
        let parent = TraceContext::root();
        for (kind, remote) in
            [(Kind::Server, true), (Kind::Consumer, true), (Kind::Producer, false), (Kind::Internal, false)]
        {
            let making = making(kind, Some(parent));
            let context = making.context;
            let data = making.data(Instant::now(), SystemTime::now());
            assert_eq!(data.span_context.trace_id().to_string(), parent.trace_id());
            assert_eq!(data.span_context.span_id().to_string(), context.span_id());
            assert_eq!(data.parent_span_id.to_string(), parent.span_id());
            assert_eq!(data.parent_span_is_remote, remote, "{kind:?}");
            assert!(data.span_context.is_sampled());
        }
        let root = making(Kind::Server, None).data(Instant::now(), SystemTime::now());
        assert_eq!((root.parent_span_id, root.parent_span_is_remote), (SpanId::INVALID, false));
    }

    #[test]
    fn links_are_bounded_and_the_rest_is_counted() {
        let mut making = making(Kind::Internal, None);
        making.links = (0..MAX_LINKS + 3).map(|_| TraceContext::root()).collect();
        let data = making.data(Instant::now(), SystemTime::now());
        assert_eq!((data.links.len(), data.links.dropped_count), (MAX_LINKS, 3));
    }

    #[test]
    fn what_is_not_recorded_is_asked_for_nothing() {
        let sampled = TraceContext::root().with_sampled(true);
        let mut span = Span::begin(sampled, None, Kind::Server, Instant::now(), || unreachable!("nothing is exported"));
        span.note("key", || -> i64 { unreachable!("nobody would hear it") });
        span.fail("code");
        assert!(!span.is_recorded() && span.context().is_none());
        assert_eq!(size_of::<Span>(), size_of::<usize>());
    }
}
