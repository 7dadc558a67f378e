//! Rate, errors, duration of what clients see, and the two failures that the three do not show: silence and creep.

use super::ask::{CHOSEN, buckets, mean, of, or_zero, per_second, quantile, ratio};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

/// Requests that are answered as soon as they can be: not those that wait for a job's end on purpose.
const PROMPT: &str = r#"route!~"/health.*|/metrics|/v1/jobs/.*|/v1/files.*""#;
/// Requests of clients: health checks and scrapes are not theirs.
const CLIENTS: &str = r#"route!~"/health.*|/metrics""#;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-red",
        title: "forebay / API (Inference Service Health)",
        description: "Rate, errors and duration of what clients asked, and failures that look like success.",
        tags: &["api", "red"],
        variables: &[Variable::Model],
        rows: vec![rate(), errors(limits), duration(limits), budget(limits), silent(limits)],
        from: "now-1h",
    }
}

fn requests(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!("forebay_http_requests_total{{{CLIENTS}{comma}{more}}}")
}

fn rate() -> Row {
    Row::new(
        "Rate",
        vec![
            Panel::stacked("Requests by route", "HTTP requests per second.", Unit::RequestsPerSecond)
                .query("{{method}} {{route}}", format!("{} > 0", per_second(&["method", "route"], &requests("")))),
            Panel::stacked("Requests by status", "HTTP requests per second.", Unit::RequestsPerSecond)
                .query("{{status}}", format!("{} > 0", per_second(&["status"], &requests("")))),
            Panel::timeseries(
                "Predictions",
                "Rows of input per second that were answered with a result.",
                Unit::PerSecond,
            )
            .query("{{model}} {{task}}", per_second(&["model", "task"], &of("forebay_predictions_total", ""))),
        ],
    )
}

fn errors(limits: &Limits) -> Row {
    let all = per_second(&[], &requests(""));
    let share = |status: &str| ratio(&or_zero(&per_second(&[], &requests(status))), &all);
    let outcomes = of("forebay_requests_total", r#"outcome!="ok""#);
    Row::new(
        "Errors",
        vec![
            Panel::timeseries("Error rate (5xx)", "Share of HTTP requests that were answered with 5xx.", Unit::Ratio)
                .query("5xx", share(r#"status=~"5..""#))
                .limit(limits.http_errors),
            Panel::timeseries(
                "Refused requests (4xx)",
                "Share of HTTP requests that were answered with 4xx.",
                Unit::Ratio,
            )
            .query("4xx", share(r#"status=~"4..""#)),
            Panel::stacked(
                "Inference requests without a result",
                "Inference requests per second that were not answered with a result, by the reason.",
                Unit::RequestsPerSecond,
            )
            .query("{{outcome}}", per_second(&["outcome"], &outcomes)),
        ],
    )
}

fn duration(limits: &Limits) -> Row {
    let name = "forebay_http_request_duration_seconds";
    let prompt = format!("{{{PROMPT}}}");
    Row::new(
        "Duration",
        vec![
            Panel::timeseries(
                "Latency",
                "Seconds from the head of a request to its complete answer, without waits for stored jobs.",
                Unit::Seconds,
            )
            .query("P50 {{schema}}", quantile(0.5, name, &prompt, &[]))
            .query("P95 {{schema}}", quantile(0.95, name, &prompt, &[]))
            .query("P99 {{schema}}", quantile(0.99, name, &prompt, &[]))
            .limit(limits.http_latency),
            Panel::timeseries("P95 by route", "Seconds that 95 of 100 requests of a route stay below.", Unit::Seconds)
                .query("{{method}} {{route}} {{schema}}", quantile(0.95, name, &prompt, &["method", "route"])),
            Panel::heatmap("Latency Distribution", "Requests per second, by how long they took.", Unit::Seconds)
                .query("{{le}}", buckets(name, &prompt)),
        ],
    )
}

/// How fast the budget of errors is used up, as the rules record it: the windows are too long to ask each time.
fn budget(limits: &Limits) -> Row {
    let burn = |panel: Panel, of: &str| {
        let rate = |window: &str| format!(r#"forebay:model:slo_{of}:burn_rate{window}{{model=~"$model"}}"#);
        let query = |panel: Panel, window: &str| panel.query(&format!("{{{{model}}}} {window}"), rate(window));
        query(query(query(panel, "1h"), "6h"), "3d").limit(limits.burn).width(12)
    };
    let how = "How many times faster than allowed the budget of 30 days is used up.";
    Row::new(
        "Error budget",
        vec![
            burn(Panel::timeseries("Burn rate: availability", how, Unit::Number), "availability"),
            burn(Panel::timeseries("Burn rate: latency", how, Unit::Number), "latency"),
        ],
    )
}

/// What a dashboard of rate, errors and duration does not show.
fn silent(limits: &Limits) -> Row {
    let p95 = |back: &str| {
        let series = format!("{}[15m]{back}", of("forebay_request_duration_seconds_bucket", ""));
        format!("histogram_quantile(0.95, sum by (le) (max without (instance, job) (rate({series}))))")
    };
    let info = promql::gauge(&of("forebay_model_info", ""));
    Row::new(
        "What rate, errors and duration do not show",
        vec![
            Panel::timeseries(
                "P95 today, yesterday, last week",
                "A service that slowly gets slower: the same hour, one and seven days ago.",
                Unit::Seconds,
            )
            .query("now", p95(""))
            .query("yesterday", p95(" offset 1d"))
            .query("last week", p95(" offset 7d"))
            .limit(limits.latency),
            Panel::timeseries(
                "Answers that say nothing",
                "Rows per second that the model answered without an error: zeros, one value, or no number.",
                Unit::PerSecond,
            )
            .query("{{model}} {{kind}}", per_second(&["model", "kind"], &of("forebay_output_anomalies_total", ""))),
            Panel::table(
                "Models in service",
                "Which version of a model runs on what.",
                Unit::Number,
                &[("model", "Model"), ("version", "Version"), ("dtype", "Numbers"), ("device", "Device")],
            )
            .query("", info)
            .more("forebay-models"),
            Panel::timeseries("Mean latency", "Mean seconds from an inference request to its answer.", Unit::Seconds)
                .query("{{model}} {{task}}", mean("forebay_request_duration_seconds", CHOSEN, &["model", "task"]))
                .width(12),
            Panel::timeseries("Requests in progress", "HTTP requests being served at this moment.", Unit::Count)
                .query("requests", super::ask::now(&[], "forebay_http_requests_in_progress"))
                .width(12),
        ],
    )
}
