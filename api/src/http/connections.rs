//! Who is connected, and how a connection is ended.
//!
//! ```text
//! open ──idle for a while, or the process stops──▶ closing ──still there at the next look, or grace is over──▶ cut
//! ```
//! Closing lets the request in progress finish; cutting does not. One task looks at all connections from time to time,
//! so that a client which sends its head byte by byte, or never reads its answer, costs no timer per request. A request
//! that is being worked on is never idle: its own deadline bounds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a connection has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    Open,
    Close,
    Cut,
}

/// One connection, shared between its task and the table.
#[derive(Debug, Default)]
pub struct Connection {
    order: AtomicU8,
    waker: AtomicWaker,
    /// Requests begun so far.
    begun: AtomicU32,
    /// A request is between its head and its response.
    busy: AtomicBool,
    /// `begun` at the last look, of an idle connection.
    seen: AtomicU32,
}

/// A request on a connection; ends when dropped.
pub struct Busy<'a>(&'a Connection);

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

    pub fn begin_request(&self) -> Busy<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        Busy(self)
    }

    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// Ends the connection step by step if nothing happened since the last look.
    fn look(&self) {
        if self.busy.load(Ordering::Relaxed) {
            return;
        }
        let begun = self.begun.load(Ordering::Relaxed).wrapping_add(1); // 0 = never looked at
        if self.seen.swap(begun, Ordering::Relaxed) == begun {
            let closing = self.order.load(Ordering::Relaxed) == Order::Close as u8;
            self.tell(if closing { Order::Cut } else { Order::Close });
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// All connections of one listener.
#[derive(Debug, Default)]
pub struct Connections {
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
    /// `number` is new for every connection of this table.
    pub fn enter(self: &Arc<Self>, number: u64) -> Entry {
        let connection = Arc::new(Connection::default());
        self.open.lock().insert(number, Arc::clone(&connection));
        Entry { number, connection, table: Arc::clone(self) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Looks for connections on which nothing happened since the last call.
    pub fn look_for_idle(&self) {
        self.open.lock().values().for_each(|connection| connection.look());
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

    fn order(connection: &Connection) -> Order {
        connection.order(Waker::noop())
    }

    #[test]
    fn an_idle_connection_is_closed_at_the_second_look_and_cut_at_the_third() {
        let connections = Arc::new(Connections::default());
        let entry = connections.enter(1);
        connections.look_for_idle();
        assert_eq!(order(entry.connection()), Order::Open);
        connections.look_for_idle();
        assert_eq!(order(entry.connection()), Order::Close);
        connections.look_for_idle();
        assert_eq!(order(entry.connection()), Order::Cut);
    }

    #[test]
    fn a_connection_with_a_request_in_progress_is_never_idle() {
        let connections = Arc::new(Connections::default());
        let entry = connections.enter(1);
        let busy = entry.connection().begin_request();
        (0..5).for_each(|_| connections.look_for_idle());
        assert_eq!(order(entry.connection()), Order::Open);
        drop(busy);
        connections.look_for_idle();
        assert_eq!(order(entry.connection()), Order::Open, "it was busy until now");
        connections.look_for_idle();
        assert_eq!(order(entry.connection()), Order::Close);
    }

    #[test]
    fn a_request_between_two_looks_keeps_a_connection_open() {
        let connections = Arc::new(Connections::default());
        let entry = connections.enter(1);
        for _ in 0..5 {
            drop(entry.connection().begin_request());
            connections.look_for_idle();
        }
        assert_eq!(order(entry.connection()), Order::Open);
    }

    #[tokio::test]
    async fn the_table_is_empty_once_the_last_entry_is_dropped() {
        let connections = Arc::new(Connections::default());
        let (first, second) = (connections.enter(1), connections.enter(2));
        assert_eq!(connections.count(), 2);
        drop(first);
        let mut emptied = Box::pin(connections.emptied());
        assert!(futures::poll!(&mut emptied).is_pending());
        drop(second);
        emptied.await;
    }
}
