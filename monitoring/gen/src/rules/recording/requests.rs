//! What clients see: rate, errors, duration.

use crate::rules::ask::{quantile, ratio, sum_rate};
use crate::rules::model::{Group, Rule, group, record};

/// Routes that clients use; probes and scrapes would thin out every share.
const HTTP_ANSWERS: &str = r#"route!~"/health.*|/metrics""#;

/// Of these, the routes that answer as soon as they can: no long polls, no event streams, no uploads.
const HTTP_WAITS_NOT: &str = r#"route!~"/health.*|/metrics|/v1/jobs/.*|/v1/files.*""#;

/// Outcomes that are our fault: clients' errors, limits and quotas are not.
const FAILED: &str = r#"outcome=~"failed|overloaded|deadline_exceeded""#;

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

fn quantiles(level: &str, by: &str, name: &str, matchers: &str) -> impl Iterator<Item = Rule> {
    let stem = name.trim_start_matches("forebay_");
    QUANTILES
        .map(|(label, q)| record(format!("forebay:{level}:{stem}:{label}_5m"), quantile(q, by, name, matchers, "5m")))
        .into_iter()
}

pub fn requests() -> Group {
    let mut rules = vec![
        record(
            "forebay:model_task_outcome:requests:rate5m",
            sum_rate("model, task, outcome", "forebay_requests_total", "5m"),
        ),
        record("forebay:model:requests:rate5m", sum_rate("model", "forebay_requests_total", "5m")),
        record(
            "forebay:model:requests_failed:rate5m",
            sum_rate("model", &format!("forebay_requests_total{{{FAILED}}}"), "5m"),
        ),
        record(
            "forebay:model:requests_failed:ratio5m",
            ratio("forebay:model:requests_failed:rate5m", "forebay:model:requests:rate5m"),
        ),
        record("forebay:model:predictions:rate5m", sum_rate("model", "forebay_predictions_total", "5m")),
        record("forebay:model_kind:tokens:rate5m", sum_rate("model, kind", "forebay_tokens_total", "5m")),
        record(
            "forebay:tenant_outcome:requests:rate5m",
            sum_rate("tenant, outcome", "forebay_tenant_requests_total", "5m"),
        ),
    ];
    rules.extend(quantiles("model", "model", "forebay_request_duration_seconds", ""));
    group("forebay-requests", rules)
}

pub fn http() -> Group {
    let of = |matchers: &str| format!("forebay_http_requests_total{{{matchers}}}");
    let failed = format!(r#"{HTTP_ANSWERS}, status=~"5..""#);
    let mut rules = vec![
        record(
            "forebay:route_status:http_requests:rate5m",
            sum_rate("route, status", "forebay_http_requests_total", "5m"),
        ),
        record("forebay:route:http_requests:rate5m", sum_rate("route", "forebay_http_requests_total", "5m")),
        record("forebay:fleet:http_requests:rate5m", sum_rate("", &of(HTTP_ANSWERS), "5m")),
        // There is no series of a status before its first answer; then it is 0 and not nothing.
        record(
            "forebay:fleet:http_requests_5xx:rate5m",
            format!("{}\nor\n0 * forebay:fleet:http_requests:rate5m", sum_rate("", &of(&failed), "5m")),
        ),
        record(
            "forebay:fleet:http_requests_5xx:ratio5m",
            ratio("forebay:fleet:http_requests_5xx:rate5m", "forebay:fleet:http_requests:rate5m"),
        ),
        record("forebay:fleet:http_requests_prompt:rate5m", sum_rate("", &of(HTTP_WAITS_NOT), "5m")),
    ];
    rules.extend(quantiles("route", "route", "forebay_http_request_duration_seconds", ""));
    let prompt = format!("{{{HTTP_WAITS_NOT}}}");
    rules.extend(quantiles("fleet", "", "forebay_http_request_duration_seconds", &prompt));
    group("forebay-http", rules)
}

/// What is compared with yesterday and last week.
pub fn history() -> Group {
    let rules = vec![
        record("forebay:model:requests:rate1h", sum_rate("model", "forebay_requests_total", "1h")),
        record(
            "forebay:model:request_duration_seconds:p95_1h",
            quantile(0.95, "model", "forebay_request_duration_seconds", "", "1h"),
        ),
    ];
    Group { interval: Some("1m"), ..group("forebay-history", rules) }
}
