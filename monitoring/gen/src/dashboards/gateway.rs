//! Single processes: each api (the gateway) and each worker, from their own pages.

use super::ask::{aggregators_per_second, at, each_per_second, each_quantile, now};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-gateway",
        title: "forebay / Gateway and workers (API Gateway, ML Worker, ML Service)",
        description: "Each api and each worker by itself: which one is slow, idle, refused or gone?",
        tags: &["gateway", "workers"],
        variables: &[Variable::Instance],
        rows: vec![gateway(limits), quotas(), workers(), service(), fleet(limits)],
        from: "now-1h",
    }
}

const WHO: &str = "{{process}} {{instance}}";
const BY: [&str; 2] = ["process", "instance"];

fn chosen(more: &str) -> String {
    at("", more)
}

fn gateway(limits: &Limits) -> Row {
    let clients = r#"route!~"/health.*|/metrics""#;
    let faults = each_per_second(&BY, &at("forebay_api_http_requests_total", r#"status=~"5..""#));
    Row::new(
        "API Gateway: requests and latencies",
        vec![
            Panel::timeseries("Request rate by api", "HTTP requests per second of clients.", Unit::RequestsPerSecond)
                .query(WHO, each_per_second(&BY, &at("forebay_api_http_requests_total", clients))),
            Panel::timeseries("P95 latency by api", "Seconds from the head of a request to its answer.", Unit::Seconds)
                .query(WHO, each_quantile(0.95, "forebay_api_http_request_duration_seconds", &chosen(clients), &BY))
                .limit(limits.latency),
            Panel::timeseries(
                "5xx by api",
                "HTTP requests per second that were answered with 5xx.",
                Unit::RequestsPerSecond,
            )
            .query(WHO, format!("{faults} or 0 * sum by (process, instance) ({})", at("up", r#"role="api""#))),
            Panel::timeseries("Requests in progress by api", "HTTP requests being served now.", Unit::Count)
                .query(WHO, at("forebay_api_http_requests_in_progress", "")),
            Panel::timeseries("Jobs not yet at the broker", "Admitted by an api, not yet acknowledged.", Unit::Count)
                .query(WHO, format!("sum by (process, instance) ({})", at("forebay_api_unpublished_jobs", ""))),
            Panel::timeseries(
                "Publishes that failed",
                "Messages per second that the broker did not take.",
                Unit::PerSecond,
            )
            .query(
                "{{process}} {{reason}}",
                each_per_second(&["process", "reason"], &at("forebay_api_queue_publish_errors_total", "")),
            ),
        ],
    )
}

fn quotas() -> Row {
    let refused = r#"outcome=~"quota_exceeded|rate_limited|unauthorized""#;
    Row::new(
        "API Gateway: quotas and refusals",
        vec![
            Panel::timeseries(
                "Over quota or rate, or without a key",
                "Inference requests per second that were refused for who sent them.",
                Unit::RequestsPerSecond,
            )
            .query("{{outcome}}", each_per_second(&["outcome"], &at("forebay_api_requests_total", refused))),
            Panel::timeseries(
                "Refused at the door",
                "Requests per second for which there was no room or no time.",
                Unit::RequestsPerSecond,
            )
            .query("{{reason}}", each_per_second(&["reason"], &at("forebay_api_admission_refused_total", ""))),
            Panel::timeseries(
                "Inputs that failed a check",
                "Requests per second that were not valid.",
                Unit::RequestsPerSecond,
            )
            .query(
                "{{check}}",
                each_per_second(&["check"], &at("forebay_api_input_checks_total", r#"result="failed""#)),
            ),
        ],
    )
}

fn workers() -> Row {
    Row::new(
        "ML Worker: work done and waiting",
        vec![
            Panel::timeseries("Jobs by worker", "Jobs finished per second.", Unit::PerSecond)
                .query(WHO, each_per_second(&BY, &at("forebay_worker_jobs_total", ""))),
            Panel::timeseries("Tokens by worker", "Tokens that went through the model, per second.", Unit::PerSecond)
                .query(WHO, each_per_second(&BY, &at("forebay_worker_batch_tokens_sum", ""))),
            Panel::timeseries("Queue depth by model", "Jobs that wait for any worker of the model.", Unit::Count)
                .query("{{model}}", now(&["model"], "forebay_queue_pending"))
                .more("forebay-queue"),
            Panel::timeseries(
                "Jobs not finished by worker",
                "Jobs per second that ended without a result.",
                Unit::PerSecond,
            )
            .query(
                "{{process}} {{outcome}}",
                each_per_second(&["process", "outcome"], &at("forebay_worker_jobs_total", r#"outcome!="ok""#)),
            ),
            Panel::timeseries(
                "Delivered again",
                "Jobs per second that another worker had been given before.",
                Unit::PerSecond,
            )
            .query(WHO, each_per_second(&BY, &at("forebay_worker_redelivered_total", ""))),
            Panel::timeseries(
                "Errors of the engine",
                "Batches per second that could not be computed.",
                Unit::PerSecond,
            )
            .query(
                "{{process}} {{kind}}",
                each_per_second(&["process", "kind"], &at("forebay_worker_inference_errors_total", "")),
            ),
        ],
    )
}

fn service() -> Row {
    let busy = each_per_second(&BY, &at("forebay_worker_inference_seconds_sum", ""));
    let part = |suffix: &str| each_per_second(&BY, &at(&format!("forebay_worker_batch_size_{suffix}"), ""));
    Row::new(
        "ML Service: inference",
        vec![
            Panel::timeseries("Inference P95 by worker", "Seconds that the model takes for one batch.", Unit::Seconds)
                .query(WHO, each_quantile(0.95, "forebay_worker_inference_seconds", &chosen(""), &BY)),
            Panel::timeseries("Batch size by worker", "Mean rows in one batch.", Unit::Number)
                .query(WHO, format!("{} / ({} > 0)", part("sum"), part("count")))
                .decimals(1),
            Panel::timeseries("Device busy by worker", "Share of time that the device computes batches.", Unit::Ratio)
                .query(WHO, busy)
                .more("forebay-resources"),
        ],
    )
}

fn fleet(limits: &Limits) -> Row {
    let silence = format!("time() - {}", promql::gauge("forebay_worker_last_report_timestamp_seconds"));
    Row::new(
        "Fleet",
        vec![
            Panel::table(
                "Workers",
                "What the aggregator hears of. A worker that falls silent stays for 15 minutes.",
                Unit::Number,
                &[("worker", "Worker"), ("model", "Model"), ("device", "Device"), ("Value", "State")],
            )
            .query("", promql::gauge("forebay_worker_up"))
            .map("0", "silent", "red")
            .map("1", "up", "green")
            .size(8, 8),
            Panel::timeseries(
                "Age of last report",
                "Seconds since each worker reported. It does once a second.",
                Unit::Seconds,
            )
            .query("{{worker}}", silence),
            Panel::timeseries("Clock offset", "How far the clocks of hosts are from the broker's.", Unit::Seconds)
                .query(WHO, at("forebay_api_clock_offset_seconds", ""))
                .query(WHO, at("forebay_worker_clock_offset_seconds", ""))
                .limit(limits.clock_offset),
            Panel::timeseries(
                "Messages dropped",
                "Messages per second that a process took too slowly.",
                Unit::PerSecond,
            )
            .query(WHO, each_per_second(&BY, &at("forebay_api_slow_consumer_total", "")))
            .query(WHO, each_per_second(&BY, &at("forebay_worker_slow_consumer_total", ""))),
            Panel::timeseries("Reports", "Reports per second that each aggregator received.", Unit::PerSecond).query(
                "{{instance}} {{result}}",
                aggregators_per_second(&["instance", "result"], "forebay_reports_total"),
            ),
            Panel::timeseries("Age of the fleet's numbers", "How stale the aggregators' pages can be.", Unit::Seconds)
                .query("{{instance}}", "max by (instance) (forebay_reports_age_seconds)"),
        ],
    )
}
