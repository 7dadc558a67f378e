//! Broker time: the one clock by which deadlines on the wire are read, whatever the hosts' clocks say.
//!
//! Each process estimates its offset from the `ts` of a stream-info reply: half the round trip after the request, the
//! broker's clock stood at `ts`. Between two estimates the process' monotonic clock carries on, so a host whose wall
//! clock jumps keeps its deadlines. The api's own monotonic timer decides a 504; broker time only lets workers skip
//! what nobody waits for any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::planted;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How often the offset is estimated again.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// A reading is never ignored below this round trip.
const USEFUL_ROUND_TRIP_US: u64 = 20_000;

/// A shared reading of broker time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BrokerClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// Broker time at `origin`, microseconds since the Unix epoch.
    at_origin_us: AtomicU64,
    /// Shortest round trip of a reading so far, in microseconds.
    best_round_trip_us: AtomicU64,
}

/// What the host's wall clock says, microseconds since the Unix epoch; wrong where a test wants it to be.
fn host_us() -> u64 {
    let wall_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    wall_us.saturating_add_signed(planted::clock_skew_seconds() * 1_000_000)
}

impl Default for BrokerClock {
    fn default() -> Self {
        Self::from_wall_clock()
    }
}

impl BrokerClock {
    /// Starts from the host's wall clock: right on one machine, corrected by the first estimate elsewhere.
    pub fn from_wall_clock() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            at_origin_us: AtomicU64::new(host_us()),
            best_round_trip_us: AtomicU64::new(u64::MAX),
        }))
    }

    /// Broker time now, in microseconds since the Unix epoch.
    pub fn now_us(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Broker time at a local instant.
    pub fn at(&self, instant: Instant) -> u64 {
        let base = self.0.at_origin_us.load(Ordering::Relaxed);
        match instant.checked_duration_since(self.0.origin) {
            Some(after) => base + after.as_micros() as u64,
            None => base.saturating_sub(self.0.origin.duration_since(instant).as_micros() as u64),
        }
    }

    /// The local instant at which broker time will be (or was) `broker_us`; capped to a day around now.
    pub fn instant(&self, broker_us: u64) -> Instant {
        const DAY_US: u64 = 86_400_000_000;
        let now = Instant::now();
        let now_us = self.at(now);
        if broker_us >= now_us {
            now + Duration::from_micros((broker_us - now_us).min(DAY_US))
        } else {
            now.checked_sub(Duration::from_micros((now_us - broker_us).min(DAY_US))).unwrap_or(now)
        }
    }

    /// Takes a reading: the broker said `broker_us` somewhere between `sent` and `received`. A reading whose round trip is
    /// much longer than the best so far says little about the moment in between and is ignored.
    pub fn observe(&self, sent: Instant, received: Instant, broker_us: u64) {
        let round_trip_us = received.duration_since(sent).as_micros() as u64;
        let best_us = self.0.best_round_trip_us.fetch_min(round_trip_us, Ordering::Relaxed);
        if round_trip_us > best_us.saturating_mul(3).max(USEFUL_ROUND_TRIP_US) {
            return;
        }
        let midpoint = sent + received.duration_since(sent) / 2;
        let since_origin = midpoint.saturating_duration_since(self.0.origin).as_micros() as u64;
        self.0.at_origin_us.store(broker_us.saturating_sub(since_origin), Ordering::Relaxed);
    }

    /// Seconds by which the broker's clock is ahead of this host's wall clock.
    pub fn offset_seconds(&self) -> f64 {
        (self.now_us() as f64 - host_us() as f64) / 1e6
    }

    /// Asks the broker once through the info of `stream`.
    ///
    /// # Errors
    /// The request's failure, or an answer without a readable time stamp.
    pub async fn sync(&self, client: &async_nats::Client, stream: &str) -> Result<(), SyncError> {
        #[derive(serde::Deserialize)]
        struct Info {
            ts: String,
        }
        let sent = Instant::now();
        let reply = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await?;
        let received = Instant::now();
        let info: Info = serde_json::from_slice(&reply.payload).map_err(|_| SyncError::NoTimestamp)?;
        let ts = OffsetDateTime::parse(&info.ts, &Rfc3339).map_err(|_| SyncError::NoTimestamp)?;
        self.observe(sent, received, (ts.unix_timestamp_nanos() / 1000) as u64);
        Ok(())
    }

    /// Keeps the estimate fresh until the process ends.
    pub async fn keep_synced(self, client: async_nats::Client, stream: String) {
        loop {
            if let Err(error) = self.sync(&client, &stream).await {
                tracing::debug!(%error, "could not read the broker's clock; the last estimate stays");
            }
            tokio::time::sleep(SYNC_INTERVAL).await;
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("{0}")]
    Request(#[from] async_nats::RequestError),
    #[error("the stream info carries no time stamp")]
    NoTimestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_moves_the_clock_to_the_brokers() {
        let clock = BrokerClock::from_wall_clock();
        let sent = Instant::now();
        let received = sent + Duration::from_millis(10);
        clock.observe(sent, received, 5_000_000_000);
        assert!(clock.at(received).abs_diff(5_000_005_000) <= 1);
    }

    #[test]
    fn a_reading_that_took_long_does_not_move_the_clock() {
        let clock = BrokerClock::from_wall_clock();
        let sent = Instant::now();
        clock.observe(sent, sent + Duration::from_millis(1), 5_000_000_000);
        let before = clock.at(sent);
        clock.observe(sent, sent + Duration::from_millis(600), 9_000_000_000);
        assert_eq!(clock.at(sent), before);
    }

    #[test]
    fn instants_and_broker_time_are_inverse() {
        let clock = BrokerClock::from_wall_clock();
        let later = clock.now_us() + 3_000_000;
        assert!(clock.at(clock.instant(later)).abs_diff(later) <= 1);
        let past = clock.now_us() - 3_000;
        assert!(clock.at(clock.instant(past)).abs_diff(past) <= 1);
    }
}
