//! What is known about all jobs without asking the broker: a plain table, fed by [`super::board`], told the time.
//!
//! It holds the time and state of every record that is kept, and of those that have not ended also where they stand.
//! Invariants: a job is in exactly one of the two maps; `loads` is what `live` adds up to, without zeros and without what a
//! client waits for.

use forebay_shared::async_jobs::{JobKey, Record, State};
use forebay_shared::ids::{JobId, ModelToken, TenantName};
use rustc_hash::FxHashMap;

/// A job that has not ended.
#[derive(Debug)]
struct Live {
    key: JobKey,
    id: JobId,
    token: ModelToken,
    tenant: TenantName,
    rows: u32,
    bytes: u64,
    express: bool,
    state: State,
    deadline_ms: u64,
    /// When the record was last written, as far as this process knows.
    written_ms: u64,
}

impl Live {
    fn queued_rows(&self) -> u64 {
        if self.state == State::Queued { self.rows.into() } else { 0 }
    }
}

/// What a tenant has that has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub jobs: usize,
    /// Of these, those that nobody works on.
    pub queued: usize,
    /// Rows of those.
    pub queued_rows: u64,
    pub bytes: u64,
}

impl Load {
    fn add(&mut self, live: &Live) {
        self.jobs += 1;
        self.queued += usize::from(live.state == State::Queued);
        self.queued_rows += live.queued_rows();
        self.bytes += live.bytes;
    }

    fn remove(&mut self, live: &Live) {
        self.jobs -= 1;
        self.queued -= usize::from(live.state == State::Queued);
        self.queued_rows -= live.queued_rows();
        self.bytes -= live.bytes;
    }
}

/// By model, then by tenant.
type Loads = FxHashMap<ModelToken, FxHashMap<TenantName, Load>>;

#[derive(Debug)]
pub struct Index {
    live: FxHashMap<String, Live>,
    loads: Loads,
    ended: FxHashMap<String, (State, u64)>,
    /// How long the bucket keeps a record after its last change.
    keep_ms: u64,
}

impl Index {
    pub fn new(keep_ms: u64) -> Self {
        Self { live: FxHashMap::default(), loads: Loads::default(), ended: FxHashMap::default(), keep_ms }
    }

    /// Takes a record as it now is.
    pub fn observe(&mut self, record: &Record, now_ms: u64) {
        let key = JobKey::new(&record.tenant, &record.id);
        let name = key.as_str().to_owned();
        self.drop_live(&name);
        if record.state.is_terminal() {
            self.ended.insert(name, (record.state, record.ended_ms.unwrap_or(now_ms)));
        } else {
            self.ended.remove(&name);
            let live = Live {
                key,
                id: record.id,
                token: record.token.clone(),
                tenant: record.tenant.clone(),
                rows: record.rows,
                bytes: record.bytes,
                express: record.express,
                state: record.state,
                deadline_ms: record.deadline_ms,
                written_ms: now_ms,
            };
            if !live.express {
                let of_model = self.loads.entry(live.token.clone()).or_default();
                of_model.entry(live.tenant.clone()).or_default().add(&live);
            }
            self.live.insert(name, live);
        }
    }

    fn drop_live(&mut self, key: &str) {
        let Some(live) = self.live.remove(key).filter(|live| !live.express) else { return };
        let Some(of_model) = self.loads.get_mut(&live.token) else { return };
        if let Some(load) = of_model.get_mut(&live.tenant) {
            load.remove(&live);
            if load.jobs == 0 {
                of_model.remove(&live.tenant);
            }
        }
        if of_model.is_empty() {
            self.loads.remove(&live.token);
        }
    }

    /// Tenants that have jobs for these weights which have not ended.
    pub fn tenants(&self, token: &ModelToken) -> Vec<TenantName> {
        self.loads.get(token).into_iter().flat_map(|of_model| of_model.keys().cloned()).collect()
    }

    /// Tenants that have jobs for these weights which nobody works on.
    pub fn tenants_waiting(&self, token: &ModelToken) -> usize {
        self.loads.get(token).map_or(0, |of_model| of_model.values().filter(|load| load.queued > 0).count())
    }

