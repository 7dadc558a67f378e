//! Once a second: expire what is overdue, renew records that wait long, show the counts.
//!
//! Every api does it, a moment after the deadline and not at the same one: that one is faster costs a read each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_shared::async_jobs::{ChangeError, Event, State};
use forebay_shared::ids::ModelName;

use super::Jobs;

const INTERVAL: Duration = Duration::from_secs(1);
/// The runner that holds a job ends it at its deadline; only what nobody holds is left to the sweeper.
const GRACE_MS: std::ops::Range<u64> = 500..2_500;
/// Most jobs that are ended at one look.
const AT_ONCE: usize = 200;

pub(super) async fn run(jobs: Arc<Jobs>) {
    let mut look = tokio::time::interval(INTERVAL);
    loop {
        look.tick().await;
        let now_ms = jobs.now_ms();
        let counts = jobs.board.index.lock().count(now_ms);
        for (state, count) in State::ALL.into_iter().zip(counts) {
            jobs.metrics.async_jobs.with(&(state.into(),)).set(count as f64);
        }
        jobs.show_waiting_rows();
        jobs.board.tidy();
        if !jobs.link.is_up() {
            continue;
        }
        let grace_ms = rand::random_range(GRACE_MS);
        let (overdue, fading) = {
            let index = jobs.board.index.lock();
            (index.overdue(now_ms, grace_ms), index.fading(now_ms))
        };
        for key in overdue.iter().take(AT_ONCE) {
            match jobs.records.change(key, &Event::Expire, now_ms).await {
                // The watch has not told us yet, or never will: the record's time was over as well.
                Err(ChangeError::NotFound) => jobs.board.index.lock().forget(key.as_str()),
                Err(ChangeError::Refused(_, record)) => jobs.board.index.lock().observe(&record, now_ms),
                Err(ChangeError::Store(error)) => {
                    tracing::debug!(%error, "cannot expire a job now");
                    break;
                }
                Ok(record) => jobs.board.index.lock().observe(&record, now_ms),
            }
        }
        for key in fading.iter().take(AT_ONCE) {
            if let Err(error) = jobs.records.renew(key).await {
                tracing::debug!(%error, "cannot renew a record now");
                break;
            }
        }
    }
}

impl Jobs {
    fn show_waiting_rows(&self) {
        let mut rows: BTreeMap<ModelName, u64> = BTreeMap::new();
        for model in self.registry.known() {
            // A name may have had several sets of weights, whose jobs are all for it.
            *rows.entry(model.name.clone()).or_default() += self.board.index.lock().waiting_rows(&model.token);
        }
        for (model, rows) in rows {
            self.metrics.async_waiting_rows.with(&(model,)).set(rows as f64);
        }
    }
}
