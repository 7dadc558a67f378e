//! Who is connected, and how a connection is ended.
//!
//! ```text
//!        ┌──────────── answer sent ────────────┐
//!        ▼                                     │
//!      idle ──first byte──▶ head ──complete──▶ busy ──body and answer; may stall while the client takes nothing──┐
//!        │ idle timeout       │ head timeout     ▲                                          write timeout │     │
//!        ▼                    ▼                  └──────────────────────────────────────────────────────────│─────┘
//!     closing ──next look──▶ cut ◀─────────────────────────────────────────────────────────────────────────┘
//! ```
//! Closing lets the request in progress finish; cutting does not. One task looks at all connections once per tick, so
//! that a client which sends its head byte by byte, or never reads its answer, costs no timer per request: a connection
//! only notes in which tick something happened. A request that is being worked on is never idle: its own deadline
//! bounds it, and that of its body.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::limits::ConnectionLimits;

/// What a connection has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    Open,
    Close,
    Cut,
}

/// How long connections are waited for, in ticks; and how long a tick is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Patience {
    tick: Duration,
    head: u32,
    idle: u32,
    write: u32,
}

impl Patience {
    /// A tick is a tenth of the shortest time, within reason, so that no time-out is late by much more than that.
    fn new(limits: &ConnectionLimits) -> Self {
        let shortest = limits.head_timeout.min(limits.idle_timeout).min(limits.write_timeout);
        let tick = (shortest / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time: Duration| u32::try_from(time.as_millis().div_ceil(tick.as_millis())).unwrap_or(u32::MAX / 2);
        Self {
            tick,
            head: ticks(limits.head_timeout),
            idle: ticks(limits.idle_timeout),
            write: ticks(limits.write_timeout),
        }
    }
}

/// One connection, shared between its task and the table.
#[derive(Debug, Default)]
pub struct Connection {
    /// The table's count of ticks.
    now: Arc<AtomicU32>,
    order: AtomicU8,
    waker: AtomicWaker,
    /// A request is between its head and the last byte of its response's body.
    busy: AtomicBool,
    /// Bytes of a head have arrived, but not all.
    head: AtomicBool,
    /// The tick in which the present phase began.
    since: AtomicU32,
    /// The tick since which the client has taken nothing of what is to be written, plus one; 0 while it takes.
    stalled: AtomicU32,
    /// A request was answered although its client still had to send some of its body.
    unread: AtomicBool,
}

/// A request on a connection; ends when dropped.
pub struct Busy(Arc<Connection>);

impl Connection {
    /// What to do now; `waker` is woken when that changes.
    pub fn order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            0 => Order::Open,
            1 => Order::Close,
            _ => Order::Cut,
        }
    }

    pub fn begin_request(self: &Arc<Self>) -> Busy {
        self.busy.store(true, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Bytes arrived.
    pub fn received(&self) {
        if !self.busy.load(Ordering::Relaxed) && !self.head.swap(true, Ordering::Relaxed) {
            self.since.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The client took some of its answer.
    pub fn sent(&self) {
        self.stalled.store(0, Ordering::Relaxed);
        if !self.head.load(Ordering::Relaxed) {
            self.since.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// There is something to write, but the client does not take it.
    pub fn cannot_send(&self) {
        let now = self.now.load(Ordering::Relaxed).wrapping_add(1);
        let _stalled_already = self.stalled.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The body of a request was dropped before its end.
    pub fn left_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub fn has_left_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// Ends the connection, step by step where its client did nothing wrong, if it has been in one phase for too long.
    fn look(&self, patience: &Patience) {
        let now = self.now.load(Ordering::Relaxed);
        let since = |tick: u32| now.wrapping_sub(tick);
        let stalled = self.stalled.load(Ordering::Relaxed);
        if stalled != 0 && since(stalled.wrapping_sub(1)) > patience.write {
            return self.tell(Order::Cut);
        }
        if self.busy.load(Ordering::Relaxed) || stalled != 0 {
            return;
        }
        let lasts = since(self.since.load(Ordering::Relaxed));
        if self.head.load(Ordering::Relaxed) {
            if lasts > patience.head {
                self.tell(Order::Cut);
            }
        } else if lasts > patience.idle {
            let closing = self.order.load(Ordering::Relaxed) == Order::Close as u8;
            self.tell(if closing { Order::Cut } else { Order::Close });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since.store(self.0.now.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// All connections of one listener.
#[derive(Debug)]
pub struct Connections {
    now: Arc<AtomicU32>,
    patience: Patience,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Told whenever the table becomes empty.
    emptied: Notify,
}

/// Keeps a connection in the table until dropped.
pub struct Entry {
    number: u64,
    connection: Arc<Connection>,
    table: Arc<Connections>,
}

impl Entry {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        open.remove(&self.number);
        if open.is_empty() {
            self.table.emptied.notify_waiters();
        }
    }
}

impl Connections {
    pub fn new(limits: &ConnectionLimits) -> Self {
        let (now, patience) = (Arc::default(), Patience::new(limits));
        Self { now, patience, open: Mutex::default(), emptied: Notify::new() }
    }

    /// Time between two calls of [`Self::look`].
    pub fn tick(&self) -> Duration {
        self.patience.tick
    }

    /// `number` is new for every connection of this table.
    pub fn enter(self: &Arc<Self>, number: u64) -> Entry {
        let now = Arc::clone(&self.now);
        let connection =
            Arc::new(Connection { since: AtomicU32::new(now.load(Ordering::Relaxed)), now, ..Connection::default() });
        self.open.lock().insert(number, Arc::clone(&connection));
        Entry { number, connection, table: Arc::clone(self) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// A tick has passed: ends the connections that have been in one phase for too long.
    pub fn look(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.open.lock().values().for_each(|connection| connection.look(&self.patience));
    }

    pub fn tell_all(&self, order: Order) {
        self.open.lock().values().for_each(|connection| connection.tell(order));
    }

    /// Returns once no connection is left.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.count() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Ticks of 10 ms: 10 for a head, 20 for an idle connection, 30 for a client that takes nothing.
    fn table() -> Arc<Connections> {
        let limits = ConnectionLimits {
            head_timeout: 100 * MS,
            idle_timeout: 200 * MS,
            write_timeout: 300 * MS,
            ..ConnectionLimits::default()
        };
        Arc::new(Connections::new(&limits))
    }

    fn after(connections: &Connections, ticks: u32, entry: &Entry) -> Order {
        (0..ticks).for_each(|_| connections.look());
        entry.connection().order(Waker::noop())
    }

    #[test]
    fn an_idle_connection_is_closed_and_then_cut() {
        let connections = table();
        let entry = connections.enter(1);
        assert_eq!(after(&connections, 20, &entry), Order::Open);
        assert_eq!(after(&connections, 1, &entry), Order::Close);
        assert_eq!(after(&connections, 1, &entry), Order::Cut);
    }

    #[test]
    fn a_head_that_arrives_byte_by_byte_is_cut_by_the_time_of_its_first_byte() {
        let connections = table();
        let entry = connections.enter(1);
        assert_eq!(after(&connections, 15, &entry), Order::Open);
        for _ in 0..10 {
            entry.connection().received();
            assert_eq!(after(&connections, 1, &entry), Order::Open);
        }
        entry.connection().received();
        assert_eq!(after(&connections, 1, &entry), Order::Cut);
    }

    #[test]
    fn a_connection_with_a_request_in_progress_is_never_idle() {
        let connections = table();
        let entry = connections.enter(1);
        entry.connection().received();
        let busy = entry.connection().begin_request();
        assert_eq!(after(&connections, 1_000, &entry), Order::Open);
        drop(busy);
        assert_eq!(after(&connections, 20, &entry), Order::Open, "it was busy until now");
        assert_eq!(after(&connections, 1, &entry), Order::Close);
    }

    #[test]
    fn a_client_that_takes_nothing_of_its_answer_is_cut_and_one_that_takes_it_slowly_is_not() {
        let connections = table();
        let (never, slowly) = (connections.enter(1), connections.enter(2));
        let _busy = slowly.connection().begin_request();
        let _busy = never.connection().begin_request();
        never.connection().cannot_send();
        for _ in 0..5 {
            slowly.connection().cannot_send();
            assert_eq!(after(&connections, 29, &slowly), Order::Open);
            slowly.connection().sent();
        }
        assert_eq!(after(&connections, 0, &never), Order::Cut);
    }

    #[test]
    fn requests_keep_a_connection_open() {
        let connections = table();
        let entry = connections.enter(1);
        for _ in 0..5 {
            assert_eq!(after(&connections, 15, &entry), Order::Open);
            drop(entry.connection().begin_request());
        }
    }

    #[tokio::test]
    async fn the_table_is_empty_once_the_last_entry_is_dropped() {
        let connections = table();
        let (first, second) = (connections.enter(1), connections.enter(2));
        assert_eq!(connections.count(), 2);
        drop(first);
        let mut emptied = Box::pin(connections.emptied());
        assert!(futures::poll!(&mut emptied).is_pending());
        drop(second);
        emptied.await;
    }
}
