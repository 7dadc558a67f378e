//! The span of a request, from its head to its answer (step ① of the data path, and the way back at ⑦).
//!
//! Says what the metrics say: method, template of the route, status, outcome. Never a path, a query or a header: those are
//! the client's words.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use forebay_shared::metrics::{Method as MethodLabel, Outcome};
use forebay_shared::telemetry::otlp;
use forebay_shared::telemetry::span::{KeyValue, Kind, Span};
use parking_lot::Mutex;

use super::context::Context;
use super::door::Access;
use crate::error::{Failure, client_closed_request};

/// What a handler says about its request. Nobody listens where nothing is recorded.
#[derive(Debug, Clone, Default)]
pub struct Notes(Option<Arc<Mutex<Vec<KeyValue>>>>);

impl Notes {
    #[inline]
    pub fn add<const N: usize>(&self, notes: impl FnOnce() -> [KeyValue; N]) {
        if let Some(all) = &self.0 {
            all.lock().extend(notes());
        }
    }
}

/// Leaves when dropped: with its answer, or as one that its client did not wait for.
pub struct RequestSpan {
    span: Span,
    notes: Notes,
    status: StatusCode,
    outcome: Outcome,
}

impl RequestSpan {
    /// Decides whether the request is recorded, and says so in its context.
    ///
    /// Probes, pages and paths that are none of ours begin no trace: they come by the clock, or from scanners.
    pub fn begin(context: &mut Context, access: Access, method: &Method, route: &'static str) -> Self {
        let (mut span, mut notes) = (Span::none(), Notes::default());
        if otlp::is_on() {
            let own = otlp::decided(context.trace, context.parent.as_ref());
            context.trace = own.with_sampled(own.is_sampled() && (access == Access::Key || context.parent.is_some()));
            span = begun(context, method, route);
            notes = Notes(span.is_recorded().then(Arc::default));
            context.notes = notes.clone();
        }
        Self { span, notes, status: client_closed_request(), outcome: Outcome::Cancelled }
    }

    /// The code of an error of ours; those of clients are in the status.
    pub fn refused(&mut self, failure: &Failure) {
        if self.span.is_recorded()
            && let (500.., code) = failure.for_logs()
        {
            self.span.fail(code);
        }
    }

    pub fn finish(mut self, status: StatusCode, outcome: Outcome) {
        (self.status, self.outcome) = (status, outcome);
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.span.is_recorded() {
            return;
        }
        if let Some(notes) = &self.notes.0 {
            self.span.note_all(std::mem::take(&mut *notes.lock()));
        }
        self.span.note("http.response.status_code", || i64::from(self.status.as_u16()));
        self.span.note("forebay.outcome", || self.outcome.as_str());
        self.span.end_at(Instant::now());
    }
}

fn begun(context: &Context, method: &Method, route: &'static str) -> Span {
    let method = match MethodLabel::from(method.as_str()) {
        MethodLabel::Other => "_OTHER",
        known => known.as_str(),
    };
    // Without a template there is nothing else to call it.
    let known = route.starts_with('/');
    let name = || if known { format!("{method} {route}") } else { method.to_owned() };
    let mut span = Span::begin(context.trace, context.parent, Kind::Server, context.started, name);
    span.note("http.request.method", || method);
    span.note("url.scheme", || "http");
    if known {
        span.note("http.route", || route);
    }
    span
}
