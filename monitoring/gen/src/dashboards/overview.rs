//! The first page: is everything well, and if not, which page tells more?

use super::ask::{CHOSEN, FAULTS, now, of, or_zero, quantile, ratio};
use super::limits::{Limit, Limits};
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-overview",
        title: "forebay / Overview",
        description: "Whether everything is well. Every panel leads to the page that tells more.",
        tags: &["overview"],
        variables: &[Variable::Model],
        rows: vec![health(limits), traffic(limits), queue(limits), resources(limits)],
        from: "now-1h",
    }
}

fn health(limits: &Limits) -> Row {
    Row::new(
        "Health",
        vec![
            Panel::stat("Firing alerts", "Alerts of forebay that fire now, warnings and worse.", Unit::Count)
                .query(
                    "",
                    or_zero(r#"count(ALERTS{stack="forebay", alertstate="firing", severity=~"critical|warning"})"#),
                )
                .limit(Limit::warn_above(1.0)),
            Panel::stat("Processes down", "Apis, workers and aggregators that do not answer a scrape.", Unit::Count)
                .query("", r#"sum(1 - up{job=~"forebay|forebay-aggregator"})"#)
                .limit(Limit::crit_above(1.0))
                .more("forebay-gateway"),
            Panel::stat("Workers ready", "Workers that serve a chosen model now.", Unit::Count)
                .query("", now(&[], &of("forebay_workers", r#"state="ready""#)))
                .limit(Limit::crit_below(1.0))
                .more("forebay-gateway"),
            Panel::stat("Models loaded", "Models that are loaded and warm, counted once for each worker.", Unit::Count)
                .query("", now(&[], "forebay_models_loaded"))
                .more("forebay-models"),
            Panel::stat("Broker", "Whether the broker answered the aggregator's last question.", Unit::Count)
                .query("", format!("min({})", promql::gauge("forebay_broker_up")))
                .map("0", "down", "red")
                .map("1", "up", "green")
                .more("forebay-queue"),
            Panel::stat(
                "Dead letters",
                "Jobs that were put aside and are still kept: `forebay dead list`.",
                Unit::Count,
            )
            .query("", format!("max({})", promql::gauge("forebay_dead_letters")))
            .limit(limits.dead_letters)
            .more("forebay-queue"),
            Panel::table(
                "Pod status and health",
                "Every process that is scraped: a pod in Kubernetes, a container in compose, else a process.",
                Unit::Number,
                &[("process", "Process"), ("role", "Role"), ("instance", "Instance"), ("Value", "State")],
            )
            .query("", r#"sum by (process, role, instance) (up{job=~"forebay|forebay-aggregator"})"#)
            .map("0", "down", "red")
            .map("1", "up", "green")
            .size(12, 8)
            .more("forebay-gateway"),
            Panel::timeseries("Workers by state", "Silent: three reports were missed without a goodbye.", Unit::Count)
                .query("{{state}}", now(&["state"], &of("forebay_workers", "")))
                .query("desired", now(&[], &of("forebay_desired_workers", "")))
                .size(12, 8)
                .more("forebay-gateway"),
        ],
    )
}

fn traffic(limits: &Limits) -> Row {
    let http = r#"forebay_http_requests_total{route!~"/health.*|/metrics"}"#;
    let faults = r#"forebay_http_requests_total{route!~"/health.*|/metrics", status=~"5.."}"#;
    let sum = |series: &str| format!("sum({})", promql::rate(series, "5m"));
    Row::new(
        "Traffic",
        vec![
            Panel::timeseries(
                "Request rate (5m average)",
                "HTTP requests per second, without health checks and scrapes; and inference requests per second.",
                Unit::RequestsPerSecond,
            )
            .query("HTTP", sum(http))
            .query("inference", sum(&of("forebay_requests_total", "")))
            .more("forebay-red"),
            Panel::timeseries(
                "API latency percentiles (P95, P99)",
                "Seconds from an inference request to its complete answer.",
                Unit::Seconds,
            )
            .query("P95", quantile(0.95, "forebay_request_duration_seconds", CHOSEN, &[]))
            .query("P99", quantile(0.99, "forebay_request_duration_seconds", CHOSEN, &[]))
            .limit(limits.latency)
            .more("forebay-red"),
            Panel::timeseries(
                "5xx error rate",
                "Share of HTTP requests answered with 5xx, and of inference requests that failed by our fault.",
                Unit::Ratio,
            )
            .query("5xx", ratio(&or_zero(&sum(faults)), &sum(http)))
            .query(
                "inference",
                ratio(&sum(&of("forebay_requests_total", FAULTS)), &sum(&of("forebay_requests_total", ""))),
            )
            .limit(limits.http_errors)
            .more("forebay-red"),
        ],
    )
}

fn queue(limits: &Limits) -> Row {
    let rate = |name: &str| format!("sum({})", promql::rate(&of(name, ""), "5m"));
    let hits = rate("forebay_cache_hits_total");
    let looked_up = format!("({hits} + {})", rate("forebay_cache_misses_total"));
    Row::new(
        "Queue, inference, cache",
        vec![
            Panel::timeseries(
                "Request queue depth",
                "Jobs that somebody waits for; the alerts' limits. And jobs of lanes for which nobody does.",
                Unit::Count,
            )
            .query("{{model}}", now(&["model"], &of("forebay_queue_pending", &limits.prompt_lanes)))
            .query("{{model}} for later", now(&["model"], &of("forebay_queue_pending", &limits.other_lanes)))
            .limit(limits.backlog)
            .more("forebay-queue"),
            Panel::timeseries("Inference latency (P95)", "Seconds that the model takes for one batch.", Unit::Seconds)
                .query("{{model}} {{schema}}", quantile(0.95, "forebay_inference_seconds", CHOSEN, &["model"]))
                .more("forebay-batching"),
            Panel::timeseries("Cache hit rate", "Share of rows that were not computed.", Unit::Ratio)
                .query("hit rate", ratio(&hits, &looked_up))
                .max(1.0)
                .limit(limits.cache_hits)
                .more("forebay-cache"),
        ],
    )
}

fn resources(limits: &Limits) -> Row {
    Row::new(
        "Resources",
        vec![
            Panel::timeseries("Pod memory usage", "Resident memory of every process.", Unit::Bytes)
                .query(
                    "{{process}} {{instance}}",
                    r#"process_resident_memory_bytes{job=~"forebay|forebay-aggregator"}"#,
                )
                .limit(limits.memory)
                .size(12, 8)
                .more("forebay-resources"),
            Panel::timeseries(
                "Pod CPU usage",
                "Processor seconds per second of every process; 1 is one core.",
                Unit::Number,
            )
            .query(
                "{{process}} {{instance}}",
                r#"rate(process_cpu_seconds_total{job=~"forebay|forebay-aggregator"}[$__rate_interval])"#,
            )
            .limit(limits.cpu)
            .size(12, 8)
            .more("forebay-resources"),
        ],
    )
}
