use crate::ids::{Lane, ModelName};
use crate::metrics::labels::{
    Anomaly, CloseReason, DeadReason, EngineFault, Fact, MemoryKind, Outcome, SavedReason, StoreWrite,
};

crate::metrics::schema::metrics! {
    /// What one worker process counts.
    pub struct WorkerMetrics for Worker {
        /// Jobs finished, by outcome. Incremented once per job, when its reply is made.
        jobs_total: Counter { model: ModelName, outcome: Outcome } merge Sum,
        /// Jobs taken from the queue and finished, whatever the outcome.
        queue_processed_total: Counter { model: ModelName } merge Sum,
        /// Rows that went through the model.
        rows_total: Counter { model: ModelName } merge Sum,
        /// Seconds from enqueue to the start of the batch that ran the job.
        queue_wait_seconds: Histogram { model: ModelName, lane: Lane } buckets LATENCY_SECONDS merge Sum,
        /// Seconds from intake on the worker to the start of the batch.
        batch_wait_seconds: Histogram { model: ModelName } buckets COMPUTE_SECONDS merge Sum,
        /// Rows in one batch.
        batch_size: Histogram { model: ModelName } buckets ROWS merge Sum,
        /// Tokens in one batch.
        batch_tokens: Histogram { model: ModelName } buckets TOKENS merge Sum,
        /// Tokens in one batch as a share of the limit, or rows where they are nearer to theirs.
        batch_fill_ratio: Histogram { model: ModelName } buckets RATIO merge Sum,
        /// Batches on the device.
        batches_in_flight: Gauge {} merge Sum,
        /// Batches by the reason why they closed.
        batches_closed_total: Counter { model: ModelName, reason: CloseReason } merge Sum,
        /// Seconds to tokenise the rows of one bundle.
        tokenize_seconds: Histogram { model: ModelName } buckets COMPUTE_SECONDS merge Sum,
        /// Seconds the model takes for one batch, without waiting and without tokenising.
        inference_seconds: Histogram { model: ModelName } buckets COMPUTE_SECONDS merge Sum,
        /// Batches that the engine could not compute.
        inference_errors_total: Counter { model: ModelName, kind: EngineFault } merge Sum,
        /// Jobs delivered to this worker that the broker had delivered before.
        redelivered_total: Counter { model: ModelName } merge Sum,
        /// Jobs dropped before they ran because their deadline had passed.
        expired_total: Counter { model: ModelName } merge Sum,
        /// Jobs dropped before they ran because nobody wanted them any more, or another worker has them by now.
        cancelled_total: Counter { model: ModelName } merge Sum,
        /// Jobs put aside as dead letters.
        dead_lettered_total: Counter { model: ModelName, reason: DeadReason } merge Sum,
        /// Writes to the broker that failed, other than because a queue is full or somebody else wrote first.
        store_write_errors_total: Counter { kind: StoreWrite } merge Sum,
        /// Device seconds that jobs would have taken which were not run: their tokens times the device seconds per token
        /// of the worker, a moving average over its last batches. Tokens are estimated where the job was not tokenised.
        work_saved_seconds_total: FloatCounter { reason: SavedReason } merge Sum,
        /// Models that are loaded and warm.
        models_loaded: Gauge {} merge Sum,
        /// Always 1: which version of a model runs on what.
        model_info: Gauge { model: ModelName, version: Fact, architecture: Fact, dtype: Fact, device: Fact } merge Max,
        /// Bytes of the weights in memory of one worker.
        model_size_bytes: Gauge { model: ModelName } merge Max,
        /// Seconds from the start of loading to the end of the warm-up.
        model_load_duration_seconds: Histogram { model: ModelName } buckets LOAD_SECONDS merge Sum,
        /// Attempts to load a model that failed.
        model_load_errors_total: Counter { model: ModelName } merge Sum,
        /// Last training loss, from the model folder's `trainer_state.json`.
        model_training_loss: Gauge { model: ModelName } merge Max,
        /// Last validation loss, from the model folder's `trainer_state.json`.
        model_validation_loss: Gauge { model: ModelName } merge Max,
        /// Rows for which the model answered without an error and said nothing.
        output_anomalies_total: Counter { model: ModelName, kind: Anomaly } merge Sum,
        /// Steps the engine has finished. Must advance while work is pending.
        engine_steps_total: Counter {} merge Sum,
        /// Memory of the device that the worker computes on. On a CPU: what the process has in memory (`used`), the most it
        /// had (`peak`), and what it may have (`capacity`): the limit of its control group, else the memory of the host, which
        /// workers on one host share.
        /// On a GPU: what all processes took of it (`reserved`), without what the worker's own pool keeps for later (`used`), the
        /// most of that since the worker started (`peak`), and all there is (`capacity`).
        device_memory_bytes: Gauge { device: Fact, kind: MemoryKind } merge PerProcess,
        /// Share of time in which the GPU ran anything at all, 0 to 1, over the last second, as its driver says: 1 does not mean that
        /// it could do no more. A slice of a GPU (MIG) has no such figure, nor has a CPU.
        device_utilization_ratio: Gauge { device: Fact } merge PerProcess,
        /// Share of time in which the GPU's memory was read or written, 0 to 1, over the last second. Not for slices.
        device_memory_busy_ratio: Gauge { device: Fact } merge PerProcess,
        /// Temperature of the GPU; of a slice: of the GPU that it is part of.
        device_temperature_celsius: Gauge { device: Fact } merge PerProcess,
        /// What the GPU draws; of a slice: what the whole GPU draws.
        device_power_watts: Gauge { device: Fact } merge PerProcess,
        /// Batches for which the device had no memory left. They are split and tried again.
        device_oom_total: Counter { device: Fact } merge Sum,
        /// What an hour of the device costs, in whatever currency, as the workers were told; the mean over those that were.
        device_price_per_hour: Gauge { device: Fact } merge Mean,
        /// Busy share of all processors of the host, 0 to 1, over the last second; the mean over the fleet's workers.
        host_cpu_ratio: Gauge {} merge Mean,
        /// Memory in use on the host, caches not counted; the fullest host.
        host_memory_used_bytes: Gauge {} merge Max,
        /// Absolute difference between the clock of the host and the broker's; the largest of the fleet.
        clock_offset_seconds: Gauge {} merge Max,
        /// Times the NATS client dropped messages because this process did not take them fast enough.
        slow_consumer_total: Counter {} merge Sum,
    }
}
