//! What is the same for every request, around the handler that is not.
//!
//! An endpoint is a path with its dialect. Around each of its handlers stand: the request id and the trace (taken over
//! or made, and sent back on every answer), who the caller is ([`crate::tenants`]), the HTTP metrics, the translation of a
//! [`Failure`], and the net under a panic, which costs its request a 500 and nobody else anything. A client that goes away drops the future, and with it
//! the guard that counts the request as 499.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response};
use axum::routing::{MethodFilter, MethodRouter};
use forebay_shared::error::JobError;
use forebay_shared::metrics::Outcome;
use forebay_shared::trace::TraceContext;
use futures::FutureExt;
use tracing::Instrument;

use super::context::{Context, TRACE_PARENT, X_REQUEST_ID};
use super::door::{Access, Door};
use super::instruments::{HttpTally, RouteInstruments};
use super::span::RequestSpan;
use super::{AppState, Backend};
use crate::dialect::Dialect;
use crate::error::{Failure, INFERENCE_STATUSES};
use crate::tenants::Caller;

/// A request on its way to its handler.
pub struct Call<B: Backend> {
    pub state: Arc<AppState<B>>,
    pub context: Context,
    pub caller: Caller,
    pub parts: Parts,
    pub body: Body,
}

/// What a handler makes of a [`Call`].
pub type Answer = Result<Response<Body>, Failure>;

/// One path, while its methods are being listed. Needs a key, where keys are configured, unless it is [`Self::open`].
pub struct Endpoint<B: Backend> {
    state: Arc<AppState<B>>,
    template: &'static str,
    dialect: Option<Dialect>,
    access: Access,
    inference: bool,
    methods: MethodRouter,
    allow: Vec<&'static str>,
}

impl<B: Backend> Endpoint<B> {
    /// The path written as `template` in metrics.
    pub fn at(state: &Arc<AppState<B>>, template: &'static str, dialect: Dialect) -> Self {
        let (state, methods) = (Arc::clone(state), MethodRouter::new());
        Self {
            state,
            template,
            dialect: Some(dialect),
            access: Access::Key,
            inference: false,
            methods,
            allow: Vec::new(),
        }
    }

    /// Every path that is none of ours.
    pub fn elsewhere(state: &Arc<AppState<B>>) -> Self {
        let (state, methods) = (Arc::clone(state), MethodRouter::new());
        Self {
            state,
            template: "other",
            dialect: None,
            access: Access::Open,
            inference: false,
            methods,
            allow: Vec::new(),
        }
    }

    /// The handlers listed from here on are for everybody: probes and pages that tell nothing about clients.
    pub fn open(mut self) -> Self {
        self.access = Access::Open;
        self
    }

    /// The handlers listed from here on answer inference requests: those that are refused at the door count as such too.
    pub fn inference(mut self) -> Self {
        self.inference = true;
        self
    }

    /// Answers GET, and HEAD without the body.
    pub fn get<F: Future<Output = Answer> + Send + 'static>(mut self, handler: fn(Call<B>) -> F) -> Self {
        self.allow.extend(["GET", "HEAD"]);
        self.on(MethodFilter::GET, Method::GET, handler)
    }

    pub fn post<F: Future<Output = Answer> + Send + 'static>(mut self, handler: fn(Call<B>) -> F) -> Self {
        self.allow.push("POST");
        self.on(MethodFilter::POST, Method::POST, handler)
    }

    pub fn delete<F: Future<Output = Answer> + Send + 'static>(mut self, handler: fn(Call<B>) -> F) -> Self {
        self.allow.push("DELETE");
        self.on(MethodFilter::DELETE, Method::DELETE, handler)
    }

    /// Any method, one handler.
    pub fn any<F: Future<Output = Answer> + Send + 'static>(self, handler: fn(Call<B>) -> F) -> MethodRouter {
        let handler = self.wrap(None, handler);
        self.methods.fallback(handler)
    }

    /// The methods listed; all others are answered with 405.
    pub fn done(self) -> MethodRouter {
        #[cfg(test)]
        LISTED.with_borrow_mut(|listed| {
            listed.extend(self.allow.iter().map(|method| format!("{method} {}", self.template)))
        });
        let allow: Arc<str> = self.allow.join(", ").into();
        let refuse = self.wrap(None, move |call: Call<B>| {
            let method = call.parts.method.to_string();
            std::future::ready(Err(Failure::MethodNotAllowed { method, allow: Arc::clone(&allow) }))
        });
        self.methods.fallback(refuse)
    }

    fn on<F: Future<Output = Answer> + Send + 'static>(
        mut self,
        filter: MethodFilter,
        method: Method,
        handler: fn(Call<B>) -> F,
    ) -> Self {
        let handler = self.wrap(Some(method), handler);
        self.methods = self.methods.on(filter, handler);
        self
    }

    fn wrap<H>(&self, usual: Option<Method>, handler: H) -> Wrapped<B, H> {
        let door = Door { access: self.access, inference: self.inference && usual.is_some() };
        // Without a series that stands at 0, a rate of errors has no value until the second error.
        let others = if door.inference { INFERENCE_STATUSES } else { &[] };
        let route = RouteInstruments::new(&self.state.metrics, usual, self.template, others);
        Wrapped { state: Arc::clone(&self.state), route: Arc::new(route), dialect: self.dialect, door, handler }
    }
}

