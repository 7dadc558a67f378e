//! SIGINT and SIGTERM, listened for once, so that a second one is never missed.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From its creation on, both signals are requests to this program instead of the end of it.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
