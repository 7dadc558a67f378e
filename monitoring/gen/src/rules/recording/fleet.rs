//! Queue, workers and cache.

use crate::rules::ask::{quantile, ratio, sum_gauge, sum_rate};
use crate::rules::model::{Group, group, record};
use crate::values::Values;

pub fn queue(values: &Values) -> Group {
    let lanes = format!(r#"forebay_queue_pending{{lane=~"{}"}}"#, values.queue.lanes.join("|"));
    let jobs = "(forebay:model:queue_pending:sum + forebay:model:queue_in_flight:sum)";
    let rules = vec![
        record("forebay:model:queue_pending:sum", sum_gauge("model", "forebay_queue_pending")),
        record("forebay:model:queue_in_flight:sum", sum_gauge("model", "forebay_queue_in_flight")),
        // In the lanes that somebody waits for.
        record("forebay:model:queue_backlog:sum", sum_gauge("model", &lanes)),
        record("forebay:model:queue:utilization", ratio(jobs, &sum_gauge("model", "forebay_queue_capacity"))),
        record(
            "forebay:model_lane:queue_wait_seconds:p95_5m",
            quantile(0.95, "model, lane", "forebay_queue_wait_seconds", "", "5m"),
        ),
        record("forebay:model:admission_refused:rate5m", sum_rate("model", "forebay_admission_refused_total", "5m")),
    ];
    group("forebay-queue", rules)
}

pub fn workers() -> Group {
    let mut rules = vec![
        record("forebay:model:jobs:rate5m", sum_rate("model", "forebay_jobs_total", "5m")),
        record("forebay:model:rows:rate5m", sum_rate("model", "forebay_rows_total", "5m")),
        record("forebay:model:batches:rate5m", sum_rate("model", "forebay_batch_size_count", "5m")),
        record("forebay:model:workers_ready:sum", sum_gauge("model", r#"forebay_workers{state="ready"}"#)),
        // How busy the devices of a model are: seconds of work per second and worker. 1 is all that they can do.
        record(
            "forebay:model:workers:saturation5m",
            ratio(&sum_rate("model", "forebay_inference_seconds_sum", "5m"), "forebay:model:workers_ready:sum"),
        ),
        record(
            "forebay:model:batch_size:mean5m",
            ratio(&sum_rate("model", "forebay_batch_size_sum", "5m"), "forebay:model:batches:rate5m"),
        ),
        record(
            "forebay:model:batch_fill_ratio:mean5m",
            ratio(&sum_rate("model", "forebay_batch_fill_ratio_sum", "5m"), "forebay:model:batches:rate5m"),
        ),
        record("forebay:model:inference_errors:rate5m", sum_rate("model", "forebay_inference_errors_total", "5m")),
        record("forebay:model:redelivered:rate10m", sum_rate("model", "forebay_redelivered_total", "10m")),
    ];
    for (label, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        rules.push(record(
            format!("forebay:model:inference_seconds:{label}_5m"),
            quantile(q, "model", "forebay_inference_seconds", "", "5m"),
        ));
    }
    group("forebay-workers", rules)
}

pub fn cache() -> Group {
    let rules = vec![
        record("forebay:model:cache_hits:rate5m", sum_rate("model", "forebay_cache_hits_total", "5m")),
        record(
            "forebay:model:cache_lookups:rate5m",
            format!("forebay:model:cache_hits:rate5m\n+\n{}", sum_rate("model", "forebay_cache_misses_total", "5m")),
        ),
        record(
            "forebay:model:cache_hits:ratio5m",
            ratio("forebay:model:cache_hits:rate5m", "forebay:model:cache_lookups:rate5m"),
        ),
    ];
    group("forebay-cache", rules)
}
