//! Handles of the metrics that a request touches, looked up once instead of once per request.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use axum::http::{Method, StatusCode};
use forebay_shared::ids::ModelName;
use forebay_shared::metrics::{
    ApiMetrics, Check, CheckResult, Counter, Histogram, Method as MethodLabel, Outcome, Route, Status, Task, TokenKind,
    UNKNOWN_MODEL,
};
use rustc_hash::FxHashMap;

use crate::error::{Failure, client_closed_request};
use crate::validate::rows::{RowFault, Rows};

/// The HTTP series of one route.
pub struct RouteInstruments {
    pub template: &'static str,
    usual: Option<Usual>,
}

/// What nearly all requests to a handler touch, looked up in advance.
struct Usual {
    method: Method,
    ok: Counter,
    duration: Histogram,
}

impl RouteInstruments {
    /// `usual` is the method that the handler answers; none where it only refuses, so that no series starts for that.
    /// `others` are the statuses beside 200 that it answers with: they stand at 0 before their first.
    pub fn new(metrics: &ApiMetrics, usual: Option<Method>, template: &'static str, others: &[u16]) -> Self {
        let usual = usual.map(|method| {
            let (label, route) = (MethodLabel::from(method.as_str()), Route(template));
            for status in others {
                metrics.http_requests_total.with(&(label, route, Status(*status)));
            }
            let ok = metrics.http_requests_total.with(&(label, route, Status(200)));
            let duration = metrics.http_request_duration_seconds.with(&(label, route));
            Usual { method, ok, duration }
        });
        Self { template, usual }
    }
}

/// Counts one HTTP request: answered, or left by its client when dropped unfinished.
pub struct HttpTally<'a> {
    metrics: &'a ApiMetrics,
    route: Route,
    method: MethodLabel,
    usual: Option<&'a Usual>,
    started: Instant,
    status: StatusCode,
}

impl<'a> HttpTally<'a> {
    pub fn begin(metrics: &'a ApiMetrics, route: &'a RouteInstruments, method: &Method, started: Instant) -> Self {
        metrics.http_requests_in_progress.inc();
        let usual = route.usual.as_ref().filter(|usual| usual.method == *method);
        let (route, method) = (Route(route.template), MethodLabel::from(method.as_str()));
        Self { metrics, route, method, usual, started, status: client_closed_request() }
    }

    pub fn finish(mut self, status: StatusCode) {
        self.status = status;
    }
}

impl Drop for HttpTally<'_> {
    fn drop(&mut self) {
        let Self { metrics, route, method, .. } = *self;
        metrics.http_requests_in_progress.dec();
        match self.usual {
            Some(usual) if self.status == StatusCode::OK => usual.ok.inc(),
            _ => metrics.http_requests_total.with(&(method, route, Status(self.status.as_u16()))).inc(),
        }
        let seconds = self.started.elapsed().as_secs_f64();
        match self.usual {
            Some(usual) => usual.duration.observe(seconds),
            None => metrics.http_request_duration_seconds.with(&(method, route)).observe(seconds),
        }
    }
}

/// The series of one model.
pub struct ModelInstruments {
    model: ModelName,
    metrics: Arc<ApiMetrics>,
    ok: Counter,
    duration: Histogram,
    predictions: Counter,
    prompt_tokens: Counter,
}

impl ModelInstruments {
    fn new(metrics: &Arc<ApiMetrics>, model: ModelName) -> Self {
        Self {
            ok: metrics.requests_total.with(&(model.clone(), Task::Embed, Outcome::Ok)),
            duration: metrics.request_duration_seconds.with(&(model.clone(), Task::Embed)),
            predictions: metrics.predictions_total.with(&(model.clone(), Task::Embed)),
            prompt_tokens: metrics.tokens_total.with(&(model.clone(), TokenKind::Prompt)),
            metrics: Arc::clone(metrics),
            model,
        }
    }
}

/// Counts one inference request, as cancelled when dropped unfinished.
pub struct InferenceTally {
    model: Arc<ModelInstruments>,
    started: Instant,
    outcome: Outcome,
}

impl InferenceTally {
    /// From here on the request counts for a model; until then for none that is known.
    pub fn set_model(&mut self, model: Arc<ModelInstruments>) {
        self.model = model;
    }

    pub fn succeed(&mut self, rows: usize, tokens: u64) {
        self.outcome = Outcome::Ok;
        self.model.predictions.inc_by(rows as u64);
        self.model.prompt_tokens.inc_by(tokens);
    }

    pub fn fail(&mut self, failure: &Failure) {
        self.outcome = failure.outcome();
    }
}

impl Drop for InferenceTally {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outcome = Outcome::Failed;
        }
        match self.outcome {
            Outcome::Ok => self.model.ok.inc(),
            outcome => {
                let labels = (self.model.model.clone(), Task::Embed, outcome);
                self.model.metrics.requests_total.with(&labels).inc();
            }
        }
        self.model.duration.observe(self.started.elapsed().as_secs_f64());
    }
}

/// All of them.
pub struct Instruments {
    metrics: Arc<ApiMetrics>,
    checks: Vec<[Counter; 2]>,
    unknown: Arc<ModelInstruments>,
    models: RwLock<FxHashMap<ModelName, Arc<ModelInstruments>>>,
}

impl Instruments {
    pub fn new(metrics: Arc<ApiMetrics>) -> Self {
        let result = |check, result| metrics.input_checks_total.with(&(check, result));
        let checks = Check::ALL
            .iter()
            .map(|check| [result(*check, CheckResult::Failed), result(*check, CheckResult::Passed)])
            .collect();
        let unknown = Arc::new(ModelInstruments::new(&metrics, UNKNOWN_MODEL.into()));
        Self { metrics, checks, unknown, models: RwLock::default() }
    }

    /// `model` is a registered one: from here on it may appear in labels.
    pub fn model(&self, model: &ModelName) -> Arc<ModelInstruments> {
        if let Some(known) = self.models.read().unwrap_or_else(PoisonError::into_inner).get(model) {
            return Arc::clone(known);
        }
        self.metrics.register_model(model);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(ModelInstruments::new(&self.metrics, model.clone()));
        Arc::clone(models.entry(model.clone()).or_insert_with(new))
    }

    pub fn inference(&self, started: Instant) -> InferenceTally {
        InferenceTally { model: Arc::clone(&self.unknown), started, outcome: Outcome::Cancelled }
    }

    pub fn check(&self, check: Check, passed: bool) {
        self.checks[check as usize][usize::from(passed)].inc();
    }

    /// Counts a check, unless it could not be made for a reason that is not the client's.
    pub fn checked<T>(&self, check: Check, result: Result<T, Failure>) -> Result<T, Failure> {
        match &result {
            Ok(_) => self.check(check, true),
            Err(failure) if failure.outcome() == Outcome::Invalid => self.check(check, false),
            Err(_) => {}
        }
        result
    }

    /// Counts the checks of the inputs up to the one that failed. Their length is known for good only when the model
    /// has read them, so its passing is not counted here.
    pub fn checked_rows(&self, rows: &Rows) {
        let failed = rows.as_ref().err().map(RowFault::check);
        for check in [Check::Json, Check::InputCount, Check::InputEmpty] {
            self.check(check, failed != Some(check));
            if failed == Some(check) {
                return;
            }
        }
        if let Some(check) = failed {
            self.check(check, false);
        }
    }
}
