//! Answers that are kept (between the routes and [`crate::dispatch`]): the same row of work for the same model is computed
//! once.
//!
//! Each row of a request goes its own way ([`answer`]): of 32 rows of which 20 are kept, 12 are submitted. A row that is
//! being computed for another request is waited for (`flight`). The key (`key`) holds the model's token, so answers
//! of an old revision are never found again, and the tenant's name unless answers are shared: how long an answer takes
//! would tell one tenant what another has asked.
//!
//! Invariants: an answer through the cache is an answer without it; an error is never kept; kept bytes never exceed the
//! bound; no request waits longer than its own deadline, and none ends because another was cancelled.
//!
//! Deliberately not: shared between apis (an api forgets with its process), and not used by work under fixed ids.

pub mod answer;
mod flight;
mod key;

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use clap::ValueEnum;
use forebay_shared::ids::ModelName;
use forebay_shared::job::Output;
use forebay_shared::metrics::{ApiMetrics, Counter};
use moka::notification::RemovalCause;
use parking_lot::RwLock;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::dispatch::Submission;
use flight::Flights;
use key::{RequestKey, RowKey};

/// What an entry costs beside its vector: key, counts, and the tables that it stands in.
const ENTRY_BYTES: usize = 256;

/// Who may be answered with what was computed for whom.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The same tenant.
    Tenant,
    /// Everybody. Whether an input was asked before can be told by the time that the answer takes.
    Shared,
}

/// What a request says about the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Use,
    /// `no-cache`: compute, and keep the answer.
    Refresh,
    /// `no-store`: neither look nor keep.
    Bypass,
}

impl Policy {
    /// As the headers `Cache-Control` say; what else they say is for other caches.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut policy = Self::Use;
        for value in headers.get_all(CACHE_CONTROL) {
            for directive in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if directive.eq_ignore_ascii_case(b"no-store") {
                    return Self::Bypass;
                }
                if directive.eq_ignore_ascii_case(b"no-cache") {
                    policy = Self::Refresh;
                }
            }
        }
        policy
    }
}

/// The counters of one model.
struct Series {
    hits: Counter,
    misses: Counter,
    evictions: Counter,
}

/// A kept answer.
struct Kept {
    /// Without device time: it takes none to hand it out.
    output: Output,
    series: Arc<Series>,
}

/// See the module.
pub struct Cache {
    kept: moka::sync::Cache<RowKey, Arc<Kept>, FxBuildHasher>,
    flights: Flights,
    scope: Scope,
    metrics: Arc<ApiMetrics>,
    series: RwLock<FxHashMap<ModelName, Arc<Series>>>,
}

impl Cache {
    /// At most `max_bytes` of answers; `None` for 0.
    pub fn new(max_bytes: u64, scope: Scope, metrics: Arc<ApiMetrics>) -> Option<Arc<Self>> {
        let kept = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, kept: &Arc<Kept>| u32::try_from(kept.output.vector.len() + ENTRY_BYTES).unwrap_or(u32::MAX))
            .eviction_listener(|_, kept: Arc<Kept>, cause| {
                if cause == RemovalCause::Size {
                    kept.series.evictions.inc();
                }
            })
            .build_with_hasher(FxBuildHasher);
        let this = Self { kept, flights: Flights::default(), scope, metrics, series: RwLock::default() };
        (max_bytes > 0).then(|| Arc::new(this))
    }

    /// Brings the gauge of bytes up to date.
    pub fn sample(&self) {
        self.kept.run_pending_tasks();
        self.metrics.cache_size_bytes.set(self.kept.weighted_size() as f64);
    }

    fn request_key(&self, submission: &Submission) -> Option<RequestKey> {
        let tenant = match self.scope {
            Scope::Tenant => Some(&submission.tenant),
            Scope::Shared => None,
        };
        RequestKey::new(tenant, &submission.model.token, &submission.task)
    }

    fn get(&self, key: &RowKey) -> Option<Output> {
        self.kept.get(key).map(|kept| kept.output.clone())
    }

    fn put(&self, key: RowKey, output: &Output, series: &Arc<Series>) {
        let output = Output { device_us: 0, ..output.clone() };
        self.kept.insert(key, Arc::new(Kept { output, series: Arc::clone(series) }));
    }

    fn series(&self, model: &ModelName) -> Arc<Series> {
        if let Some(series) = self.series.read().get(model) {
            return Arc::clone(series);
        }
        let labels = (model.clone(),);
        let series = Arc::new(Series {
            hits: self.metrics.cache_hits_total.with(&labels),
            misses: self.metrics.cache_misses_total.with(&labels),
            evictions: self.metrics.cache_evictions_total.with(&labels),
        });
        Arc::clone(self.series.write().entry(model.clone()).or_insert(series))
    }
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;
