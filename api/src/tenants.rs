//! Who sent a request, and what that lets them do (step ① of the data path, before anything is read).
//!
//! Without keys there is one tenant, `default`, that may do everything: [`Caller::default`], made without a lock, a hash
//! or an allocation. With keys ([`config`], [`source`]) every endpoint that is not declared open asks [`Tenants`] first:
//! a key is recognised by its hash, and the [`Caller`] that comes of it holds the tenant's rights for the rest of the
//! request, whatever is reloaded meanwhile.

pub mod config;
pub mod keys;
pub mod source;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use forebay_shared::ids::{Lane, ModelName, TenantName};
use forebay_shared::metrics::ApiMetrics;
use parking_lot::RwLock;

use crate::error::Failure;
use config::{Config, Rights};
use keys::KeyRing;

/// Where some clients put their key instead.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Whose request it is, and what they may do. Everything that is counted, limited, kept or erased per tenant goes by
/// this.
#[derive(Debug, Clone)]
pub struct Caller {
    pub tenant: TenantName,
    /// `None` where no keys are configured: everything is allowed.
    account: Option<Arc<Account>>,
}

impl Default for Caller {
    fn default() -> Self {
        static DEFAULT: LazyLock<TenantName> = LazyLock::new(TenantName::default);
        Self { tenant: DEFAULT.clone(), account: None }
    }
}

impl Caller {
    /// The most urgent lane that it may use.
    pub fn highest_lane(&self) -> Lane {
        self.account.as_ref().map_or(Lane::High, |account| account.rights.highest_lane)
    }

    pub fn may_use_lane(&self, lane: Lane) -> bool {
        lane >= self.highest_lane()
    }

    pub fn may_use_model(&self, model: &ModelName) -> bool {
        self.models().is_none_or(|allowed| allowed.contains(model))
    }

    /// # Errors
    /// [`Failure::Forbidden`], which names the models that are allowed.
    pub fn check_model(&self, model: &ModelName) -> Result<(), Failure> {
        if self.may_use_model(model) {
            return Ok(());
        }
        let allowed: Vec<&str> = self.models().unwrap_or_default().iter().map(ModelName::as_str).collect();
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        Err(Failure::Forbidden(format!("this API key may not use the model '{model}'; it may use: {allowed}")))
    }

    fn models(&self) -> Option<&[ModelName]> {
        self.account.as_ref().and_then(|account| account.rights.models.as_deref())
    }
}

/// One tenant: its rights as they were configured last.
#[derive(Debug)]
struct Account {
    rights: Rights,
}

/// All tenants. Only where keys are configured.
pub struct Tenants {
    metrics: Arc<ApiMetrics>,
    table: RwLock<Table>,
    stale: AtomicBool,
}

struct Table {
    ring: KeyRing,
    accounts: Vec<Arc<Account>>,
}

impl Tenants {
    pub fn new(config: Config, metrics: Arc<ApiMetrics>) -> Self {
        let table = RwLock::new(Table { ring: KeyRing::default(), accounts: Vec::new() });
        let this = Self { metrics, table, stale: AtomicBool::new(false) };
        this.replace(config);
        this
    }

    /// Takes over another configuration: requests that have begun keep the rights they began with.
    pub fn replace(&self, config: Config) {
        let accounts = config.tenants.into_iter().map(|rights| Arc::new(Account { rights })).collect();
        *self.table.write() = Table { ring: config.ring, accounts };
    }

    /// The configuration cannot be read or used at the moment: what was good last is in force.
    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// [`Failure::Unauthorized`]: no key, or none that is known.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Caller, Failure> {
        let refuse = |why| {
            self.metrics.auth_failures_total.inc();
            Err(Failure::Unauthorized(why))
        };
        let Some(key) = presented(headers) else {
            return refuse("an API key is needed here; send it as `Authorization: Bearer <key>`");
        };
        let table = self.table.read();
        let Some(account) = table.ring.find(key).and_then(|tenant| table.accounts.get(tenant)) else {
            return refuse("this API key is not known; check it, or ask whoever runs this service for one");
        };
        Ok(Caller { tenant: account.rights.name.clone(), account: Some(Arc::clone(account)) })
    }
}

/// The key that a request shows. A gateway may use `Authorization` for itself: then the other header counts.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get(X_API_KEY).map(|value| value.as_bytes().trim_ascii()))
}

#[cfg(test)]
#[path = "tenants/tests.rs"]
pub(crate) mod tests;
