//! What the aggregator's tasks share. Every lock is held for pure work only, never across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Client;
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::BootId;
use forebay_shared::metrics::AggregatorMetrics;
use tokio::task::JoinSet;

use crate::merge::{Fleet, Millis};
use crate::queue::QueueView;
use crate::rates::Rates;
use crate::retained::STATS_STREAM;
use crate::scaling::Scaling;

pub struct Hub {
    fleet: Mutex<Fleet>,
    rates: Mutex<Rates>,
    queue: Mutex<QueueView>,
    scaling: Mutex<Scaling>,
    pub metrics: AggregatorMetrics,
    clock: BrokerClock,
    pub process_cap: usize,
}

impl Hub {
    pub fn new(boot: BootId, process_cap: usize, scaling: Scaling) -> Arc<Self> {
        let clock = BrokerClock::from_wall_clock();
        let [salt, ..] = boot.as_bytes().as_chunks::<8>().0 else { unreachable!("a boot has 16 bytes") };
        let fleet = Fleet::new(clock.now_us() / 1000, u64::from_le_bytes(*salt));
        Arc::new(Self {
            fleet: Mutex::new(fleet),
            rates: Mutex::default(),
            queue: Mutex::default(),
            scaling: Mutex::new(scaling),
            metrics: AggregatorMetrics::new(),
            clock,
            process_cap,
        })
    }

    /// Takes the broker's time before anything is heard, and keeps it.
    pub async fn sync_clock(&self, client: &Client, tasks: &mut JoinSet<()>) {
        if let Err(error) = self.clock.sync(client, STATS_STREAM).await {
            tracing::warn!(%error, "could not read the broker's clock; going by the host's");
        }
        self.fleet().listening_since(self.now());
        tasks.spawn(self.clock.clone().keep_synced(client.clone(), STATS_STREAM.to_owned()));
    }

    pub fn now(&self) -> Millis {
        self.clock.now_us() / 1000
    }

    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn queue(&self) -> MutexGuard<'_, QueueView> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn scaling(&self) -> MutexGuard<'_, Scaling> {
        self.scaling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
