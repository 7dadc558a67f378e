//! How jobs become batches. The first nine panels have the names that the guide of dynamic batchers gives them.

use super::ask::{CHOSEN, FAULTS, buckets, mean, now, of, per_second, quantile, ratio};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-batching",
        title: "forebay / Batching (Inference API - Dynamic Batcher)",
        description: "How requests become batches, and what batching costs and brings.",
        tags: &["batching"],
        variables: &[Variable::Model],
        rows: vec![requests(limits), batches(limits), times(), more()],
        from: "now-1h",
    }
}

/// P50, P95 and P99 of a histogram.
fn percentiles(panel: Panel, name: &str) -> Panel {
    panel
        .query("P50 {{schema}}", quantile(0.5, name, CHOSEN, &[]))
        .query("P95 {{schema}}", quantile(0.95, name, CHOSEN, &[]))
        .query("P99 {{schema}}", quantile(0.99, name, CHOSEN, &[]))
}

fn requests(limits: &Limits) -> Row {
    let all = per_second(&[], &of("forebay_requests_total", ""));
    let faults = per_second(&[], &of("forebay_requests_total", FAULTS));
    let latency = Panel::timeseries(
        "Request Latency",
        "Seconds from an inference request to its complete answer, whatever the outcome.",
        Unit::Seconds,
    );
    Row::new(
        "Requests",
        vec![
            Panel::stacked("Request Rate", "Inference requests per second, by outcome.", Unit::RequestsPerSecond)
                .query("{{outcome}}", format!("{} > 0", per_second(&["outcome"], &of("forebay_requests_total", "")))),
            Panel::timeseries(
                "Error Rate",
                "Share of requests that failed by our fault: overloaded, past their deadline, failed.",
                Unit::Ratio,
            )
            .query("errors", ratio(&faults, &all))
            .limit(limits.model_errors),
            percentiles(latency, "forebay_request_duration_seconds").limit(limits.latency),
        ],
    )
}

fn batches(limits: &Limits) -> Row {
    Row::new(
        "Batches",
        vec![
            Panel::timeseries("Average Batch Size", "Rows in one batch.", Unit::Number)
                .query("{{model}}", mean("forebay_batch_size", CHOSEN, &["model"]))
                .decimals(1),
            Panel::timeseries(
                "Queue Size",
                "Jobs that somebody waits for; the alerts' limits. And jobs of lanes for which nobody does.",
                Unit::Count,
            )
            .query("{{model}}", now(&["model"], &of("forebay_queue_pending", &limits.prompt_lanes)))
            .query("{{model}} for later", now(&["model"], &of("forebay_queue_pending", &limits.other_lanes)))
            .limit(limits.backlog)
            .more("forebay-queue"),
            Panel::timeseries("Inflight Batches", "Batches on devices at this moment, over all models.", Unit::Count)
                .query("batches", now(&[], "forebay_batches_in_flight")),
        ],
    )
}

fn times() -> Row {
    let wait = Panel::timeseries(
        "Batch Wait Time",
        "Seconds from intake on the worker to the start of the batch.",
        Unit::Seconds,
    );
    let inference = Panel::timeseries(
        "Inference Time",
        "Seconds that the model takes for one batch, without waiting and without tokenising.",
        Unit::Seconds,
    );
    Row::new(
        "Time and size",
        vec![
            percentiles(wait, "forebay_batch_wait_seconds"),
            percentiles(inference, "forebay_inference_seconds"),
            Panel::heatmap("Batch Size Distribution", "Batches per second, by the number of their rows.", Unit::Number)
                .query("{{le}}", buckets("forebay_batch_size", CHOSEN)),
        ],
    )
}

fn more() -> Row {
    let tokenize = Panel::timeseries("Tokenise Time", "Seconds to tokenise the rows of one message.", Unit::Seconds);
    Row::new(
        "Why batches are as they are",
        vec![
            Panel::stacked("Why Batches Closed", "Batches per second, by what ended their waiting.", Unit::PerSecond)
                .query(
                    "{{reason}}",
                    format!("{} > 0", per_second(&["reason"], &of("forebay_batches_closed_total", ""))),
                ),
            Panel::timeseries(
                "Batch Fill",
                "How near batches come to their limit of tokens or rows: 1 is full.",
                Unit::Ratio,
            )
            .query("{{model}} mean", mean("forebay_batch_fill_ratio", CHOSEN, &["model"]))
            .max(1.0),
            Panel::timeseries("Tokens per Batch", "Mean number of tokens in one batch.", Unit::Number)
                .query("{{model}}", mean("forebay_batch_tokens", CHOSEN, &["model"]))
                .decimals(0),
            Panel::timeseries("Batches per Second", "How often devices start.", Unit::PerSecond)
                .query("{{model}}", per_second(&["model"], &of("forebay_batch_size_count", ""))),
            percentiles(tokenize, "forebay_tokenize_seconds"),
            Panel::timeseries(
                "Jobs per Message",
                "Mean number of jobs that travel together to a worker.",
                Unit::Number,
            )
            .query("{{model}}", mean("forebay_bundle_rows", CHOSEN, &["model"]))
            .decimals(1),
        ],
    )
}
