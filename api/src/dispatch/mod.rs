//! From a validated request to jobs on the queue (steps ② and ③ of the data path), and back to one answer.
//!
//! A request is taken apart into rows; each row is a job. Jobs of one model and lane that are ready at the same moment
//! travel together (`publisher`); their answers are matched by id (`pending`) and put together in order (`gather`).
//! Admission is bounded here (`admission`): what is waiting in this process never exceeds `max_in_flight_jobs`, nor its
//! answers `max_answer_bytes`; nothing is accepted while the broker is away or no worker is there, and nothing that could not
//! be answered in time. What more wants to go out than workers can take soon is held back and leaves in a fair order (`fair`).
//!
//! The future of [`Dispatch::submit`] owns its jobs: dropping it (client gone, deadline) withdraws them, so that workers
//! are told (`cancel`) and a redelivery of their message is answered "cancelled" and not run again.

mod admission;
mod bundler;
mod cancel;
mod estimate;
mod fair;
mod gather;
mod meter;
mod past;
mod pending;
mod publisher;
mod rate;
pub mod replies;
mod share;
mod spans;
mod unacknowledged;

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::async_jobs::lone_row;
use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::ids::{BootId, JobId, Lane, ModelName, ModelToken, TenantName};
use forebay_shared::job::{Input, Job, Output, Task};
use forebay_shared::metrics::{ApiMetrics, Gauge, JobSource, Refusal};
use forebay_shared::model::ModelRecord;
use forebay_shared::trace::TraceContext;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::registry::Registry;
use admission::Room;
pub use admission::{Admission, InFlight};
use cancel::Canceller;
use fair::express::Ticket;
use fair::flow::Flow;
use gather::Gather;
use past::Past;
use pending::{Pending, Withdrawal};
use rate::DrainRate;
use spans::Followed;

/// One request's work: rows for one model.
#[derive(Debug)]
pub struct Submission {
    pub model: Arc<ModelRecord>,
    pub tenant: TenantName,
    pub lane: Lane,
    pub task: Task,
    /// Who waits for it.
    pub source: JobSource,
    pub rows: Vec<Input>,
    /// Ids and generation of the jobs where they are fixed beforehand, one id for each row: work that is kept elsewhere
    /// and may be submitted again. `None` = new ones.
    pub fixed: Option<FixedIds>,
    pub deadline: Instant,
    pub trace: TraceContext,
}

/// See [`Submission::fixed`].
#[derive(Debug, Clone)]
pub struct FixedIds {
    pub jobs: Vec<JobId>,
    pub generation: u32,
}

/// Hands work to the queue and answers back. One per api process.
pub struct Dispatch {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    lanes: RwLock<FxHashMap<(ModelToken, Lane), LaneQueue>>,
}

/// The way to one publisher.
#[derive(Clone)]
struct LaneQueue {
    jobs: mpsc::Sender<Ready>,
    flow: Arc<Flow>,
    unpublished: Gauge,
}

/// What the publishers and the reply task work on.
struct Shared {
    boot: BootId,
    publish: Link,
    replies: Link,
    clock: BrokerClock,
    metrics: Arc<ApiMetrics>,
    pending: Mutex<Pending>,
    canceller: Canceller,
    in_flight: Room,
    /// Work that waits for an answer here and is done wherever it is taken from its queue.
    elsewhere: Room,
    admission: Admission,
    drained: Mutex<DrainRate>,
    past: Past,
}

/// A job on its way to a publisher.
#[derive(Debug)]
struct Ready {
    job: Job,
    gather: Arc<Gather>,
    index: usize,
    accepted: Instant,
    deadline: Instant,
    source: JobSource,
    /// It passes by what others have in the broker.
    ticket: Option<Ticket>,
}

impl Ready {
    /// In tokens, estimated.
    fn cost(&self) -> u64 {
        fair::estimated_tokens(self.job.input.len_bytes())
    }
}

