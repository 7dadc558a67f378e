//! The handles of this worker's metrics, looked up once: the hot path touches no map.

use forebay_shared::ids::{Lane, ModelName};
use forebay_shared::metrics::{
    Anomaly, CloseReason, Counter, DeadReason, EngineFault, Fact, Gauge, Histogram, Outcome, SavedReason, StoreWrite,
    WorkerMetrics,
};
use parking_lot::Mutex;

/// Weight of the last batch in the moving average of device seconds per token.
const LAST_BATCH: f64 = 0.1;

/// Everything that is counted for one model.
pub(crate) struct ModelCounters {
    pub(crate) rows: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) expired: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) steps: Counter,
    pub(crate) queue_wait: [Histogram; 3],
    pub(crate) batch_wait: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) batch_tokens: Histogram,
    pub(crate) batch_fill: Histogram,
    pub(crate) tokenize: Histogram,
    pub(crate) inference: Histogram,
    pub(crate) in_flight: Gauge,
    /// Batches that the device had no memory for.
    ooms: Counter,
    model: ModelName,
    metrics: WorkerMetrics,
    processed: Counter,
    ok: Counter,
    /// Device seconds per token over the last batches; `None` before the first.
    seconds_per_token: Mutex<Option<f64>>,
}

impl ModelCounters {
    /// `device` is its label.
    pub(crate) fn new(metrics: &WorkerMetrics, model: &ModelName, device: &str) -> Self {
        metrics.register_model(model);
        let one = (model.clone(),);
        Self {
            rows: metrics.rows_total.with(&one),
            ooms: metrics.device_oom_total.with(&(Fact::new(device),)),
            redelivered: metrics.redelivered_total.with(&one),
            expired: metrics.expired_total.with(&one),
            cancelled: metrics.cancelled_total.with(&one),
            steps: metrics.engine_steps_total.with(&()),
            queue_wait: Lane::ALL.map(|lane| metrics.queue_wait_seconds.with(&(model.clone(), lane))),
            batch_wait: metrics.batch_wait_seconds.with(&one),
            batch_size: metrics.batch_size.with(&one),
            batch_tokens: metrics.batch_tokens.with(&one),
            batch_fill: metrics.batch_fill_ratio.with(&one),
            tokenize: metrics.tokenize_seconds.with(&one),
            inference: metrics.inference_seconds.with(&one),
            in_flight: metrics.batches_in_flight.with(&()),
            processed: metrics.queue_processed_total.with(&one),
            ok: metrics.jobs_total.with(&(model.clone(), Outcome::Ok)),
            model: model.clone(),
            metrics: metrics.clone(),
            seconds_per_token: Mutex::default(),
        }
    }

    pub(crate) fn model(&self) -> &ModelName {
        &self.model
    }

    pub(crate) fn jobs(&self, outcome: Outcome, count: u64) {
        self.processed.inc_by(count);
        match outcome {
            Outcome::Ok => self.ok.inc_by(count),
            other => self.metrics.jobs_total.with(&(self.model.clone(), other)).inc_by(count),
        }
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        self.metrics.batches_closed_total.with(&(self.model.clone(), reason)).inc();
    }

    pub(crate) fn engine_error(&self, fault: EngineFault) {
        self.metrics.inference_errors_total.with(&(self.model.clone(), fault)).inc();
    }

    /// Memory of the device did not suffice for a batch.
    pub(crate) fn out_of_memory(&self) {
        self.ooms.inc();
        self.engine_error(EngineFault::OutOfMemory);
    }

    /// A batch of `tokens` took `seconds` of the device.
    pub(crate) fn computed(&self, tokens: usize, seconds: f64) {
        let last = seconds / tokens.max(1) as f64;
        let mut average = self.seconds_per_token.lock();
        *average = Some(average.map_or(last, |before| before + LAST_BATCH * (last - before)));
    }

    /// Work of `tokens` was not done.
    pub(crate) fn saved(&self, reason: SavedReason, tokens: usize) {
        let seconds = self.seconds_per_token.lock().unwrap_or_default() * tokens as f64;
        self.metrics.work_saved_seconds_total.with(&(reason,)).inc_by(seconds);
    }

    pub(crate) fn dead_lettered(&self, reason: DeadReason) {
        self.metrics.dead_lettered_total.with(&(self.model.clone(), reason)).inc();
    }

    /// A write to the broker failed.
    pub(crate) fn write_failed(&self, kind: StoreWrite) {
        self.metrics.store_write_errors_total.with(&(kind,)).inc();
    }

    pub(crate) fn anomaly(&self, kind: Anomaly, rows: u64) {
        self.metrics.output_anomalies_total.with(&(self.model.clone(), kind)).inc_by(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_was_spared_is_worth_what_the_last_batches_took() {
        let metrics = WorkerMetrics::new();
        let counters = ModelCounters::new(&metrics, &ModelName::from("m"), "cpu");
        counters.saved(SavedReason::Cancelled, 10);
        counters.computed(100, 1.0);
        counters.saved(SavedReason::Cancelled, 10);
        counters.computed(100, 2.0);
        counters.saved(SavedReason::Expired, 100);
        let saved = |reason| metrics.work_saved_seconds_total.with(&(reason,)).get();
        assert!((saved(SavedReason::Cancelled) - 0.1).abs() < 1e-9, "nothing is known before the first batch");
        assert!((saved(SavedReason::Expired) - 1.1).abs() < 1e-9, "a tenth of the way from 1 s to 2 s");
    }
}
