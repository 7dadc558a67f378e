use crate::ids::{Lane, ModelName, ProcessName};
use crate::metrics::labels::{
    Check, DropReason, Fact, Fullness, MessageState, ReportResult, StoreKind, StreamName, WorkerState,
};

crate::metrics::schema::metrics! {
    /// What an aggregator computes itself, beside what it merges. These have the fleet's names; every aggregator
    /// serves its own.
    pub struct AggregatorMetrics for Aggregator {
        /// Jobs that wait for a worker: in the broker, or admitted by an api and not published yet. Jobs, not messages;
        /// how they divide into waiting and in flight is an estimate while a lane holds both.
        queue_pending: Gauge { model: ModelName, lane: Lane } merge Own,
        /// Jobs delivered to a worker and not yet acknowledged. Jobs, not messages.
        queue_in_flight: Gauge { model: ModelName, lane: Lane } merge Own,
        /// Messages in the broker; each holds 1 to 32 jobs.
        queue_messages: Gauge { model: ModelName, lane: Lane, state: MessageState } merge Own,
        /// Jobs the model's stream is sure to hold: one per message up to its limits of messages and bytes.
        queue_capacity: Gauge { model: ModelName } merge Own,
        /// Bytes of the model's stream.
        queue_bytes: Gauge { model: ModelName } merge Own,
        /// Seconds since the oldest unacknowledged message of the lane was published; an upper bound where the lane
        /// does not hold the oldest message of the stream.
        queue_oldest_age_seconds: Gauge { model: ModelName, lane: Lane } merge Own,
        /// Jobs that were put aside and are still kept.
        dead_letters: Gauge {} merge Own,
        /// Workers that serve the model. `silent` = missed three reports and has not said goodbye.
        workers: Gauge { model: ModelName, state: WorkerState } merge Own,
        /// Workers that the model should have, see docs/autoscaling.md. Of several aggregators the largest answer is meant.
        desired_workers: Gauge { model: ModelName } merge Own,
        /// Jobs per second that one worker of the model can do, as measured; absent until something was measured.
        worker_capacity_jobs_per_second: Gauge { model: ModelName } merge Own,
        /// 1 while the worker reports, 0 for 15 minutes after it fell silent. A worker that says goodbye disappears.
        worker_up: Gauge { worker: ProcessName, model: ModelName, device: Fact } merge Own,
        /// When the worker sent its last report.
        worker_last_report_timestamp_seconds: Gauge { worker: ProcessName } merge Own,
        /// Stats reports received, by what became of them.
        reports_total: Counter { result: ReportResult } merge Own,
        /// Age of the oldest last report among the processes that have not said goodbye: how stale this page can be.
        reports_age_seconds: Gauge {} merge Own,
        /// Series cut from this page.
        series_dropped_total: Counter { reason: DropReason } merge Own,
        /// 1 when the last question to the broker was answered.
        broker_up: Gauge {} merge Own,
        /// Bytes of the JetStream account: used, reserved by the bounds of its streams, and the limit where there is one.
        broker_store_bytes: Gauge { kind: StoreKind } merge Own,
        /// Bytes of a stream, bucket or object store that there is one of, and the most that the broker takes into it. The streams
        /// of jobs are `forebay_queue_bytes`.
        broker_stream_bytes: Gauge { stream: StreamName, kind: Fullness } merge Own,
        /// Writes to the broker that failed, other than because a queue is full or somebody else wrote first: those of all apis
        /// and workers (`forebay_store_write_errors_total`) and this aggregator's own writes of the retained counters.
        broker_write_errors_total: Counter {} merge Own,
        /// Seconds from the loss of a worker's connection, or its last sign of life, until its work was given back to the
        /// queue. Only where this aggregator did it.
        recovery_seconds: Histogram {} buckets LATENCY_SECONDS merge Own,
        /// Deliveries of dead or frozen workers that this aggregator has given back to the queue.
        recovery_naks_total: Counter {} merge Own,
        /// 1 when no input failed the check in the last 5 minutes, else 0.
        validation_checks: Gauge { check: Check } merge Own,
    }
}