    /// Rows for these weights that wait and that nobody works on.
    pub fn waiting_rows(&self, token: &ModelToken) -> u64 {
        self.loads.get(token).map_or(0, |of_model| of_model.values().map(|load| load.queued_rows).sum())
    }

    /// What a tenant has for these weights.
    pub fn load(&self, token: &ModelToken, tenant: &TenantName) -> Load {
        self.loads.get(token).and_then(|of_model| of_model.get(tenant)).copied().unwrap_or_default()
    }

    /// What a tenant has, whatever the model.
    pub fn load_of(&self, tenant: &TenantName) -> Load {
        let mut sum = Load::default();
        for load in self.loads.values().filter_map(|of_model| of_model.get(tenant)) {
            sum = Load {
                jobs: sum.jobs + load.jobs,
                queued: sum.queued + load.queued,
                queued_rows: sum.queued_rows + load.queued_rows,
                bytes: sum.bytes + load.bytes,
            };
        }
        sum
    }

    /// The record is gone.
    pub fn forget(&mut self, key: &str) {
        self.drop_live(key);
        self.ended.remove(key);
    }

    /// Jobs whose deadline passed `grace_ms` ago or earlier and that have not ended.
    pub fn overdue(&self, now_ms: u64, grace_ms: u64) -> Vec<JobKey> {
        let late = self.live.values().filter(|live| live.deadline_ms + grace_ms <= now_ms);
        late.map(|live| live.key.clone()).collect()
    }

    /// Jobs that have not ended and whose record would be dropped before long.
    pub fn fading(&self, now_ms: u64) -> Vec<JobKey> {
        let old = self.live.values().filter(|live| live.written_ms + self.keep_ms / 2 <= now_ms);
        old.map(|live| live.key.clone()).collect()
    }

    /// How many jobs for the same weights wait longer than this one. An estimate: lanes and tenants are not considered.
    pub fn ahead(&self, token: &ModelToken, id: &JobId) -> usize {
        let waiting = |live: &&Live| live.state == State::Queued && live.token == *token && live.id < *id;
        self.live.values().filter(waiting).count()
    }

