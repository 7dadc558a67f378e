//! One look at every store: which messages are the target's.
//!
//! The order matters: what names jobs, files and batches comes before what is only named by them.

use async_nats::jetstream::object_store::ObjectInfo;
use forebay_shared::async_jobs::{Call, Envelope, Record, job_of_row, tenant_token};
use forebay_shared::codec::{self, CodecError, Wire};
use forebay_shared::dead::{SUMMARY_HEADER, Summary};
use forebay_shared::ids::{JobId, TenantName};
use forebay_shared::job::{Bundle, Job};
use forebay_shared::model::slug;
use forebay_shared::subjects;
use rustc_hash::FxHashSet;
use serde::de::DeserializeOwned;

use super::scan::{Kept, Message, each, each_in, jobs_streams};
use super::{EraseError, Eraser, Found, Store, Target};
use crate::batches::part::{Marker, Part, Segment, Step};
use crate::batches::record::Batch;
use crate::files::FileRecord;
use crate::jobs::owner_of_key;

/// What is known of the target, from look to look: what names its objects may be gone before they are.
#[derive(Debug, Default)]
pub(super) struct Known {
    jobs: FxHashSet<JobId>,
    batches: FxHashSet<String>,
    files: FxHashSet<String>,
    /// Names in the store of files.
    objects: FxHashSet<String>,
}

impl Found {
    fn push(&mut self, store: Store, kept: &Kept<'_>) {
        let message =
            Message { stream: kept.stream.to_owned(), sequence: kept.sequence, subject: kept.subject.to_owned() };
        self.messages.entry(store).or_default().push(message);
    }

    /// Takes a message of a queue if `is_meant` says so of what it decodes to.
    fn judge<T: Wire>(&mut self, store: Store, kept: &Kept<'_>, is_meant: impl FnOnce(&T) -> bool) {
        match codec::decode::<T>(kept.payload) {
            Ok(value) if is_meant(&value) => self.push(store, kept),
            Ok(_) => {}
            Err(error) => self.cannot_read(store, &error),
        }
    }

    /// The value of a key; `None` for a mark that one was here, and for what cannot be read, which is counted.
    fn read<T: DeserializeOwned>(&mut self, kept: &Kept<'_>) -> Option<T> {
        if kept.payload.is_empty() {
            return None;
        }
        let read = serde_json::from_slice(kept.payload).ok();
        self.unreadable += usize::from(read.is_none());
        read
    }

    fn cannot_read(&mut self, store: Store, error: &CodecError) {
        tracing::warn!(store = store.name(), %error, "a message cannot be read");
        self.unreadable += 1;
    }
}

impl Eraser {
    pub(super) async fn find(&self, target: &Target, known: &mut Known) -> Result<Found, EraseError> {
        let mut found = Found::default();
        if let Target::Job { id, .. } = target {
            known.jobs.insert(*id);
        }
        self.find_records(target, known, &mut found).await?;
        self.find_keys(target, known, &mut found).await?;
        self.find_queued_jobs(target, known, &mut found).await?;
        self.find_dead_letters(target, known, &mut found).await?;
        self.find_submitted(target, known, &mut found).await?;
        self.find_attempts(known, &mut found).await?;
        let jobs = &known.jobs;
        let is_theirs = |name: &str| {
            let job = name.split_once('/').and_then(|(job, _)| job.parse::<JobId>().ok());
            job.is_some_and(|job| jobs.contains(&job))
        };
        self.find_objects(Store::Results, is_theirs, &mut found).await?;
        if let Target::Tenant(tenant) = target {
            self.find_files_and_batches(tenant, known, &mut found).await?;
            self.find_parts(tenant, known, &mut found).await?;
            let objects = &known.objects;
            self.find_objects(Store::Files, |name| objects.contains(name), &mut found).await?;
            self.find_quotas(tenant, &mut found).await?;
        }
        Ok(found)
    }

