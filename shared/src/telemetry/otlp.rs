//! Where spans leave this process: a bounded queue, a thread of its own, OTLP over HTTP.
//!
//! Nobody on a request's path waits here. A span that finds the queue full is lost and counted; a batch that the collector
//! does not take is lost and counted; what was lost is said at most once a minute. Without an endpoint nothing of this
//! exists, and [`is_on`] is one load and one branch.
//!
//! The SDK's tracer is not used: it makes span ids itself, and ours stand in jobs and answers before it is known whether
//! anything is recorded. Its batch processor, its samplers and its exporter are.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor};

use super::client::Client;
use super::sampling::Sampling;
use super::settings::{Plan, TraceArgs};
use crate::ids::{ProcessName, Role};
use crate::trace::TraceContext;

/// How often lost spans are spoken of.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Spans that wait for the thread, at most, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise.
const QUEUE: usize = 2_048;

static EXPORT: OnceLock<Export> = OnceLock::new();

/// Everything that is there once, for the whole process.
struct Export {
    sampling: Sampling,
    scope: InstrumentationScope,
    queue: usize,
    tally: Arc<Tally>,
    processor: BatchSpanProcessor,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Tally {
    waiting: AtomicUsize,
    sent: AtomicU64,
    /// There was no room.
    dropped: AtomicU64,
    /// The collector did not take them.
    failed: AtomicU64,
}

/// Starts exporting, if the settings say so. Call once, before the first request and outside of any runtime.
pub fn start(args: &TraceArgs, role: Role, process: &ProcessName) {
    let (plan, problems) = args.plan(role, process);
    for problem in problems {
        tracing::warn!(problem, "a setting of traces cannot be used");
    }
    let Some(plan) = plan else { return };
    match Export::new(&plan) {
        Ok(export) => {
            tracing::info!(endpoint = plan.endpoint, sampler = %plan.sampling, "exports traces");
            // A second start (tests in one process) keeps the first.
            let _already_started = EXPORT.set(export);
        }
        // Work goes on without: somebody's environment for all programs is no reason not to serve.
        Err(error) => tracing::error!(endpoint = plan.endpoint, %error, "traces cannot be exported"),
    }
}

/// Sends what is left, for at most `limit`. What is recorded after this is lost.
pub fn finish(limit: Duration) {
    let Some(export) = EXPORT.get() else { return };
    let ended = export.processor.shutdown_with_timeout(limit);
    let waiting = export.tally.waiting.load(Ordering::Relaxed);
    if ended.is_err() && waiting > 0 {
        tracing::warn!(spans = waiting, ?limit, "the last spans could not be sent in time");
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let Tally { sent, dropped, failed, .. } = &*export.tally;
    tracing::info!(sent = count(sent), dropped = count(dropped), failed = count(failed), "exported traces");
}

/// Whether anything is recorded in this process at all.
#[inline]
pub fn is_on() -> bool {
    EXPORT.get().is_some()
}

/// `own`, a span of ours below `parent`, with the decision whether it is recorded; as it was where nothing is exported.
#[inline]
pub fn decided(own: TraceContext, parent: Option<&TraceContext>) -> TraceContext {
    match EXPORT.get() {
        None => own,
        Some(export) => own.with_sampled(export.sampling.samples(&own, parent)),
    }
}

/// The root of a trace that no request begins.
pub fn root() -> TraceContext {
    decided(TraceContext::root(), None)
}

pub(super) fn scope() -> InstrumentationScope {
    EXPORT.get().map_or_else(InstrumentationScope::default, |export| export.scope.clone())
}

/// Never waits.
pub(super) fn send(span: SpanData) {
    let Some(export) = EXPORT.get() else { return };
    if export.tally.waiting.fetch_add(1, Ordering::Relaxed) < export.queue {
        export.processor.on_end(span);
    } else {
        export.tally.waiting.fetch_sub(1, Ordering::Relaxed);
        export.tally.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Export {
    fn new(plan: &Plan) -> anyhow::Result<Self> {
        let timeout = timeout();
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(timeout, plan.certificate.as_deref())?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&plan.endpoint)
            .with_timeout(timeout)
            .build()?;
        exporter.set_resource(&plan.resource);
        let tally = Arc::new(Tally::default());
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE").filter(|size| *size > 0).unwrap_or(QUEUE);
        let counted = Counted {
            inner: exporter,
            endpoint: plan.endpoint.clone(),
            tally: Arc::clone(&tally),
            said: Mutex::default(),
        };
        // The queue behind ours is a little longer, so that what is lost is lost here, where it is counted.
        let config = BatchConfigBuilder::default().with_max_queue_size(queue + 64).build();
        let scope = InstrumentationScope::builder("forebay").with_version(env!("CARGO_PKG_VERSION")).build();
        let processor = BatchSpanProcessor::new(counted, config);
        Ok(Self { sampling: plan.sampling.clone(), scope, queue, tally, processor })
    }
}

/// The exporter, and a count of what it did.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    endpoint: String,
    tally: Arc<Tally>,
    said: Mutex<Said>,
}

/// Up to where the loss was spoken of.
#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    lost: u64,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.tally.waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.inner.export(batch).await;
        let counter = if result.is_ok() { &self.tally.sent } else { &self.tally.failed };
        counter.fetch_add(spans as u64, Ordering::Relaxed);
        self.speak_of_losses(result.as_ref().err(), Instant::now());
        // Whoever called has nothing to add.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> Counted<E> {
    /// True if there was something to say.
    fn speak_of_losses(&self, error: Option<&OTelSdkError>, now: Instant) -> bool {
        let lost = self.tally.failed.load(Ordering::Relaxed) + self.tally.dropped.load(Ordering::Relaxed);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = said.at.is_some_and(|at| now.duration_since(at) < SAY_EVERY);
        if lost == said.lost || silent {
            return false;
        }
        let spans = lost - said.lost;
        *said = Said { at: Some(now), lost };
        match error {
            Some(error) => {
                let endpoint = &self.endpoint;
                tracing::warn!(spans, endpoint, %error, "spans were lost: the collector does not take OTLP over HTTP there");
            }
            None => tracing::warn!(spans, "spans were lost: there were more than could be sent; sample fewer requests"),
        }
        true
    }
}

fn timeout() -> Duration {
    let millis = number("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| number("OTEL_EXPORTER_OTLP_TIMEOUT"));
    Duration::from_millis(millis.filter(|millis| *millis > 0).unwrap_or(10_000) as u64)
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Takes everything, or nothing.
    #[derive(Debug)]
    struct Collector {
        works: bool,
    }

    impl SpanExporter for Collector {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            if self.works { Ok(()) } else { Err(OTelSdkError::InternalFailure("refused".to_owned())) }
        }
    }

    fn counted(works: bool) -> Counted<Collector> {
        let (tally, said) = (Arc::default(), Mutex::default());
        Counted { inner: Collector { works }, endpoint: String::new(), tally, said }
    }

    fn two_spans() -> Vec<SpanData> {
        let span = super::super::span::Span::sample_for_tests();
        vec![span.clone(), span]
    }

    #[test]
    fn what_the_collector_does_not_take_is_counted_and_leaves_its_room() {
        for works in [true, false] {
            let counted = counted(works);
            counted.tally.waiting.store(5, Ordering::Relaxed);
            counted.export(two_spans()).now_or_never().unwrap().unwrap();
            let Tally { waiting, sent, failed, .. } = &*counted.tally;
            let numbers = [sent, failed].map(|counter| counter.load(Ordering::Relaxed));
            assert_eq!(waiting.load(Ordering::Relaxed), 3);
            assert_eq!(numbers, if works { [2, 0] } else { [0, 2] });
        }
    }

    #[test]
    fn losses_are_spoken_of_once_a_minute() {
        let counted = counted(true);
        let start = Instant::now();
        let error = OTelSdkError::AlreadyShutdown;
        assert!(!counted.speak_of_losses(None, start), "nothing was lost");
        counted.tally.failed.store(7, Ordering::Relaxed);
        assert!(counted.speak_of_losses(Some(&error), start));
        counted.tally.dropped.store(1, Ordering::Relaxed);
        assert!(!counted.speak_of_losses(Some(&error), start + SAY_EVERY / 2));
        assert!(counted.speak_of_losses(None, start + SAY_EVERY));
        assert!(!counted.speak_of_losses(None, start + 3 * SAY_EVERY), "nothing more was lost");
    }

    #[test]
    fn without_a_start_nothing_is_decided_and_nothing_is_recorded() {
        assert!(!is_on());
        let context = TraceContext::root().with_sampled(true);
        assert_eq!(decided(context, None), context);
        assert!(!root().is_sampled());
        send(super::super::span::Span::sample_for_tests());
    }
}
