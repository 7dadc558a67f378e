//! What a trace shows of the way to the queue (steps ② and ③) and back.
//!
//! ```text
//! request ─▶ dispatch (admitted … last answer) ─▶ publish, one per message that carries jobs of it ─▶ the worker's spans
//! ```
//! The span of a publish is the parent that a job takes along, so it is made before the message is encoded.

use std::time::Instant;

use forebay_shared::error::JobError;
use forebay_shared::ids::ModelName;
use forebay_shared::job::{Job, Output};
use forebay_shared::metrics::Outcome;
use forebay_shared::telemetry::otlp;
use forebay_shared::telemetry::span::{Kind, Span};
use forebay_shared::trace::TraceContext;

use super::Submission;

/// A submission, until its last answer or the end of whoever waited.
pub(super) struct Followed {
    span: Span,
    outcome: Outcome,
}

impl Followed {
    /// The submission's jobs stand below this span from here on.
    pub(super) fn begin(submission: &mut Submission, now: Instant) -> Self {
        let name = &submission.model.name;
        let mut span = Span::below(submission.trace, Kind::Internal, now, || format!("dispatch {name}"));
        if let Some(context) = span.context() {
            submission.trace = context;
            span.note("gen_ai.request.model", || name.to_string());
            span.note("forebay.task", || submission.task.as_str());
            span.note("forebay.rows", || submission.rows.len() as i64);
            span.note("forebay.lane", || submission.lane.as_str());
        }
        Self { span, outcome: Outcome::Cancelled }
    }

    pub(super) fn end(mut self, result: &Result<Vec<Output>, JobError>) {
        self.outcome = result.as_ref().map_or_else(Outcome::from, |_| Outcome::Ok);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if self.span.is_recorded() {
            self.span.conclude(self.outcome);
        }
    }
}

/// One message, as each of the requests sees it that have jobs in it.
#[derive(Debug, Default)]
pub(super) struct Publishes(Vec<Publish>);

#[derive(Debug)]
struct Publish {
    /// Above it: the dispatch of a request.
    above: TraceContext,
    span: Span,
    jobs: usize,
}

/// What all of them say.
pub(super) struct Message<'a> {
    pub(super) subject: &'a str,
    pub(super) id: &'a str,
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Publishes {
    /// Puts a job of the message below the span of its publish. `accepted`: when it was admitted.
    pub(super) fn take(&mut self, job: &mut Job, model: &ModelName, accepted: Instant, now: Instant) {
        let Some(above) = job.trace.filter(|trace| trace.is_sampled() && otlp::is_on()) else { return };
        // Jobs of a request mostly stand together.
        if let Some(known) = self.0.iter_mut().rev().find(|publish| publish.above == above) {
            known.jobs += 1;
            job.trace = known.span.context();
            return;
        }
        let mut span = Span::below(above, Kind::Producer, now, || format!("publish {model}"));
        span.note("messaging.system", || "nats");
        span.note("messaging.operation.type", || "send");
        span.note("messaging.operation.name", || "publish");
        span.note("gen_ai.request.model", || model.to_string());
        span.note("forebay.held_seconds", || now.saturating_duration_since(accepted).as_secs_f64());
        job.trace = span.context();
        self.0.push(Publish { above, span, jobs: 1 });
    }

    pub(super) fn describe(&mut self, message: &Message<'_>) {
        for Publish { span, jobs, .. } in &mut self.0 {
            span.note("messaging.destination.name", || message.subject.to_owned());
            span.note("messaging.message.id", || message.id.to_owned());
            span.note("messaging.message.body.size", || message.bytes as i64);
            span.note("messaging.batch.message_count", || *jobs as i64);
            span.note("forebay.bundle_rows", || message.rows as i64);
        }
    }

    /// The broker did not take it.
    pub(super) fn fail(&mut self, error: &JobError) {
        for Publish { span, .. } in &mut self.0 {
            span.conclude(Outcome::from(error));
        }
    }
}