    async fn find_records(&self, target: &Target, known: &mut Known, found: &mut Found) -> Result<(), EraseError> {
        let prefix = Store::Records.key_prefix();
        let tenant = target.tenant().map_or_else(|| "*".to_owned(), tenant_token);
        let job = match target {
            Target::Tenant(_) => "*".to_owned(),
            Target::Job { id, .. } => id.to_string(),
        };
        each(&self.js, Store::Records, &[format!("{prefix}{tenant}.{job}")], false, |kept| {
            // A mark that something was here.
            if kept.payload.is_empty() {
                return;
            }
            let Ok(record) = serde_json::from_slice::<Record>(kept.payload) else {
                found.unreadable += 1;
                return;
            };
            if !target.covers(&record.tenant, &record.id) {
                return;
            }
            found.push(Store::Records, &kept);
            known.jobs.insert(record.id);
            if !record.state.is_terminal() {
                found.running_jobs.push((record.tenant, record.id));
            }
        })
        .await
    }

    /// A key's name is a digest: only its value says whose it is.
    async fn find_keys(&self, target: &Target, known: &mut Known, found: &mut Found) -> Result<(), EraseError> {
        let all = format!("{}>", Store::Idempotency.key_prefix());
        each(&self.js, Store::Idempotency, &[all], false, |kept| {
            // A mark that something was here.
            if kept.payload.is_empty() {
                return;
            }
            let Some((tenant, job)) = owner_of_key(kept.payload) else {
                found.unreadable += 1;
                return;
            };
            if target.covers(&tenant, &job) {
                known.jobs.insert(job);
                found.push(Store::Idempotency, &kept);
            }
        })
        .await
    }

    async fn find_queued_jobs(&self, target: &Target, known: &mut Known, found: &mut Found) -> Result<(), EraseError> {
        let tenant = target.tenant().map_or_else(|| "*".to_owned(), |tenant| slug(tenant.as_str()));
        each(&self.js, Store::Async, &[format!("forebay.async.*.{tenant}")], false, |kept| {
            found.judge(Store::Async, &kept, |envelope: &Envelope| {
                let meant = target.covers(&envelope.tenant, &envelope.job);
                if meant {
                    known.jobs.insert(envelope.job);
                }
                meant
            });
        })
        .await?;
        let calls = match target {
            Target::Tenant(_) => subjects::WEBHOOKS_ALL.to_owned(),
            Target::Job { id, .. } => subjects::webhook(id),
        };
        each(&self.js, Store::Webhooks, &[calls], false, |kept| {
            found.judge(Store::Webhooks, &kept, |call: &Call| target.covers(&call.tenant, &call.job));
        })
        .await
    }

