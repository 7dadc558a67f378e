//! HTTP in front of the queue (step ① of the data path, and the way back at ⑦).
//!
//! [`router`] is the table of endpoints. Each is wrapped by [`endpoint`]: request id, trace, metrics, error mapping and
//! a net under panics, all in one place and without a layer that boxes per request. [`server`] owns sockets.
//!
//! The rest of the api is seen through [`Backend`], resolved at compile time: tests put a fake there.

pub mod body;
pub mod connections;
pub mod context;
mod door;
pub mod endpoint;
#[cfg(test)]
pub(crate) mod fake;
pub mod instruments;
pub mod limits;
pub mod media;
pub mod pace;
pub mod server;
mod socket;
pub mod span;

use std::sync::Arc;

use axum::Router;
use forebay_shared::error::JobError;
use forebay_shared::ids::ModelToken;
use forebay_shared::job::Output;
use forebay_shared::metrics::ApiMetrics;
use forebay_shared::model::ModelRecord;

use crate::batches::Batches;
use crate::cache::Cache;
use crate::dialect::Dialect::{OpenAi, Tei};
use crate::dispatch::{Dispatch, Submission};
use crate::registry::Registry;
use crate::routes::dead::{self, DeadDesk};
use crate::routes::{batches, docs, embed, embeddings, fallback, files, health, jobs, metrics, models, root};
use crate::tenants::Tenants;
use crate::validate::RequestLimits;
use endpoint::Endpoint;
use instruments::Instruments;
pub use server::{bind, serve};

/// What the endpoints need from the rest of the api.
pub trait Backend: Send + Sync + 'static {
    /// See [`Dispatch::submit`].
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Vec<Output>, JobError>> + Send;
    /// See [`Dispatch::is_ready`].
    fn is_ready(&self) -> bool;
    /// See [`Registry::find`].
    fn find(&self, name: &str) -> Option<Arc<ModelRecord>>;
    /// See [`Registry::list`].
    fn list(&self) -> Vec<Arc<ModelRecord>>;
    /// See [`Registry::sole`].
    fn sole(&self) -> Option<Arc<ModelRecord>>;
    /// See [`Registry::live_workers`].
    fn live_workers(&self, token: &ModelToken) -> usize;
    /// Files and batches, where there are any.
    fn batches(&self) -> Option<&Arc<Batches>> {
        None
    }
}

/// The real one.
pub struct Fleet {
    pub dispatch: Arc<Dispatch>,
    pub registry: Arc<Registry>,
    pub batches: Option<Arc<Batches>>,
}

impl Backend for Fleet {
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Vec<Output>, JobError>> + Send {
        self.dispatch.submit(submission)
    }

    fn is_ready(&self) -> bool {
        self.dispatch.is_ready()
    }

    fn find(&self, name: &str) -> Option<Arc<ModelRecord>> {
        self.registry.find(name)
    }

    fn list(&self) -> Vec<Arc<ModelRecord>> {
        self.registry.list()
    }

    fn sole(&self) -> Option<Arc<ModelRecord>> {
        self.registry.sole()
    }

    fn live_workers(&self, token: &ModelToken) -> usize {
        self.registry.live_workers(token)
    }

    fn batches(&self) -> Option<&Arc<Batches>> {
        self.batches.as_ref()
    }
}

/// What all requests share.
pub struct AppState<B: Backend = Fleet> {
    pub backend: B,
    pub metrics: Arc<ApiMetrics>,
    pub limits: RequestLimits,
    /// `None`: no keys, and everybody may do everything.
    pub tenants: Option<Arc<Tenants>>,
    /// `None`: every row is computed.
    pub cache: Option<Arc<Cache>>,
    pub(crate) instruments: Instruments,
    /// Asynchronous jobs and idempotency keys; none in front of a fake fleet.
    pub jobs: Option<Arc<crate::jobs::Jobs>>,
    /// Where dead letters are looked after; nowhere in front of a fake fleet.
    pub dead: Option<DeadDesk>,
}

