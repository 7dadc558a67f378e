//! `GET /v1/jobs/{id}/events`: a job's states as server-sent events, until it has ended.
//!
//! Each event is named after the state and holds the job as `GET /v1/jobs/{id}` shows it, without the result. The first
//! tells where it stands now. A comment every 15 s keeps the connection through proxies. A stream is ended after two
//! minutes, before the server would take its connection for idle; an `EventSource` comes back by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use forebay_shared::async_jobs::{JobKey, Record};
use forebay_shared::error::JobError;
use tokio::time::Instant;

use super::{find, layer};
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};
use crate::jobs::view::View;

const HEARTBEAT: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(120);

pub async fn follow<B: Backend>(mut call: Call<B>) -> Answer {
    let jobs = Arc::clone(layer(&call.state)?);
    let first = find(&mut call, &jobs).await?;
    let key = JobKey::new(&first.tenant, &first.id);
    // Subscribed before it is read for good: no change in between is missed.
    let changes = jobs.board.subscribe(&key);
    let current = jobs.records.get(&key).await.map_err(|_| JobError::BrokerUnavailable)?;
    let current = current.map_or(first, |(record, _)| record);
    let watcher = Watcher {
        next: Some(current),
        sent: None,
        changes,
        shutdown: jobs.shutdown.clone(),
        until: Instant::now() + LONGEST,
    };
    let events = futures::stream::unfold(watcher, |mut watcher| async move {
        watcher.event().await.map(|text| (Ok::<_, Infallible>(text), watcher))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

struct Watcher {
    /// To be told.
    next: Option<Record>,
    /// What was told last; a change that shows nothing new is left out.
    sent: Option<Record>,
    changes: crate::jobs::Changes,
    shutdown: forebay_shared::shutdown::Shutdown,
    until: Instant,
}

impl Watcher {
    /// The next piece of the stream; `None` at its end.
    async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(record) = self.next.take() {
                let news = self.sent.as_ref().is_none_or(|sent| {
                    (sent.state, sent.generation, sent.attempts) != (record.state, record.generation, record.attempts)
                });
                if news {
                    let text = write(&record);
                    self.sent = Some(record);
                    return Some(text);
                }
            }
            if self.sent.as_ref().is_some_and(|sent| sent.state.is_terminal()) {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    changed.ok()?;
                    self.next = self.changes.borrow_and_update().as_deref().cloned();
                }
                () = tokio::time::sleep(HEARTBEAT) => return Some(": still here\n\n".to_owned()),
                () = tokio::time::sleep_until(self.until) => return None,
                () = self.shutdown.fired() => return None,
            }
        }
    }
}

fn write(record: &Record) -> String {
    let data = serde_json::to_string(&View::new(record)).unwrap_or_default();
    format!("retry: 1000\nevent: {}\ndata: {data}\n\n", record.state.as_str())
}

#[cfg(test)]
mod tests {
    use forebay_shared::async_jobs::{Event, new_job_id};
    use forebay_shared::shutdown;
    use tokio::sync::watch;

    use super::*;

    fn queued() -> Record {
        Record::new(new_job_id(1), "t".into(), "m".into(), "m-0123456789".into(), "embed", 1, 1, 9_000)
    }

    #[tokio::test]
    async fn each_state_is_told_once_and_the_end_ends_it() {
        let (sender, changes) = watch::channel(None);
        let (_trigger, shutdown) = shutdown::channel();
        let until = Instant::now() + LONGEST;
        let mut watcher = Watcher { next: Some(queued()), sent: None, changes, shutdown, until };
        assert!(watcher.event().await.unwrap().contains("event: queued\n"));
        let running = queued().apply(Event::Start { generation: 0 }, 2).unwrap();
        let cancelled = running.apply(Event::Cancel, 3).unwrap();
        sender.send_replace(Some(Arc::new(running.clone())));
        assert!(watcher.event().await.unwrap().contains("event: running\n"));
        sender.send_replace(Some(Arc::new(running)));
        tokio::task::yield_now().await;
        sender.send_replace(Some(Arc::new(cancelled)));
        assert!(watcher.event().await.unwrap().contains("event: cancelled\n"));
        assert_eq!(watcher.event().await, None);
    }
}
