//! What a trace shows of a worker: each job from its intake to its answer, and the forward pass that ran it.
//!
//! ```text
//! publish (api) ─▶ process: one job, taken in … answered          in the request's trace
//!                    └▶ run: its forward pass, device busy        in the request's trace, linked to the batch
//! batch: the same pass as the device sees it                      in a trace of its own, linked to each `process`
//! ```
//! A batch holds jobs of many traces, so it can be below none of them. It is recorded if one of its jobs is. All of this is
//! written by the task that answers; the device's thread only notes the time.

use std::time::{Duration, Instant};

use forebay_shared::ids::ModelName;
use forebay_shared::job::Job;
use forebay_shared::metrics::{CloseReason, Outcome};
use forebay_shared::telemetry::otlp;
use forebay_shared::telemetry::span::{Kind, Span};
use forebay_shared::trace::TraceContext;

use crate::delivery::Delivery;
use crate::prepare::Work;

/// One forward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) begun: Instant,
    /// How long the device was busy with it.
    pub(crate) took: Duration,
    /// Why its batch had the jobs that it had.
    pub(crate) reason: CloseReason,
}

/// The span of a job that was `taken` in then.
pub(crate) fn process(model: &ModelName, delivery: &Delivery, job: &Job, taken: Instant) -> Span {
    let Some(parent) = job.trace.filter(|_| otlp::is_on()) else { return Span::none() };
    let context = otlp::decided(parent.child(), Some(&parent));
    let mut span = Span::begin(context, Some(parent), Kind::Consumer, taken, || format!("process {model}"));
    span.note("messaging.system", || "nats");
    span.note("messaging.operation.type", || "process");
    span.note("messaging.operation.name", || "process");
    span.note("gen_ai.request.model", || model.to_string());
    span.note("forebay.task", || job.task.as_str());
    span.note("forebay.job", || job.id.to_string());
    span.note("forebay.lane", || delivery.lane.as_str());
    span.note("forebay.attempt", || delivery.delivered as i64);
    span
}

/// A worker that has it no longer cannot know how it ends.
pub(crate) fn lost(span: &mut Span) {
    span.note("forebay.outcome", || "given_up");
    span.fail("lease_over");
}

/// Adds a pass to the spans of its jobs, and the batch itself; `failed` if there was no result.
pub(crate) fn pass(model: &ModelName, jobs: &mut [Work], pass: Pass, failed: bool) {
    if !otlp::is_on() || !jobs.iter().any(|work| work.span.is_recorded()) {
        return;
    }
    let Pass { begun, took, reason } = pass;
    let rows = jobs.len() as i64;
    let tokens: usize = jobs.iter().map(|work| work.ids.len()).sum();
    let context = TraceContext::root().with_sampled(true);
    let mut batch = Span::begin(context, None, Kind::Internal, begun, || format!("batch {model}"));
    batch.note("gen_ai.request.model", || model.to_string());
    batch.note("forebay.batch.rows", || rows);
    batch.note("forebay.batch.tokens", || tokens as i64);
    batch.note("forebay.batch.close_reason", || reason.as_str());
    batch.note("forebay.device_seconds", || took.as_secs_f64());
    for work in jobs {
        let Some(job) = work.span.context() else { continue };
        batch.link(job);
        let mut run = Span::below(job, Kind::Internal, begun, || format!("run {model}"));
        run.link(context);
        run.note("forebay.batch.rows", || rows);
        run.note("forebay.batch.tokens", || tokens as i64);
        run.note("gen_ai.usage.input_tokens", || work.ids.len() as i64);
        end(run, begun + took, failed);
        // What fails in company is run again alone: that pass is the one that counts.
        if failed && rows > 1 {
            continue;
        }
        let waited = work.span.begun().map(|taken| begun.saturating_duration_since(taken));
        work.span.note("forebay.batch", || context.span_id());
        work.span.note("forebay.batch_wait_seconds", || waited.unwrap_or_default().as_secs_f64());
        work.span.note("gen_ai.usage.input_tokens", || work.ids.len() as i64);
    }
    end(batch, begun + took, failed);
}

fn end(mut span: Span, at: Instant, failed: bool) {
    if failed {
        span.conclude(Outcome::Failed);
    }
    span.end_at(at);
}
