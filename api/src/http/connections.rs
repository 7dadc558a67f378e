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
//! The write time-out is a patience that is used up by waiting for the client and earned back by what it takes: see
//! [`Pace`]. Closing lets the request in progress finish; cutting does not. One task looks at all connections once per tick, so
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
use super::pace::Pace;

/// What a connection has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    Open,
    /// To serve one more request: the one in progress, or one that may be on its way.
    LastCall,
    /// To finish the request in progress, if there is one.
    Close,
    Cut,
}

/// How long connections are waited for, in ticks; and how long a tick is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Patience {
    tick: Duration,
    head: u32,
    idle: u32,
}

impl Patience {
    /// A tick is a tenth of the shortest time, within reason, so that no time-out is late by much more than that.
    fn new(limits: &ConnectionLimits) -> Self {
        let shortest = limits.head_timeout.min(limits.idle_timeout).min(limits.write_timeout);
        let tick = (shortest / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time: Duration| u32::try_from(time.as_millis().div_ceil(tick.as_millis())).unwrap_or(u32::MAX / 2);
        Self { tick, head: ticks(limits.head_timeout), idle: ticks(limits.idle_timeout) }
    }
}

/// One connection, shared between its task and the table.
#[derive(Debug)]
pub struct Connection {
    /// The table's count of ticks.
    now: Arc<AtomicU32>,
    tick: Duration,
    order: AtomicU8,
    waker: AtomicWaker,
    /// A request is between its head and the last byte of its response's body.
    busy: AtomicBool,
    /// Bytes of a head have arrived, but not all.
    head: AtomicBool,
    /// The tick in which the present phase began.
    since: AtomicU32,
    taking: Mutex<Taking>,
    /// A request was answered although its client still had to send some of its body.
    unread: AtomicBool,
}

/// How the client takes what is written to it.
#[derive(Debug)]
struct Taking {
    pace: Pace,
    /// The tick since which there is something that it does not take.
    stalled: Option<u32>,
}

/// A request on a connection; ends when dropped.
pub struct Busy(Arc<Connection>);

impl Connection {
    /// What to do now; `waker` is woken when that changes.
    pub fn order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            0 => Order::Open,
            1 => Order::LastCall,
            2 => Order::Close,
            _ => Order::Cut,
        }
    }

    /// Whether no request follows the one in progress.
    pub fn is_ending(&self) -> bool {
        self.order.load(Ordering::Relaxed) != Order::Open as u8
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
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
    pub fn sent(&self, bytes: usize) {
        let mut taking = self.taking.lock();
        if let Some(since) = taking.stalled.take() {
            taking.pace.waited(self.time_since(since));
        }
        taking.pace.moved(bytes as u64);
        drop(taking);
        if !self.head.load(Ordering::Relaxed) {
            self.since.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// There is something to write, but the client does not take it.
    pub fn cannot_send(&self) {
        self.taking.lock().stalled.get_or_insert(self.now.load(Ordering::Relaxed));
    }

    fn time_since(&self, tick: u32) -> Duration {
        self.tick * self.now.load(Ordering::Relaxed).wrapping_sub(tick)
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
        let taking = self.taking.lock();
        if let Some(stalled) = taking.stalled {
            if self.time_since(stalled) > taking.pace.left() {
                self.tell(Order::Cut);
            }
            return;
        }
        drop(taking);
        if self.busy.load(Ordering::Relaxed) {
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
    pace: Pace,
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
        let (now, patience, pace) = (Arc::default(), Patience::new(limits), Pace::new(limits.write_timeout));
        Self { now, patience, pace, open: Mutex::default(), emptied: Notify::new() }
    }

    /// Time between two calls of [`Self::look`].
    pub fn tick(&self) -> Duration {
        self.patience.tick
    }

    /// `number` is new for every connection of this table.
    pub fn enter(self: &Arc<Self>, number: u64) -> Entry {
        let connection = Arc::new(Connection {
            now: Arc::clone(&self.now),
            tick: self.patience.tick,
            order: AtomicU8::default(),
            waker: AtomicWaker::new(),
            busy: AtomicBool::default(),
            head: AtomicBool::default(),
            since: AtomicU32::new(self.now.load(Ordering::Relaxed)),
            taking: Mutex::new(Taking { pace: self.pace, stalled: None }),
            unread: AtomicBool::default(),
        });
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
#[path = "connections_tests.rs"]
mod tests;
