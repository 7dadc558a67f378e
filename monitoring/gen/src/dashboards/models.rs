//! Each model by itself: how much it is asked, how well it answers, what it takes.

use super::ask::{CHOSEN, FAULTS, now, of, per_second, quantile, ratio};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-models",
        title: "forebay / Models (Model Performance)",
        description: "Latency, throughput and errors of each model; versions, size and loading.",
        tags: &["models"],
        variables: &[Variable::Model],
        rows: vec![performance(limits), compute(), loading(limits)],
        from: "now-1h",
    }
}

fn performance(limits: &Limits) -> Row {
    let faults = per_second(&["model"], &of("forebay_requests_total", FAULTS));
    let all = per_second(&["model"], &of("forebay_requests_total", ""));
    Row::new(
        "Requests",
        vec![
            Panel::timeseries("Requests by model", "Inference requests per second.", Unit::RequestsPerSecond)
                .query("{{model}}", all.clone()),
            Panel::timeseries("P95 latency by model", "Seconds from a request to its complete answer.", Unit::Seconds)
                .query("{{model}} {{schema}}", quantile(0.95, "forebay_request_duration_seconds", CHOSEN, &["model"]))
                .limit(limits.latency),
            Panel::timeseries("Errors by model", "Share of requests that failed by our fault.", Unit::Ratio)
                .query("{{model}}", ratio(&faults, &all))
                .limit(limits.model_errors),
            Panel::timeseries(
                "Predictions by model",
                "Rows per second that were answered with a result.",
                Unit::PerSecond,
            )
            .query("{{model}}", per_second(&["model"], &of("forebay_predictions_total", ""))),
            Panel::timeseries("Tokens by model", "Tokens per second of answered requests.", Unit::PerSecond)
                .query("{{model}} {{kind}}", per_second(&["model", "kind"], &of("forebay_tokens_total", ""))),
            Panel::timeseries(
                "Waiting by model",
                "Jobs that somebody waits for; the alerts' limits. And jobs of lanes for which nobody does.",
                Unit::Count,
            )
            .query("{{model}}", now(&["model"], &of("forebay_queue_pending", &limits.prompt_lanes)))
            .query("{{model}} for later", now(&["model"], &of("forebay_queue_pending", &limits.other_lanes)))
            .limit(limits.backlog)
            .more("forebay-queue"),
        ],
    )
}

fn compute() -> Row {
    let seconds = per_second(&["model"], &of("forebay_inference_seconds_sum", ""));
    let rows = per_second(&["model"], &of("forebay_rows_total", ""));
    Row::new(
        "Inference",
        vec![
            Panel::timeseries("Inference P50 by model", "Seconds that the model takes for one batch.", Unit::Seconds)
                .query("{{model}} {{schema}}", quantile(0.5, "forebay_inference_seconds", CHOSEN, &["model"])),
            Panel::timeseries("Inference P95 by model", "Seconds that the model takes for one batch.", Unit::Seconds)
                .query("{{model}} {{schema}}", quantile(0.95, "forebay_inference_seconds", CHOSEN, &["model"])),
            Panel::timeseries(
                "Time per row",
                "Seconds of a device for one row: what batching makes small.",
                Unit::Seconds,
            )
            .query("{{model}}", ratio(&seconds, &rows)),
            Panel::timeseries(
                "Devices at work",
                "Seconds of devices per second; 1 is one device that is never idle.",
                Unit::Number,
            )
            .query("{{model}}", seconds)
            .more("forebay-resources"),
            Panel::timeseries("Inference errors", "Batches per second that could not be computed.", Unit::PerSecond)
                .query("{{model}} {{kind}}", per_second(&["model", "kind"], &of("forebay_inference_errors_total", ""))),
            Panel::timeseries(
                "Answers that say nothing",
                "Rows per second: zeros, one value, or no number.",
                Unit::PerSecond,
            )
            .query("{{model}} {{kind}}", per_second(&["model", "kind"], &of("forebay_output_anomalies_total", ""))),
        ],
    )
}

fn loading(limits: &Limits) -> Row {
    let name = "forebay_model_load_duration_seconds";
    // Loads are rare: a rate over a minute would show none.
    let loads = |suffix: &str| format!("sum by (model) ({})", promql::gauge(&of(&format!("{name}_{suffix}"), "")));
    Row::new(
        "Versions, size, loading",
        vec![
            Panel::table(
                "Versions in service",
                "Which version of a model runs on what.",
                Unit::Number,
                &[
                    ("model", "Model"),
                    ("version", "Version"),
                    ("architecture", "Architecture"),
                    ("dtype", "Numbers"),
                    ("device", "Device"),
                ],
            )
            .query("", promql::gauge(&of("forebay_model_info", "")))
            .size(16, 8),
            Panel::timeseries("Workers by model", "Workers that serve the model, by their state.", Unit::Count)
                .query("{{model}} {{state}}", now(&["model", "state"], &of("forebay_workers", "")))
                .more("forebay-gateway"),
            Panel::timeseries("Model size", "Bytes of the weights in the memory of one worker.", Unit::Bytes)
                .query("{{model}}", promql::gauge(&of("forebay_model_size_bytes", ""))),
            Panel::timeseries(
                "Mean load time",
                "Seconds from the start of loading to the end of the warm-up, over all loads.",
                Unit::Seconds,
            )
            .query("{{model}}", ratio(&loads("sum"), &loads("count"))),
            Panel::timeseries(
                "Loads that failed",
                "Attempts to load a model that failed, in the last 15 minutes.",
                Unit::Count,
            )
            .query("{{model}}", super::ask::grown(&["model"], &of("forebay_model_load_errors_total", ""), "15m"))
            .limit(limits.load_errors),
        ],
    )
}