impl Dispatch {
    pub fn new(
        boot: BootId,
        publish: Link,
        replies: Link,
        clock: BrokerClock,
        metrics: Arc<ApiMetrics>,
        registry: Arc<Registry>,
        admission: Admission,
    ) -> Self {
        let canceller = Canceller::start(boot, replies.clone(), clock.clone());
        let shared = Arc::new(Shared {
            boot,
            publish,
            replies,
            clock,
            metrics,
            pending: Mutex::default(),
            canceller,
            in_flight: Room::default(),
            elsewhere: Room::default(),
            admission,
            drained: Mutex::new(DrainRate::new(Instant::now())),
            past: Past::default(),
        });
        Self { shared, registry, lanes: RwLock::default() }
    }

    /// For queues that end with the broker's process: what was stored before the connection was lost is no longer
    /// acknowledged, see `past`.
    pub fn distrust_the_past(&self) {
        let shared = Arc::clone(&self.shared);
        shared.past.distrust();
        tokio::spawn(async move {
            let mut epochs = shared.replies.epochs();
            while epochs.changed().await.is_ok() {
                shared.past.cut(shared.clock.now_us());
            }
        });
    }

    /// Broker reachable for publishing and for answers, and the model table read.
    pub fn is_ready(&self) -> bool {
        self.shared.publish.is_up() && self.shared.replies.is_up() && self.registry.is_synced()
    }

    /// Runs the rows and returns their outputs in order.
    ///
    /// # Errors
    /// The first row's error; [`JobError::BrokerUnavailable`], [`JobError::NoWorker`], [`JobError::Overloaded`] or
    /// [`JobError::DeadlineUnreachable`] before anything is published; [`JobError::DeadlineExceeded`] at `deadline` by this process' own clock.
    pub async fn submit(&self, mut submission: Submission) -> Result<Vec<Output>, JobError> {
        let now = Instant::now();
        let followed = Followed::begin(&mut submission, now);
        let result = self.run(submission, now).await;
        followed.end(&result);
        result
    }

    async fn run(&self, submission: Submission, now: Instant) -> Result<Vec<Output>, JobError> {
        let Submission { model, tenant, lane, task, source, rows, fixed, deadline, trace } = submission;
        let admitted = self.admit(&self.shared.in_flight, &model, &tenant, lane, &task, &rows, deadline, now);
        let (in_flight, queue) = admitted.inspect_err(|error| {
            // With ids of its own it is kept elsewhere and tried again, also where a client waits.
            if fixed.is_none() {
                self.shared.no_room_for(&model.name, source, rows.len(), error);
            }
        })?;
        self.shared.metrics.jobs_admitted_total.with(&(model.name.clone(), source)).inc_by(rows.len() as u64);
        let (enqueued_us, deadline_us) = (self.shared.clock.at(now), self.shared.clock.at(deadline));
        // Declared before `answer`, so dropped after it: what is withdrawn is over already, and no publisher registers it.
        let ids = Vec::with_capacity(rows.len());
        let mut waiting = Waiting { shared: &self.shared, queue: &queue, token: &model.token, deadline, ids };
        let (gather, answer) = Gather::new(rows.len());
        let gather = Arc::new(gather);
        for (index, input) in rows.into_iter().enumerate() {
            let id = fixed
                .as_ref()
                .and_then(|fixed| fixed.jobs.get(index).copied())
                .unwrap_or_else(|| lone_row(enqueued_us / 1_000));
            let generation = fixed.as_ref().map_or(0, |fixed| fixed.generation);
            let (tenant, trace, task) = (tenant.clone(), Some(trace), task.clone());
            let job = Job { id, generation, tenant, enqueued_us, deadline_us, trace, task, input };
            waiting.ids.push(id);
            tracing::debug!(job = %id, model = %model.name, "accepted");
            let ready =
                Ready { job, gather: Arc::clone(&gather), index, accepted: now, deadline, source, ticket: None };
            // The channel holds as many jobs as may be admitted, so a full one means the same as no admission.
            queue.jobs.try_send(ready).map_err(|_| self.shared.overloaded())?;
            queue.unpublished.inc();
        }
        let result = match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(JobError::Internal),
            Err(_) => Err(JobError::DeadlineExceeded),
        };
        if result.is_ok() {
            // Every row was settled: there is nothing left to withdraw.
            waiting.ids.clear();
        }
        if let Ok(outputs) = &result {
            meter::device_time(&self.shared.metrics, &tenant, &model.name, outputs);
        }
        drop(waiting);
        drop(in_flight);
        result
    }

    fn check_reachable(&self, model: &ModelRecord) -> Result<(), JobError> {
        if !self.shared.publish.is_up_or_failing_over() || !self.shared.replies.is_up_or_failing_over() {
            self.shared.refused(&model.name, Refusal::Broker);
            return Err(JobError::BrokerUnavailable);
        }
        if !self.registry.may_serve(&model.token) {
            self.shared.refused(&model.name, Refusal::NoWorker);
            return Err(JobError::NoWorker { model: model.name.to_string() });
        }
        Ok(())
    }

    /// The publisher of one model and lane, started on first use.
    fn lane(&self, model: &ModelRecord, lane: Lane) -> LaneQueue {
        let key = (model.token.clone(), lane);
        let open = |queue: &&LaneQueue| !queue.jobs.is_closed();
        if let Some(queue) = self.lanes.read().get(&key).filter(open) {
            return queue.clone();
        }
        let mut lanes = self.lanes.write();
        if let Some(queue) = lanes.get(&key).filter(open) {
            return queue.clone();
        }
        let (jobs, ready) = mpsc::channel(self.shared.admission.max_in_flight);
        let queue = LaneQueue { jobs, flow: Arc::default(), unpublished: self.shared.unpublished(&model.name, lane) };
        let (shared, registry) = (Arc::clone(&self.shared), Arc::clone(&self.registry));
        tokio::spawn(publisher::Publisher::new(shared, registry, model, lane, &queue).run(ready));
        lanes.insert(key, queue.clone());
        queue
    }

    /// Starts the tasks that take answers and the questions of workers; returns once their subscriptions stand. They run
    /// as long as the process: an end of one is a reason to end.
    ///
    /// # Errors
    /// The broker refused a subscription.
    pub async fn listen(&self) -> Result<JoinSet<()>, async_nats::SubscribeError> {
        replies::listen(Arc::clone(&self.shared)).await
    }

    /// Jobs accepted and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.rows()
    }
}

