//! One model and its machine at a glance: latency, requests, losses, processor, memory, checks of the input.

use super::ask::{CHOSEN, mean, now, of, per_second, quantile};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-ml-model",
        title: "forebay / ML Model",
        description: "One model and its machine at a glance.",
        tags: &["models"],
        variables: &[Variable::Model],
        rows: vec![model(limits), machine(limits), checks()],
        from: "now-1h",
    }
}

fn model(limits: &Limits) -> Row {
    let request = "forebay_request_duration_seconds";
    Row::new(
        "Model",
        vec![
            Panel::timeseries("Inference latency", "Seconds that the model takes for one batch.", Unit::Seconds)
                .query("mean {{model}}", mean("forebay_inference_seconds", CHOSEN, &["model"]))
                .query("P95 {{model}} {{schema}}", quantile(0.95, "forebay_inference_seconds", CHOSEN, &["model"])),
            Panel::timeseries("Request rate", "Inference requests per second, by outcome.", Unit::RequestsPerSecond)
                .query("{{outcome}}", format!("{} > 0", per_second(&["outcome"], &of("forebay_requests_total", "")))),
            Panel::timeseries("Response time", "Seconds from a request to its complete answer.", Unit::Seconds)
                .query("mean", mean(request, CHOSEN, &[]))
                .query("P95 {{schema}}", quantile(0.95, request, CHOSEN, &[]))
                .limit(limits.latency),
            Panel::timeseries(
                "Training loss",
                "Last loss, from the model folder's `trainer_state.json`.",
                Unit::Number,
            )
            .query("{{model}}", promql::gauge(&of("forebay_model_training_loss", "")))
            .decimals(4)
            .signed()
            .width(12),
            Panel::timeseries(
                "Validation loss",
                "Last loss, from the model folder's `trainer_state.json`.",
                Unit::Number,
            )
            .query("{{model}}", promql::gauge(&of("forebay_model_validation_loss", "")))
            .decimals(4)
            .signed()
            .width(12),
        ],
    )
}

fn machine(limits: &Limits) -> Row {
    Row::new(
        "Machine",
        vec![
            Panel::timeseries(
                "CPU usage",
                "Busy share of all processors of the hosts; the mean over the workers.",
                Unit::Ratio,
            )
            .query("busy", promql::gauge("forebay_host_cpu_ratio"))
            .max(1.0)
            .width(6),
            Panel::timeseries("RAM usage", "Memory in use on the fullest host, without caches.", Unit::Bytes)
                .query("used", promql::gauge("forebay_host_memory_used_bytes"))
                .width(6),
            Panel::timeseries("Device memory", "Memory in use on each device.", Unit::Bytes)
                .query("{{process}} {{device}}", promql::gauge(r#"forebay_device_memory_bytes{kind="used"}"#))
                .width(6)
                .more("forebay-resources"),
            Panel::timeseries("Jobs waiting", "Jobs that somebody waits for.", Unit::Count)
                .query("{{model}}", now(&["model"], &of("forebay_queue_pending", &limits.prompt_lanes)))
                .limit(limits.backlog)
                .width(6),
        ],
    )
}

fn checks() -> Row {
    let failed = r#"forebay_input_checks_total{result="failed"}"#;
    Row::new(
        "Validation",
        vec![
            Panel::timeseries(
                "Checks of inputs",
                "Checks per second, of all requests before they become jobs.",
                Unit::PerSecond,
            )
            .query("{{result}}", per_second(&["result"], "forebay_input_checks_total")),
            Panel::timeseries("Failed checks", "Inputs per second that failed a check.", Unit::PerSecond)
                .query("{{check}}", per_second(&["check"], failed)),
            Panel::table(
                "Checks now",
                "Whether an input failed the check in the last five minutes.",
                Unit::Number,
                &[("check", "Check"), ("Value", "State")],
            )
            .query("", format!("min by (check) ({})", promql::gauge("forebay_validation_checks")))
            .map("0", "failed", "orange")
            .map("1", "passed", "green"),
        ],
    )
}
