use crate::ids::{Lane, ModelName, TenantName};
use crate::metrics::labels::{
    BatchEnd, CallOutcome, Check, CheckResult, JobSource, JobState, LineEnd, Method, Outcome, PublishFault, Refusal,
    Route, Status, StoreWrite, Task, TokenKind,
};

crate::metrics::schema::metrics! {
    /// What one api process counts. `requests` are what a client sent, `jobs` are what the queue carries.
    pub struct ApiMetrics for Api {
        /// HTTP requests answered, by route template and status.
        http_requests_total: Counter { method: Method, route: Route, status: Status } merge Sum,
        /// Seconds from the head of a request to its complete answer, ready to be sent.
        http_request_duration_seconds: Histogram { method: Method, route: Route } buckets LATENCY_SECONDS merge Sum,
        /// HTTP requests being served at this moment.
        http_requests_in_progress: Gauge {} merge Sum,
        /// Inference requests finished, by outcome. Incremented once per request, when its answer is complete.
        requests_total: Counter { model: ModelName, task: Task, outcome: Outcome } merge Sum,
        /// Seconds from an inference request to its complete answer, whatever the outcome.
        request_duration_seconds: Histogram { model: ModelName, task: Task } buckets LATENCY_SECONDS merge Sum,
        /// Rows of input that were answered with a result.
        predictions_total: Counter { model: ModelName, task: Task } merge Sum,
        /// Tokens of answered requests, as the model counted them.
        tokens_total: Counter { model: ModelName, kind: TokenKind } merge Sum,
        /// Requests refused with 401: without a key, or with one that is not known.
        auth_failures_total: Counter {} merge Sum,
        /// Requests of a tenant, by outcome, whatever they were for. Only where API keys are configured.
        tenant_requests_total: Counter { tenant: TenantName, outcome: Outcome } merge Sum,
        /// Tokens that a tenant was charged for, as the model counted them. Only where API keys are configured.
        tenant_tokens_total: Counter { tenant: TenantName, kind: TokenKind } merge Sum,
        /// Seconds that devices computed for a tenant, as its answers say. Only where API keys are configured.
        tenant_device_seconds_total: FloatCounter { tenant: TenantName, model: ModelName } merge Sum,
        /// Seconds that devices computed for requests that were answered, as the answers say.
        device_seconds_total: FloatCounter { model: ModelName } merge Sum,
        /// Rows answered without computing them for this request: kept, or being computed for another.
        cache_hits_total: Counter { model: ModelName } merge Sum,
        /// Rows that were looked for in the cache and had to be computed.
        cache_misses_total: Counter { model: ModelName } merge Sum,
        /// Kept answers that had to make room.
        cache_evictions_total: Counter { model: ModelName } merge Sum,
        /// Bytes of kept answers.
        cache_size_bytes: Gauge {} merge Sum,
        /// Checks of requests before they become jobs. A check that another made pointless is not counted.
        input_checks_total: Counter { check: Check, result: CheckResult } merge Sum,
        /// Jobs admitted: what arrives at the queue. A request of several rows is as many jobs; a stored job that is tried
        /// again counts again.
        jobs_admitted_total: Counter { model: ModelName, source: JobSource } merge Sum,
        /// Jobs that found no room in the queue: refused at the door because too much waits, because they would be late or
        /// because a store is nearly full, or by the broker because its queue is full. Not stored jobs, which are tried again.
        queue_rejected_total: Counter { model: ModelName } merge Sum,
        /// Publishes of a bundle that the broker did not acknowledge.
        queue_publish_errors_total: Counter { reason: PublishFault } merge Sum,
        /// Requests refused at the door, before anything was published.
        admission_refused_total: Counter { model: ModelName, reason: Refusal } merge Sum,
        /// Writes to the broker that failed, other than because a queue is full or somebody else wrote first.
        store_write_errors_total: Counter { kind: StoreWrite } merge Sum,
        /// Answers that nobody waited for any more: the job was answered, cancelled or expired before. Work done twice
        /// or in vain, never seen by a client.
        replies_duplicate_total: Counter {} merge Sum,
        /// Jobs in one published message.
        bundle_rows: Histogram { model: ModelName } buckets ROWS merge Sum,
        /// Jobs admitted by an api and not yet acknowledged by the broker. Part of the queue's depth.
        unpublished_jobs: Gauge { model: ModelName, lane: Lane } merge Sum,
        /// Absolute difference between the clock of the host and the broker's; the largest of the fleet.
        clock_offset_seconds: Gauge {} merge Max,
        /// Times the NATS client dropped messages because this process did not take them fast enough.
        slow_consumer_total: Counter {} merge Sum,
        /// Asynchronous jobs by state, as long as their records are kept. Every api sees all of them.
        async_jobs: Gauge { state: JobState } merge Max,
        /// Rows of asynchronous jobs that wait and that nobody works on. Every api sees all of them.
        async_waiting_rows: Gauge { model: ModelName } merge Max,
        /// Calls of webhooks, by outcome; each try counts.
        webhook_deliveries_total: Counter { outcome: CallOutcome } merge Sum,
        /// Batches that ended, by how.
        batches_total: Counter { end: BatchEnd } merge Sum,
        /// Lines of batches that ended, each counted once: when the part that it is in is marked as done.
        batch_lines_total: Counter { end: LineEnd } merge Sum,
    }
}
