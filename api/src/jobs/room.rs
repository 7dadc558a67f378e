//! Whether the stores have room for one more job, and for what it will leave there.
//!
//! A job that was accepted must be able to end, and its end is a write. So new ones are refused while there is still room:
//! what is left is for those that run.

use std::time::{Duration, Instant};

use forebay_shared::streams::{self, Bucket, Objects};
use tokio::sync::Mutex;

use super::Jobs;

/// How full the stores are when new jobs are refused.
const ADMITTED_PERCENT: u8 = 80;
/// How long an answer of the broker is believed: what all apis accept within it is little beside what is left.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same once half of that is used.
const LOOK_CLOSELY: Duration = Duration::from_millis(100);

/// What was seen last, and until when that is believed.
#[derive(Default)]
pub(super) struct Room(Mutex<Option<(Instant, bool)>>);

impl Jobs {
    /// Whether another job may be accepted. A broker that does not say is no reason to refuse one.
    pub(super) async fn has_room(&self) -> bool {
        let mut seen = self.room.0.lock().await;
        if let Some((until, has_room)) = *seen
            && Instant::now() < until
        {
            return has_room;
        }
        let (mut has_room, mut pause) = (true, LOOK_EVERY);
        for stream in [format!("KV_{}", Bucket::Records.name()), results_stream()] {
            match streams::level(&self.js, &stream).await {
                Ok(level) if !level.takes(0, ADMITTED_PERCENT) => {
                    tracing::warn!(
                        stream,
                        level.used_bytes,
                        level.max_bytes,
                        "asynchronous jobs are refused: their store is nearly full; raise its bound or lower --results-keep"
                    );
                    has_room = false;
                }
                Ok(level) if !level.takes(0, ADMITTED_PERCENT / 2) => pause = LOOK_CLOSELY,
                Ok(_) => {}
                Err(error) => tracing::debug!(stream, error, "cannot see how full a store is"),
            }
        }
        *seen = Some((Instant::now() + pause, has_room));
        has_room
    }

    /// Whether results of so many bytes fit. What the broker takes of an object before it is full stays until it expires, so
    /// one that does not fit is not begun.
    pub(super) async fn takes_result(&self, bytes: usize) -> bool {
        streams::level(&self.js, &results_stream()).await.is_ok_and(|level| level.takes(bytes as u64, 100))
    }
}

fn results_stream() -> String {
    format!("OBJ_{}", Objects::Results.name())
}