/// A handler with everything around it.
struct Wrapped<B: Backend, H> {
    state: Arc<AppState<B>>,
    route: Arc<RouteInstruments>,
    dialect: Option<Dialect>,
    door: Door,
    handler: H,
}

impl<B: Backend, H: Clone> Clone for Wrapped<B, H> {
    fn clone(&self) -> Self {
        let (state, route) = (Arc::clone(&self.state), Arc::clone(&self.route));
        Self { state, route, dialect: self.dialect, door: self.door, handler: self.handler.clone() }
    }
}

impl<B, H, F> Handler<Call<B>, ()> for Wrapped<B, H>
where
    B: Backend,
    H: FnOnce(Call<B>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

    fn call(self, request: Request, (): ()) -> Self::Future {
        let Self { state, route, dialect, door, handler } = self;
        Box::pin(async move { around(&state, &route, dialect, door, request, handler).await })
    }
}

async fn around<B, H, F>(
    state: &Arc<AppState<B>>,
    route: &RouteInstruments,
    dialect: Option<Dialect>,
    door: Door,
    request: Request,
    handler: H,
) -> Response<Body>
where
    B: Backend,
    H: FnOnce(Call<B>) -> F,
    F: Future<Output = Answer>,
{
    let (parts, body) = request.into_parts();
    let mut context = Context::read(&parts.headers, Instant::now());
    let mut recorded = RequestSpan::begin(&mut context, door.access, &parts.method, route.template);
    let (request_id, trace) = (context.request_id.clone(), context.trace);
    let dialect = dialect.unwrap_or_else(|| Dialect::of_path(parts.uri.path()));
    let tally = HttpTally::begin(&state.metrics, route, &parts.method, context.started);
    let (id, template) = (context.request_id(), route.template);
    let span = tracing::debug_span!("request", id, trace_id = %trace.trace_id(), route = template);
    let (admitted, visit) = door.admit(state, &parts.headers, context.started);
    let handled = async {
        let caller = admitted?;
        context.highest_lane = caller.highest_lane();
        handler(Call { state: Arc::clone(state), context, caller, parts, body }).await
    };
    let handled = handled.instrument(span);
    let answer = AssertUnwindSafe(handled).catch_unwind().await.unwrap_or_else(|panic| {
        let (route, panic) = (route.template, text_of(&*panic));
        tracing::error!(request = ?request_id, trace_id = %trace.trace_id(), route, panic, "a handler panicked");
        Err(JobError::Internal.into())
    });
    let outcome = answer.as_ref().map_or_else(Failure::outcome, |_| Outcome::Ok);
    let mut response = answer.unwrap_or_else(|failure| {
        report(&failure, &request_id, trace, route.template);
        recorded.refused(&failure);
        failure.into_response(dialect)
    });
    tally.finish(response.status());
    recorded.finish(response.status(), outcome);
    let headers = response.headers_mut();
    if let Some(visit) = visit {
        visit.finish(outcome, headers);
    }
    headers.insert(X_REQUEST_ID, request_id);
    if let Ok(trace) = HeaderValue::try_from(trace.to_string()) {
        headers.insert(TRACE_PARENT, trace);
    }
    response
}

/// What went wrong on our side is worth a line; what the client did, or load, is counted and told to the client.
fn report(failure: &Failure, request_id: &HeaderValue, trace: TraceContext, route: &'static str) {
    let (status, code) = failure.for_logs();
    let request = request_id;
    match failure {
        Failure::Job(JobError::Internal | JobError::BadOutput { .. }) => {
            tracing::warn!(?request, trace_id = %trace.trace_id(), route, status, code, "a request failed");
        }
        _ => tracing::debug!(?request, trace_id = %trace.trace_id(), route, status, code, "a request was refused"),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
thread_local! {
    static LISTED: std::cell::RefCell<std::collections::BTreeSet<String>> = std::cell::RefCell::default();
}

/// `METHOD template` of every endpoint that this thread has put into a router: what the API's description is held against.
#[cfg(test)]
pub fn listed() -> std::collections::BTreeSet<String> {
    LISTED.with_borrow(Clone::clone)
}
