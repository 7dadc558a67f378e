//! All processes of the system: one keeper each, their states in one place, and the order in which they stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use forebay_shared::shutdown::{self, Trigger};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::child;
use super::keeper::{self, State};
use super::plan::{Kind, Spec};
use super::store::{Entry, Store};

/// One process and how it is.
#[derive(Debug, Clone)]
pub struct Status {
    pub spec: Arc<Spec>,
    pub state: State,
}

/// What all keepers share.
pub struct Shared {
    pub store: Store,
    /// How long a process may take to finish its work when told to stop.
    pub stop_grace: Duration,
    statuses: watch::Sender<Vec<Status>>,
    settled: AtomicBool,
}

impl Shared {
    /// Notes a state, and keeps `processes.json` with it.
    pub fn set(&self, spec: &Spec, state: State) {
        self.statuses.send_modify(|statuses| {
            if let Some(status) = statuses.iter_mut().find(|status| status.spec.name == spec.name) {
                status.state = state;
            }
        });
        let entries: Vec<Entry> = self.statuses.borrow().iter().filter_map(entry).collect();
        if let Err(error) = self.store.write_processes(&entries) {
            eprintln!("warning: {error:#}");
        }
    }

    /// Notes what a process that starts says of itself.
    pub fn tell_doing(&self, spec: &Spec, now: &str) {
        self.statuses.send_if_modified(|statuses| {
            let status = statuses.iter_mut().find(|status| status.spec.name == spec.name);
            match status.map(|status| &mut status.state) {
                Some(State::Starting { doing, .. }) if doing.as_deref() != Some(now) => {
                    *doing = Some(now.to_owned());
                    true
                }
                _ => false,
            }
        });
    }

    pub async fn broker_ready(&self) {
        let ready =
            |status: &Status| status.spec.kind == Kind::NatsServer && matches!(status.state, State::Ready { .. });
        let mut statuses = self.statuses.subscribe();
        let _never_closed = statuses.wait_for(|statuses| statuses.iter().any(ready)).await;
    }

    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }
}

fn entry(status: &Status) -> Option<Entry> {
    let spec = &status.spec;
    Some(Entry {
        role: spec.kind.as_str(),
        name: spec.name.clone(),
        pid: status.state.pid()?,
        addr: spec.addr.to_string(),
        monitor_addr: spec.monitor_addr.map(|addr| addr.to_string()),
    })
}

/// Running processes. They end with it, at the latest when this process does.
pub struct Fleet {
    shared: Arc<Shared>,
    kinds: Vec<(Kind, Trigger, Vec<JoinHandle<()>>)>,
}

impl Fleet {
    /// Starts the broker at once, and everything else as soon as it is ready.
    pub fn start(processes: Vec<Spec>, store: Store, stop_grace: Duration) -> anyhow::Result<Self> {
        let specs: Vec<Arc<Spec>> = processes.into_iter().map(Arc::new).collect();
        for spec in &specs {
            store.begin_log(&spec.name).with_context(|| format!("cannot write {}", store.log(&spec.name).display()))?;
        }
        let statuses = specs.iter().map(|spec| Status { spec: Arc::clone(spec), state: State::Waiting }).collect();
        let (statuses, _) = watch::channel(statuses);
        let shared = Arc::new(Shared { store, stop_grace, statuses, settled: AtomicBool::new(false) });
        let kinds = Kind::STOP_ORDER.map(|kind| {
            let (trigger, stop) = shutdown::channel();
            let of_kind = specs.iter().filter(|spec| spec.kind == kind);
            let tasks =
                of_kind.map(|spec| tokio::spawn(keeper::keep(Arc::clone(spec), Arc::clone(&shared), stop.clone())));
            (kind, trigger, tasks.collect())
        });
        Ok(Self { shared, kinds: kinds.into() })
    }

    pub fn statuses(&self) -> watch::Receiver<Vec<Status>> {
        self.shared.statuses.subscribe()
    }

    /// The system has been ready once: from now on it is kept alive whatever happens.
    pub fn settle(&self) {
        self.shared.settled.store(true, Ordering::Relaxed);
    }

    pub fn store_dir(&self) -> PathBuf {
        self.shared.store.dir().to_owned()
    }

    pub fn logs(&self) -> PathBuf {
        self.shared.store.logs()
    }

    /// Waits until a process cannot be started for good, and tells why.
    pub async fn failed(&self) -> String {
        let mut statuses = self.statuses();
        loop {
            let reason = statuses.borrow_and_update().iter().find_map(|status| match &status.state {
                State::Failed { reason } => Some(reason.clone()),
                _ => None,
            });
            match reason {
                Some(reason) => return reason,
                None => statuses.changed().await.unwrap_or_default(),
            }
        }
    }

    /// Stops kind after kind, so that each can still finish with those it depends on. Takes `stop_grace` per kind at most.
    pub async fn stop(&mut self) {
        for (_, trigger, tasks) in &mut self.kinds {
            trigger.fire();
            for task in tasks {
                let _panicked = task.await;
            }
        }
    }

    /// Ends every process at once.
    pub fn kill(&self) {
        self.shared.statuses.borrow().iter().filter_map(|status| status.state.pid()).for_each(child::kill_group);
    }
}