impl AppState {
    pub fn new(
        dispatch: Arc<Dispatch>,
        registry: Arc<Registry>,
        metrics: Arc<ApiMetrics>,
        limits: RequestLimits,
    ) -> Self {
        Self::with_backend(Fleet { dispatch, registry, batches: None }, metrics, limits)
    }
}

impl<B: Backend> AppState<B> {
    pub fn with_backend(backend: B, metrics: Arc<ApiMetrics>, limits: RequestLimits) -> Self {
        let instruments = Instruments::new(Arc::clone(&metrics));
        Self { backend, metrics, limits, tenants: None, cache: None, instruments, jobs: None, dead: None }
    }

    /// Asks for a key from now on, if there are any.
    pub fn with_tenants(self, tenants: Option<Arc<Tenants>>) -> Self {
        Self { tenants, ..self }
    }

    /// Keeps answers from now on, if there is somewhere to keep them.
    pub fn with_cache(self, cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..self }
    }
}

/// All endpoints.
pub fn router<B: Backend>(state: &Arc<AppState<B>>) -> Router {
    let at = |template, dialect| Endpoint::at(state, template, dialect);
    metrics_router(state)
        .route("/", at("/", Tei).get(root::show).inference().post(embed::create).done())
        .route("/embed", at("/embed", Tei).inference().post(embed::create).done())
        .route("/v1/embeddings", at("/v1/embeddings", OpenAi).inference().post(embeddings::create).done())
        .route("/v1/dead", at("/v1/dead", OpenAi).get(dead::list).done())
        .route("/v1/dead/{id}", at("/v1/dead/{id}", OpenAi).get(dead::show).delete(dead::delete).done())
        .route("/v1/dead/{id}/replay", at("/v1/dead/{id}/replay", OpenAi).post(dead::replay).done())
        .route("/v1/jobs", at("/v1/jobs", OpenAi).post(jobs::create).get(jobs::list).done())
        .route("/v1/jobs/{id}", at("/v1/jobs/{id}", OpenAi).get(jobs::show).delete(jobs::cancel).done())
        .route("/v1/jobs/{id}/webhook", at("/v1/jobs/{id}/webhook", OpenAi).post(jobs::call_again).done())
        .route("/v1/jobs/{id}/events", at("/v1/jobs/{id}/events", OpenAi).get(jobs::events::follow).done())
        .route("/v1/models", at("/v1/models", OpenAi).get(models::list).done())
        .route("/v1/models/{*id}", at("/v1/models/{id}", OpenAi).get(models::show).done())
        .route("/v1/files", at("/v1/files", OpenAi).get(files::list).post(files::create).done())
        .route("/v1/files/{id}", at("/v1/files/{id}", OpenAi).get(files::show).delete(files::remove).done())
        .route("/v1/files/{id}/content", at("/v1/files/{id}/content", OpenAi).get(files::content).done())
        .route("/v1/batches", at("/v1/batches", OpenAi).get(batches::list).post(batches::create).done())
        .route("/v1/batches/{id}", at("/v1/batches/{id}", OpenAi).get(batches::show).done())
        .route("/v1/batches/{id}/cancel", at("/v1/batches/{id}/cancel", OpenAi).post(batches::cancel).done())
        .route("/openapi.json", at("/openapi.json", Tei).open().get(docs::document).done())
        .route("/docs", at("/docs", Tei).open().get(docs::page).done())
        .with_state(())
}

/// What an address that is not for clients serves.
pub fn metrics_router<B: Backend>(state: &Arc<AppState<B>>) -> Router {
    let at = |template, dialect| Endpoint::at(state, template, dialect);
    Router::new()
        .route("/health", at("/health", Tei).open().get(health::ready).done())
        .route("/health/live", at("/health/live", Tei).open().get(health::live).done())
        .route("/health/ready", at("/health/ready", Tei).open().get(health::ready).done())
        .route("/metrics", at("/metrics", Tei).open().get(metrics::show).done())
        .fallback_service(Endpoint::elsewhere(state).any(fallback::no_endpoint))
        .with_state(())
}

#[cfg(test)]
#[path = "http/access_tests.rs"]
mod access_tests;
#[cfg(test)]
#[path = "http/router_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "http/fuzz_tests.rs"]
mod fuzz_tests;
