//! Erasing what is kept of one job, or of one tenant, from every store of the broker.
//!
//! ```text
//! stop (cancel what has not ended) ─▶ look (every store, read) ─▶ remove ─▶ look again … until nothing is found
//! ```
//! A store is a stream in the end: a key, a chunk of an object and a queued message are each one message. Messages and
//! chunks are deleted by their sequence, which overwrites their bytes on the broker's disk. The broker does not offer that
//! for keys (their streams deny it): they are purged, without leaving a mark, and their bytes go when the broker clears
//! the block that they lie in. What belongs to whom is read in the message where its subject does not say it for certain:
//! two tenants can share a token of a subject.
//!
//! Work in flight may write once more after it was cancelled, so it is looked again until a look finds nothing; what was
//! known of the job (its objects, its batches' ids) is kept from look to look. Erasing twice is harmless.
//!
//! Deliberately not here: a message of `FOREBAY_JOBS_…` that holds rows of others as well, which ends with their deadlines;
//! counters, which hold no inputs and no names of tenants; and bytes that the broker had
//! overwritten or dropped before, which its encryption at rest covers.

mod find;
mod scan;
mod stop;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use forebay_shared::async_jobs::job_of_row;
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{JobId, TenantName};
use forebay_shared::streams::{Bucket, Objects, Queue, Stores};
use serde::Serialize;

use find::Known;
use scan::Message;

/// Looks after which it is given up: somebody keeps sending new work.
const LOOKS: usize = 10;
/// Time that work in flight gets to see that it was cancelled.
const BETWEEN: Duration = Duration::from_millis(300);

/// Whose data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tenant(TenantName),
    /// A job, or the job that a row's id leads to; `tenant`: only if it is theirs.
    Job {
        id: JobId,
        tenant: Option<TenantName>,
    },
}

impl Target {
    /// One job of one tenant.
    pub fn job(id: JobId, tenant: Option<TenantName>) -> Self {
        Self::Job { id: job_of_row(&id), tenant }
    }

    fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            Self::Job { tenant, .. } => tenant.as_ref(),
        }
    }

    /// Whether what belongs to `job` (or one of its rows) of `tenant` is meant.
    fn covers(&self, tenant: &TenantName, job: &JobId) -> bool {
        let of_tenant = self.tenant().is_none_or(|wanted| wanted == tenant);
        match self {
            Self::Tenant(_) => of_tenant,
            Self::Job { id, .. } => of_tenant && job_of_row(job) == *id,
        }
    }
}

/// Where something is kept. Each store comes before those whose messages are named by its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    Records,
    Idempotency,
    Results,
    Async,
    Jobs,
    Webhooks,
    Dead,
    Attempts,
    Batches,
    Files,
    Parts,
    Quotas,
}

impl Store {
    pub const ALL: [Self; 12] = [
        Self::Records,
        Self::Idempotency,
        Self::Results,
        Self::Async,
        Self::Jobs,
        Self::Webhooks,
        Self::Dead,
        Self::Attempts,
        Self::Batches,
        Self::Files,
        Self::Parts,
        Self::Quotas,
    ];

    /// Its name in the broker, as in the table of [`forebay_shared::streams`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => Bucket::Records.name(),
            Self::Idempotency => Bucket::Idempotency.name(),
            Self::Results => Objects::Results.name(),
            Self::Async => Queue::Async.name(),
            Self::Jobs => "FOREBAY_JOBS_*",
            Self::Webhooks => Queue::Webhooks.name(),
            Self::Dead => Queue::Dead.name(),
            Self::Attempts => Bucket::Attempts.name(),
            Self::Batches => Bucket::Batches.name(),
            Self::Files => Objects::Files.name(),
            Self::Parts => Queue::Parts.name(),
            Self::Quotas => Bucket::Quotas.name(),
        }
    }

    pub const fn holds(self) -> &'static str {
        match self {
            Self::Records => "states and small results of jobs",
            Self::Idempotency => "idempotency keys",
            Self::Results => "large results, in chunks",
            Self::Async => "jobs that wait, with their inputs",
            Self::Jobs => "rows that wait for a worker",
            Self::Webhooks => "calls to make",
            Self::Dead => "dead letters, with their inputs",
            Self::Attempts => "starts of jobs in quarantine",
            Self::Batches => "records of files and batches",
            Self::Files => "contents of files, in chunks",
            Self::Parts => "parts of batches, with their lines",
            Self::Quotas => "tokens used per day",
        }
    }

    /// The stream behind it; of [`Self::Jobs`] there are several.
    fn stream(self) -> String {
        match self {
            Self::Records | Self::Idempotency | Self::Attempts | Self::Batches | Self::Quotas => {
                format!("KV_{}", self.name())
            }
            Self::Results | Self::Files => format!("OBJ_{}", self.name()),
            Self::Async | Self::Jobs | Self::Webhooks | Self::Dead | Self::Parts => self.name().to_owned(),
        }
    }

    /// What stands before a key in its subject.
    fn key_prefix(self) -> String {
        format!("$KV.{}.", self.name())
    }
}