    /// Rows that were submitted and wait for a worker. A message that others have rows in is theirs as well, and stays
    /// until its deadline.
    async fn find_submitted(&self, target: &Target, known: &Known, found: &mut Found) -> Result<(), EraseError> {
        for stream in jobs_streams(&self.js).await? {
            each_in(&self.js, Store::Jobs, &stream, &[">".to_owned()], false, |kept| {
                // One that cannot be read is for a newer worker, and ends with its deadline.
                let Ok(bundle) = codec::decode::<Bundle>(kept.payload) else {
                    found.unreadable += 1;
                    return;
                };
                // Older versions do not say the tenant: then only rows of jobs that are known to be meant.
                let says_tenant = codec::version_of(kept.payload) >= Bundle::VERSION;
                let is_meant = |job: &Job| match says_tenant {
                    true => target.covers(&job.tenant, &job.id),
                    false => known.jobs.contains(&job_of_row(&job.id)),
                };
                if bundle.jobs.iter().all(is_meant) {
                    found.push(Store::Jobs, &kept);
                } else if bundle.jobs.iter().any(is_meant) {
                    found.shared += 1;
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn find_dead_letters(&self, target: &Target, known: &mut Known, found: &mut Found) -> Result<(), EraseError> {
        each(&self.js, Store::Dead, &[subjects::DEAD_ALL.to_owned()], true, |kept| {
            let summary = kept.headers.and_then(|headers| headers.get(SUMMARY_HEADER));
            match summary.and_then(|text| serde_json::from_str::<Summary>(text.as_str()).ok()) {
                Some(summary) if target.covers(&summary.tenant, &summary.id) => {
                    known.jobs.insert(job_of_row(&summary.id));
                    found.push(Store::Dead, &kept);
                }
                Some(_) => {}
                None => found.unreadable += 1,
            }
        })
        .await
    }

    async fn find_attempts(&self, known: &Known, found: &mut Found) -> Result<(), EraseError> {
        let prefix = Store::Attempts.key_prefix();
        each(&self.js, Store::Attempts, &[format!("{prefix}>")], true, |kept| {
            let row = kept.subject[prefix.len()..].split('.').next().and_then(|row| row.parse::<JobId>().ok());
            if row.is_some_and(|row| known.jobs.contains(&job_of_row(&row))) {
                found.push(Store::Attempts, &kept);
            }
        })
        .await
    }

    /// Objects with such names: what describes each, and its chunks.
    async fn find_objects(
        &self,
        store: Store,
        is_theirs: impl Fn(&str) -> bool,
        found: &mut Found,
    ) -> Result<(), EraseError> {
        let mut chunks = Vec::new();
        each(&self.js, store, &[format!("$O.{}.M.*", store.name())], false, |kept| {
            let Ok(info) = serde_json::from_slice::<ObjectInfo>(kept.payload) else {
                found.unreadable += 1;
                return;
            };
            if is_theirs(&info.name) {
                found.push(store, &kept);
                chunks.push(format!("$O.{}.C.{}", store.name(), info.nuid));
            }
        })
        .await?;
        if chunks.is_empty() {
            return Ok(());
        }
        let described = found.messages.remove(&store).unwrap_or_default();
        each(&self.js, store, &chunks, true, |kept| found.push(store, &kept)).await?;
        // Last, so that chunks can be found again if it is cut off.
        found.messages.entry(store).or_default().extend(described);
        Ok(())
    }

    async fn find_files_and_batches(
        &self,
        tenant: &TenantName,
        known: &mut Known,
        found: &mut Found,
    ) -> Result<(), EraseError> {
        let (store, prefix, slug) = (Store::Batches, Store::Batches.key_prefix(), slug(tenant.as_str()));
        each(&self.js, store, &[format!("{prefix}file.{slug}.*")], false, |kept| {
            let Some(file) = found.read::<FileRecord>(&kept) else { return };
            if file.tenant == *tenant {
                found.push(store, &kept);
                known.objects.extend(file.object().map(str::to_owned));
                known.files.insert(file.id);
            }
        })
        .await?;
        each(&self.js, store, &[format!("{prefix}batch.{slug}.*")], false, |kept| {
            let Some(batch) = found.read::<Batch>(&kept) else { return };
            if batch.tenant == *tenant {
                found.push(store, &kept);
                if !batch.phase.is_over() {
                    found.running_batches.push((tenant.clone(), batch.id.clone()));
                }
                known.batches.insert(batch.id);
            }
        })
        .await?;
        let files: Vec<_> = known
            .files
            .iter()
            .flat_map(|id| [format!("{prefix}segments.{id}"), format!("{prefix}segments.{id}.*")])
            .collect();
        each(&self.js, store, &files, false, |kept| {
            let Some(segments) = found.read::<Vec<Segment>>(&kept) else { return };
            known.objects.extend(segments.into_iter().map(|segment| segment.object));
            found.push(store, &kept);
        })
        .await?;
        let markers: Vec<_> = known.batches.iter().map(|id| format!("{prefix}part.{id}.*")).collect();
        each(&self.js, store, &markers, false, |kept| {
            let Some(marker) = found.read::<Marker>(&kept) else { return };
            known.objects.extend(marker.output.into_iter().chain(marker.errors).map(|segment| segment.object));
            found.push(store, &kept);
        })
        .await
    }

    async fn find_parts(&self, tenant: &TenantName, known: &mut Known, found: &mut Found) -> Result<(), EraseError> {
        each(&self.js, Store::Parts, &[subjects::batch_part(tenant)], false, |kept| {
            found.judge(Store::Parts, &kept, |part: &Part| {
                let meant = part.tenant == *tenant;
                if meant {
                    known.batches.insert(part.batch.clone());
                }
                meant
            });
        })
        .await?;
        each(&self.js, Store::Parts, &[subjects::batch_step(tenant)], false, |kept| {
            found.judge(Store::Parts, &kept, |step: &Step| step.tenant == *tenant);
        })
        .await
    }

    async fn find_quotas(&self, tenant: &TenantName, found: &mut Found) -> Result<(), EraseError> {
        let prefix = Store::Quotas.key_prefix();
        each(&self.js, Store::Quotas, &[format!("{prefix}>")], true, |kept| {
            let name = kept.subject[prefix.len()..].rsplit_once('.').map(|(name, _day)| name);
            if name == Some(tenant.as_str()) {
                found.push(Store::Quotas, &kept);
            }
        })
        .await
    }
}
