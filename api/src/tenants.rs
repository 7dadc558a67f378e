//! Who sent a request, and what that lets them do (step ① of the data path, before anything is read).
//!
//! Without keys there is one tenant, `default`, that may do everything: [`Caller::default`], made without a lock, a hash
//! or an allocation. With keys ([`config`], [`source`]) every endpoint that is not declared open asks [`Tenants`] first:
//! a key is recognised by its hash, and the [`Caller`] that comes of it holds the tenant's rights for the rest of the
//! request, whatever is reloaded meanwhile.
//!
//! Limits are configured for the whole fleet. Rates and seats are divided by the number of live apis ([`share`]), so no
//! request waits for another process; a day's quota is shared through the broker, and may be overshot a little (`quota`).
//! A request takes a seat and one of its tenant's requests at the door ([`visit`]), and tokens once its inputs are known
//! ([`Caller::charge`]): first by estimate, corrected when the answer tells. A job that is kept is corrected by whoever ends
//! it ([`Tenants::charged`]).

mod bucket;
pub mod config;
pub mod held;
pub mod keys;
mod quota;
pub mod share;
pub mod source;
mod usage;
pub mod visit;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{Lane, ModelName, TenantName};
use forebay_shared::job::Input;
use forebay_shared::metrics::{ApiMetrics, Counter, Outcome, TokenKind};
use parking_lot::RwLock;

use crate::error::Failure;
use config::{Config, Rights};
use keys::KeyRing;
use quota::Day;
use usage::Usage;
use visit::{Charge, Visit};

/// Where some clients put their key instead.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How long the work of a tenant that was taken out waits before it asks again.
const REMOVED_WAIT: Duration = Duration::from_secs(5);

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

    /// # Errors
    /// [`Failure::Forbidden`], which names the highest lane.
    pub fn check_lane(&self, lane: Lane) -> Result<(), Failure> {
        if self.may_use_lane(lane) {
            return Ok(());
        }
        let (asked, highest) = (lane.as_str(), self.highest_lane().as_str());
        Err(Failure::Forbidden(format!("this API key may not use the lane '{asked}', at most '{highest}'")))
    }

    /// At the door, once per request; `None` where no keys are configured.
    ///
    /// # Errors
    /// Beside the visit: [`Failure::RateLimited`], and the request goes no further.
    pub fn visit(&self, now: Instant) -> Option<(Visit, Result<(), Failure>)> {
        self.account.as_ref().map(|account| Visit::begin(account, now))
    }

    /// Takes the tokens that these inputs will need, before they are submitted. Whoever answers later and elsewhere drops
    /// what this returns, and the estimate stays charged until then.
    ///
    /// # Errors
    /// [`Failure::RateLimited`], [`Failure::QuotaExceeded`]
    pub fn charge(&self, rows: &[Input]) -> Result<Charge, Failure> {
        Charge::take(self, rows)
    }

    /// The models that it may use; `None` = all.
    pub fn models(&self) -> Option<&[ModelName]> {
        self.account.as_ref().and_then(|account| account.rights.models.as_deref())
    }
}

/// One tenant: its rights as they were configured last, and what it uses of them here.
struct Account {
    rights: Rights,
    usage: Arc<Usage>,
    clock: BrokerClock,
    /// By [`Outcome`].
    requests: Vec<Counter>,
    /// By [`TokenKind`].
    tokens: Vec<Counter>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rights.fmt(f)
    }
}

impl Account {
    fn requests(&self, outcome: Outcome) -> &Counter {
        &self.requests[outcome as usize]
    }

    fn tokens(&self, kind: TokenKind) -> &Counter {
        &self.tokens[kind as usize]
    }

    fn today(&self) -> (Day, Duration) {
        today(&self.clock)
    }
}

const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// The day, and how long it lasts yet.
fn today(clock: &BrokerClock) -> (Day, Duration) {
    let now = clock.now_us();
    ((now / DAY_US) as Day, Duration::from_micros(DAY_US - now % DAY_US))
}

/// All tenants. Only where keys are configured.
pub struct Tenants {
    metrics: Arc<ApiMetrics>,
    clock: BrokerClock,
    table: RwLock<Table>,
    /// How many share the limits.
    apis: AtomicUsize,
    stale: AtomicBool,
}