/// What was found, or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Messages per store; stores without any are missing.
    pub messages: BTreeMap<&'static str, usize>,
    /// Asynchronous jobs that had not ended: an erasure cancels them.
    pub running_jobs: Vec<JobId>,
    /// Batches that had not ended: an erasure cancels them.
    pub running_batches: Vec<String>,
    /// Messages where the target's data would stand that this version cannot read: they stay.
    pub unreadable: usize,
    /// Messages of running work in which others have rows as well: they stay until their deadline.
    pub shared: usize,
}

impl Report {
    pub fn total(&self) -> usize {
        self.messages.values().sum()
    }

    fn add(&mut self, found: &Found) {
        for (store, messages) in &found.messages {
            *self.messages.entry(store.name()).or_default() += messages.len();
        }
        self.leave(found);
    }

    /// Later looks see again what stays.
    fn leave(&mut self, found: &Found) {
        (self.unreadable, self.shared) = (found.unreadable, found.shared);
    }
}

/// One look.
#[derive(Debug, Default)]
struct Found {
    messages: BTreeMap<Store, Vec<Message>>,
    running_jobs: Vec<(TenantName, JobId)>,
    running_batches: Vec<(TenantName, String)>,
    unreadable: usize,
    shared: usize,
}

impl Found {
    fn report(&self) -> Report {
        let mut report = Report {
            running_jobs: self.running_jobs.iter().map(|(_, id)| *id).collect(),
            running_batches: self.running_batches.iter().map(|(_, id)| id.clone()).collect(),
            ..Report::default()
        };
        report.add(self);
        report
    }

    fn is_empty(&self) -> bool {
        self.messages.values().all(Vec::is_empty)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("the broker did not {doing} {store}: {cause}; is it up, and may this role do that?")]
    Broker { doing: &'static str, store: &'static str, cause: String },
    #[error("what is running could not be cancelled: {0}; nothing was erased")]
    Cancel(String),
    /// It was erased several times over.
    #[error("new data appears as fast as it is erased; take away the tenant's API keys, and run this again")]
    StillBusy(Report),
}

/// Erases from the stores of one fleet.
#[derive(Clone)]
pub struct Eraser {
    js: jetstream::Context,
    stores: Stores,
    clock: BrokerClock,
}

impl Eraser {
    pub fn new(js: jetstream::Context, stores: Stores, clock: BrokerClock) -> Self {
        Self { js, stores, clock }
    }

    /// What there is of `target`; changes nothing.
    ///
    /// # Errors
    /// [`EraseError::Broker`] if a store cannot be read.
    pub async fn look(&self, target: &Target) -> Result<Report, EraseError> {
        Ok(self.find(target, &mut Known::default()).await?.report())
    }

    /// Cancels what is running for `target`, and removes what is kept of it. May be repeated after any error.
    ///
    /// # Errors
    /// [`EraseError`]; what was removed until then is gone.
    pub async fn erase(&self, target: &Target) -> Result<Report, EraseError> {
        let mut known = Known::default();
        let mut found = self.find(target, &mut known).await?;
        let mut report = Report { messages: BTreeMap::new(), ..found.report() };
        if !(found.running_jobs.is_empty() && found.running_batches.is_empty()) {
            self.stop(&found).await?;
            found = self.find(target, &mut known).await?;
        }
        for _ in 0..LOOKS {
            self.remove(&found).await?;
            report.add(&found);
            tokio::time::sleep(BETWEEN).await;
            found = self.find(target, &mut known).await?;
            if found.is_empty() {
                report.leave(&found);
                return Ok(report);
            }
        }
        Err(EraseError::StillBusy(report))
    }

    async fn remove(&self, found: &Found) -> Result<(), EraseError> {
        // Backwards: what names the rest goes last, so that it can be found again if this is cut off.
        for (store, messages) in found.messages.iter().rev() {
            scan::remove(&self.js, *store, messages).await?;
        }
        self.forget(found.messages.get(&Store::Records).map_or(&[], Vec::as_slice)).await
    }

    /// Leaves a mark under each key, which the bucket drops in its time: apis that follow the records hear of it.
    async fn forget(&self, records: &[Message]) -> Result<(), EraseError> {
        let failed = |cause: String| EraseError::Broker { doing: "erase from", store: Store::Records.name(), cause };
        if records.is_empty() {
            return Ok(());
        }
        let bucket = self.js.get_key_value(Store::Records.name()).await.map_err(|error| failed(error.to_string()))?;
        let prefix = Store::Records.key_prefix();
        for record in records {
            let key = &record.subject[prefix.len()..];
            bucket.purge(key).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use forebay_shared::async_jobs::{new_job_id, row_id};

    use super::*;

    #[test]
    fn a_row_is_part_of_its_job_and_of_no_other() {
        let (job, other) = (new_job_id(1), new_job_id(1));
        let tenant = TenantName::from("a");
        for target in [Target::job(job, None), Target::job(row_id(&job, 3, 1), Some(tenant.clone()))] {
            assert!(target.covers(&tenant, &row_id(&job, 7, 0)) && target.covers(&tenant, &job));
            assert!(!target.covers(&tenant, &other));
        }
        assert!(!Target::job(job, Some("b".into())).covers(&tenant, &job), "another tenant's job stays");
    }

    #[test]
    fn tenants_that_look_alike_in_a_subject_are_told_apart() {
        let target = Target::Tenant("a-b".into());
        assert!(target.covers(&"a-b".into(), &new_job_id(1)));
        assert!(!target.covers(&"a--b".into(), &new_job_id(1)));
    }
}
