//! The task that sends the snapshots.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::layout::{Layout, LayoutHash};
use super::snapshot::{ProcessState, Served, Snapshot, WIRE_VERSION, encode_cells};
use crate::clock::BrokerClock;
use crate::ids::{BootId, ProcessName, Role};
use crate::metrics::{Registry, SeriesCells};
use crate::subjects;

/// One report a second.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The layout is repeated this often, for aggregators that missed it and cannot ask.
pub const DESCRIBE_EVERY: Duration = Duration::from_secs(30);
/// One description answers all who ask within this time: it is broadcast.
const DESCRIBE_AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// The farewell must not hold up a shutdown when the broker is gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who reports.
#[derive(Debug, Clone)]
pub struct Identity {
    pub role: Role,
    pub process: ProcessName,
    pub boot: BootId,
    /// `host:port` under which others reach this process' `/metrics`.
    pub address: Option<String>,
}

#[derive(Debug, Clone)]
struct Status {
    state: ProcessState,
    served: Vec<Served>,
}

/// Handle of the reporting task. Dropped without [`Reporter::goodbye`], the process looks killed.
#[derive(Debug)]
pub struct Reporter {
    status: watch::Sender<Status>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Reporter {
    /// Starts reporting on the current runtime, in the state `starting`. `before_each` runs before every snapshot, to
    /// set gauges that nobody else keeps up to date.
    pub fn start(
        client: Client,
        identity: Identity,
        registry: Arc<Registry>,
        clock: BrokerClock,
        before_each: impl FnMut() + Send + 'static,
    ) -> Self {
        let (status, changes) = watch::channel(Status { state: ProcessState::Starting, served: Vec::new() });
        let sender = Sender::new(client, identity, registry, clock);
        let task = tokio::spawn(sender.run(changes, before_each));
        Self { status, task: Mutex::new(Some(task)) }
    }

    /// Sent at once, not with the next interval.
    pub fn set_state(&self, state: ProcessState) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.state, state) != state);
    }

    /// What this worker serves. Sent at once.
    pub fn set_served(&self, served: Vec<Served>) {
        self.status.send_modify(|status| status.served = served);
    }

    /// Sends the last snapshot and ends the task; waits a second at most. Later calls do nothing.
    pub async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.set_state(ProcessState::Goodbye);
        if let Some(task) = task
            && tokio::time::timeout(FAREWELL, task).await.is_err()
        {
            tracing::warn!("the last stats report could not be sent; what was counted since the one before it is lost");
        }
    }

    /// [`Reporter::close`] for the only owner.
    pub async fn goodbye(self) {
        self.close().await;
    }
}

struct Sender {
    client: Client,
    identity: Identity,
    registry: Arc<Registry>,
    clock: BrokerClock,
    subject: String,
    started_ms: u64,
    seq: u64,
    series: Vec<SeriesCells>,
    layout: LayoutHash,
    description: Vec<u8>,
    described: Option<Instant>,
    cells: Vec<f64>,
}

impl Sender {
    fn new(client: Client, identity: Identity, registry: Arc<Registry>, clock: BrokerClock) -> Self {
        let subject = subjects::stats(identity.role, identity.boot);
        let (layout, description) = Layout::default().encode();
        let started_ms = clock.now_us() / 1000;
        let (series, cells) = (Vec::new(), Vec::new());
        Self {
            client,
            identity,
            registry,
            clock,
            subject,
            started_ms,
            seq: 0,
            series,
            layout,
            description,
            described: None,
            cells,
        }
    }

    async fn run(mut self, mut changes: watch::Receiver<Status>, mut before_each: impl FnMut()) {
        let mut questions = loop {
            match self.client.subscribe(subjects::describe(self.identity.boot)).await {
                Ok(subscription) => break subscription,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for aggregators yet");
                    tokio::time::sleep(REPORT_INTERVAL).await;
                }
            }
        };
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(_) = questions.next() => {
                    if self.described.is_some_and(|at| at.elapsed() < DESCRIBE_AT_MOST_EVERY) {
                        continue;
                    }
                    self.described = None;
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return; // Nobody said goodbye, so neither do we.
                    }
                }
            }
            let status = changes.borrow_and_update().clone();
            before_each();
            let last = status.state == ProcessState::Goodbye;
            // Without a connection the client would queue a report a second and send them all, stale, later.
            if self.client.connection_state() == State::Connected {
                self.publish(status).await;
            }
            if last {
                let _unreachable_broker_is_logged_by_close = self.client.flush().await;
                return;
            }
        }
    }

    async fn publish(&mut self, status: Status) {
        let payload = self.snapshot(status).encode();
        if let Err(error) = self.client.publish(self.subject.clone(), payload.into()).await {
            tracing::debug!(%error, "a stats report was not sent; the next one says everything again");
        }
    }

    fn snapshot(&mut self, status: Status) -> Snapshot {
        if self.series.len() != self.registry.series_count() {
            self.series = self.registry.series();
            (self.layout, self.description) = Layout::of(&self.series).encode();
            self.described = None;
        }
        self.cells.clear();
        for series in &self.series {
            series.read(&mut self.cells);
        }
        self.seq += 1;
        let describe = self.described.is_none_or(|at| at.elapsed() >= DESCRIBE_EVERY);
        if describe {
            self.described = Some(Instant::now());
        }
        Snapshot {
            version: WIRE_VERSION,
            role: self.identity.role,
            process: self.identity.process.clone(),
            boot: self.identity.boot,
            seq: self.seq,
            started_ms: self.started_ms,
            sent_ms: self.clock.now_us() / 1000,
            interval_ms: REPORT_INTERVAL.as_millis() as u32,
            address: self.identity.address.clone(),
            state: status.state,
            served: status.served,
            layout: self.layout,
            cells: encode_cells(&self.cells),
            description: describe.then(|| self.description.clone()),
        }
    }
}