impl Shared {
    fn overloaded(&self) -> JobError {
        let jobs = self.in_flight.rows();
        let wait = self.drained.lock().time_to_drain(jobs, Instant::now());
        JobError::Overloaded { retry_after_ms: wait.as_millis() as u64 }
    }

    fn refused(&self, model: &ModelName, reason: Refusal) {
        self.metrics.admission_refused_total.with(&(model.clone(), reason)).inc();
    }

    /// Counts jobs that were not taken, if it was for want of room. Stored ones are tried again.
    fn no_room_for(&self, model: &ModelName, source: JobSource, jobs: usize, error: &JobError) {
        let is_room = matches!(error, JobError::Overloaded { .. } | JobError::DeadlineUnreachable { .. });
        if is_room && source == JobSource::Request {
            self.metrics.queue_rejected_total.with(&(model.clone(),)).inc_by(jobs as u64);
        }
    }

    fn unpublished(&self, model: &ModelName, lane: Lane) -> Gauge {
        self.metrics.unpublished_jobs.with(&(model.clone(), lane))
    }

    /// Acknowledges bundles whose last job is gone.
    async fn acknowledge(&self, acks: Vec<String>) {
        for ack in acks {
            if !self.past.may_acknowledge(&ack, self.replies.is_up()) {
                continue;
            }
            // If this is lost the bundle is delivered again, the worker asks, and is told that it is done.
            let _lost = self.replies.client.publish(ack, bytes::Bytes::from_static(b"+ACK")).await;
        }
    }
}

/// Jobs of one request; withdraws those that are still out when the request ends.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    token: &'a ModelToken,
    deadline: Instant,
    queue: &'a LaneQueue,
    ids: Vec<JobId>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let gone = self.queue.flow.withdrawn(self.ids.len());
        self.queue.unpublished.sub(gone as f64);
        let Withdrawal { acks, jobs } = self.shared.pending.lock().withdraw(&self.ids);
        self.shared.canceller.tell(self.token, self.deadline, jobs);
        if !acks.is_empty() {
            let shared = Arc::clone(self.shared);
            tokio::spawn(async move { shared.acknowledge(acks).await });
        }
    }
}

/// Longest and shortest wait that a refused client is told.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);