struct Table {
    ring: KeyRing,
    accounts: Vec<Arc<Account>>,
}

impl Tenants {
    pub fn new(config: Config, metrics: Arc<ApiMetrics>, clock: BrokerClock) -> Self {
        let table = RwLock::new(Table { ring: KeyRing::default(), accounts: Vec::new() });
        let this = Self { metrics, clock, table, apis: AtomicUsize::new(1), stale: AtomicBool::new(false) };
        this.replace(config);
        this
    }

    /// Takes over another configuration: requests that have begun keep the rights they began with, and what a tenant has
    /// used of its limits stays used.
    pub fn replace(&self, config: Config) {
        let mut table = self.table.write();
        let accounts = config.tenants.into_iter().map(|rights| Arc::new(self.account(&table, rights))).collect();
        *table = Table { ring: config.ring, accounts };
    }

    fn account(&self, table: &Table, rights: Rights) -> Account {
        let (apis, now, (day, _)) = (self.apis.load(Ordering::Relaxed), Instant::now(), self.today());
        let usage = match table.accounts.iter().find(|account| account.rights.name == rights.name) {
            Some(known) => {
                known.usage.configure(rights.limits, apis, now, day);
                Arc::clone(&known.usage)
            }
            None => Arc::new(Usage::new(rights.limits, apis, now, day)),
        };
        self.metrics.register_tenant(&rights.name);
        let requests = |outcome: &Outcome| self.metrics.tenant_requests_total.with(&(rights.name.clone(), *outcome));
        let tokens = |kind: &TokenKind| self.metrics.tenant_tokens_total.with(&(rights.name.clone(), *kind));
        Account {
            requests: Outcome::ALL.iter().map(requests).collect(),
            tokens: TokenKind::ALL.iter().map(tokens).collect(),
            usage,
            clock: self.clock.clone(),
            rights,
        }
    }

    /// Divides all limits by the number of apis.
    fn divide(&self, apis: usize) {
        let table = self.table.write();
        if self.apis.swap(apis, Ordering::Relaxed) == apis {
            return;
        }
        tracing::debug!(apis, "tenants' limits are divided anew");
        let (now, (day, _)) = (Instant::now(), self.today());
        for account in &table.accounts {
            account.usage.configure(account.rights.limits, apis, now, day);
        }
    }

    fn accounts(&self) -> Vec<Arc<Account>> {
        self.table.read().accounts.clone()
    }

    /// A tenant whose work was let in earlier.
    ///
    /// # Errors
    /// [`Failure::RateLimited`]: it is not configured any more. Its limits went with it, so it may use nothing until it
    /// is configured again: who takes a tenant out must not thereby set its work free. What `default` left from before
    /// there were keys has never had limits.
    pub fn caller(&self, tenant: &TenantName) -> Result<Caller, Failure> {
        let account = self.find(tenant);
        if account.is_none() && *tenant != TenantName::default() {
            let retry_after_ms = REMOVED_WAIT.as_millis() as u64;
            return Err(Failure::RateLimited { limit: "a tenant that is not configured".to_owned(), retry_after_ms });
        }
        Ok(Caller { tenant: tenant.clone(), account })
    }

    /// What a tenant was charged for a job when it was accepted, at `accepted_ms` (Unix) and perhaps by another api: whoever
    /// ends the job settles it. Nobody's, if the tenant is not configured any more.
    pub fn charged(&self, tenant: &TenantName, rows: &[Input], accepted_ms: u64) -> Charge {
        Charge::earlier(self.find(tenant), rows, (accepted_ms.saturating_mul(1_000) / DAY_US) as Day)
    }

    /// Whether a tenant may have to wait for tokens.
    pub fn is_metered(&self, tenant: &TenantName) -> bool {
        match self.caller(tenant) {
            Ok(Caller { account: Some(account), .. }) => {
                let limits = &account.rights.limits;
                limits.tokens_per_minute.is_some() || limits.tokens_per_day.is_some()
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }

    fn find(&self, tenant: &TenantName) -> Option<Arc<Account>> {
        self.table.read().accounts.iter().find(|account| account.rights.name == *tenant).cloned()
    }

    fn today(&self) -> (Day, Duration) {
        today(&self.clock)
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