    /// Jobs in each state, in the order of [`State::ALL`]; forgets those whose records are not kept any more.
    pub fn count(&mut self, now_ms: u64) -> [usize; State::ALL.len()] {
        let keep_ms = self.keep_ms;
        self.ended.retain(|_, (_, ended_ms)| *ended_ms + keep_ms > now_ms);
        let mut counts = [0; State::ALL.len()];
        let states = self.live.values().map(|live| live.state).chain(self.ended.values().map(|(state, _)| *state));
        for state in states {
            if let Some(at) = State::ALL.iter().position(|known| *known == state) {
                counts[at] += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use forebay_shared::async_jobs::{Event, new_job_id};
    use forebay_shared::ids::TenantName;

    use super::*;

    fn record(created_ms: u64) -> Record {
        let (id, tenant) = (new_job_id(created_ms), TenantName::default());
        Record::new(id, tenant, "m".into(), "m-0123456789".into(), "embed", 1, created_ms, created_ms + 1_000)
    }

    #[test]
    fn a_job_is_overdue_until_it_has_ended() {
        let mut index = Index::new(10_000);
        let job = record(1_000);
        index.observe(&job, 1_000);
        assert!(index.overdue(2_499, 500).is_empty());
        assert_eq!(index.overdue(2_500, 500), [JobKey::new(&job.tenant, &job.id)]);
        index.observe(&job.apply(Event::Expire, 2_500).unwrap(), 2_500);
        assert!(index.overdue(9_999, 0).is_empty());
    }

    #[test]
    fn states_are_counted_as_long_as_records_are_kept() {
        let mut index = Index::new(10_000);
        let (first, second) = (record(1_000), record(1_001));
        index.observe(&first, 1_000);
        index.observe(&second, 1_001);
        assert_eq!(index.count(1_002), [2, 0, 0, 0, 0, 0, 0]);
        index.observe(&first.apply(Event::Cancel, 2_000).unwrap(), 2_000);
        assert_eq!(index.count(2_000), [1, 0, 0, 0, 0, 1, 0]);
        assert_eq!(index.count(12_000), [1, 0, 0, 0, 0, 0, 0], "its record is gone");
        index.forget(JobKey::new(&second.tenant, &second.id).as_str());
        assert_eq!(index.count(12_000), [0; 7]);
    }

    #[test]
    fn the_older_of_the_same_model_stand_ahead() {
        let mut index = Index::new(10_000);
        let jobs: Vec<_> = (0..3).map(|at| record(1_000 + at)).collect();
        jobs.iter().for_each(|job| index.observe(job, job.created_ms));
        assert_eq!(index.ahead(&jobs[2].token, &jobs[2].id), 2);
        index.observe(&jobs[0].apply(Event::Start { generation: 0 }, 2_000).unwrap(), 2_000);
        assert_eq!(index.ahead(&jobs[2].token, &jobs[2].id), 1, "what runs does not wait");
        assert_eq!(index.ahead(&"other-0123456789".into(), &jobs[2].id), 0);
    }

    #[test]
    fn a_tenants_load_is_what_it_has_that_has_not_ended() {
        let mut index = Index::new(10_000);
        let (token, tenant) = ("m-0123456789".into(), TenantName::default());
        let jobs: Vec<_> = (0..3).map(|at| Record { bytes: 10, ..record(1_000 + at) }).collect();
        let other = Record { tenant: "other".into(), token: "n-0123456789".into(), ..jobs[0].clone() };
        jobs.iter().chain([&other, &jobs[0]]).for_each(|job| index.observe(job, job.created_ms));
        assert_eq!(
            index.load(&token, &tenant),
            Load { jobs: 3, queued: 3, queued_rows: 3, bytes: 30 },
            "seen twice, counted once"
        );
        assert_eq!((index.tenants(&token), index.tenants_waiting(&token)), (vec![tenant.clone()], 1));
        assert_eq!(index.load_of(&other.tenant), Load { jobs: 1, queued: 1, queued_rows: 1, bytes: 10 });
        let waited_for = Record { express: true, ..record(1_009) };
        index.observe(&waited_for, 1_009);
        assert_eq!(index.load_of(&tenant).jobs, 3, "it stands in no line");
        index.forget(JobKey::new(&tenant, &waited_for.id).as_str());
        let running = jobs[0].apply(Event::Start { generation: 0 }, 2_000).unwrap();
        index.observe(&running, 2_000);
        assert_eq!(index.load(&token, &tenant), Load { jobs: 3, queued: 2, queued_rows: 2, bytes: 30 });
        assert_eq!((index.waiting_rows(&token), index.waiting_rows(&other.token)), (2, 1));
        index.observe(&running.apply(Event::Cancel, 2_000).unwrap(), 2_000);
        index.observe(&jobs[1].apply(Event::Start { generation: 0 }, 2_000).unwrap(), 2_000);
        index.forget(JobKey::new(&tenant, &jobs[2].id).as_str());
        assert_eq!(index.load_of(&tenant), Load { jobs: 1, queued: 0, queued_rows: 0, bytes: 10 });
        assert_eq!((index.tenants(&token).len(), index.tenants_waiting(&token)), (1, 0));
        index.forget(JobKey::new(&tenant, &jobs[1].id).as_str());
        index.forget(JobKey::new(&other.tenant, &other.id).as_str());
        assert!(index.loads.is_empty(), "{:?}", index.loads);
    }

    #[test]
    fn a_record_that_waits_long_is_renewed_before_it_fades() {
        let mut index = Index::new(10_000);
        let job = record(1_000);
        index.observe(&job, 1_000);
        assert!(index.fading(5_999).is_empty());
        assert_eq!(index.fading(6_000).len(), 1);
        index.observe(&job, 6_000);
        assert!(index.fading(6_000).is_empty());
    }
}
