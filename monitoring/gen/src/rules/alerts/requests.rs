use super::{Alert, info, warning};
use crate::rules::ask::sum_rate;
use crate::values::Values;

pub fn alerts(values: &Values) -> Vec<Alert> {
    let limits = &values.requests;
    let (p95, p99, http, model) = (&limits.p95, &limits.p99, &limits.http_errors, &limits.model_errors);
    let (cache, refusals) = (&limits.cache_hits, &limits.deadline_refusals);
    let refused = sum_rate("model", r#"forebay_admission_refused_total{reason="deadline"}"#, "5m");
    let of_tenant = |outcome: &str, above: f64| {
        format!(r#"forebay:tenant_outcome:requests:rate5m{{outcome="{outcome}"}} > {above}"#)
    };
    vec![
        warning(
            "ForebayHighLatency",
            format!(
                "forebay:model:request_duration_seconds:p95_5m > {}\nand\nforebay:model:requests:rate5m > {}",
                p95.above, p95.min_per_second
            ),
            &p95.wait,
            [
                "Requests take too long",
                "The slowest 5 % of the requests to {{ $labels.model }} take longer than {{ $value | humanizeDuration }}.",
            ],
        ),
        Alert {
            by_email: true,
            ..warning(
                "ForebayP99Latency",
                format!(
                    "forebay:fleet:http_request_duration_seconds:p99_5m > {}\nand\nforebay:fleet:http_requests_prompt:rate5m > {}",
                    p99.above, p99.min_per_second
                ),
                &p99.wait,
                [
                    "One request in a hundred takes too long",
                    "The slowest 1 % of HTTP requests take longer than {{ $value | humanizeDuration }}.",
                ],
            )
        },
        warning(
            "ForebayHighErrorRate",
            format!(
                "forebay:fleet:http_requests_5xx:ratio5m > {}\nand\nforebay:fleet:http_requests_5xx:rate5m > {}",
                http.above, http.min_per_second
            ),
            &http.wait,
            ["Requests end with 5xx", "{{ $value | humanizePercentage }} of HTTP requests end with 5xx."],
        ),
        warning(
            "ForebayModelErrors",
            format!(
                "forebay:model:requests_failed:ratio5m > {}\nand\nforebay:model:requests_failed:rate5m > {}",
                model.above, model.min_per_second
            ),
            &model.wait,
            [
                "Requests to a model fail",
                "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} fail, find no capacity or are too late.",
            ],
        ),
        warning(
            "ForebayDeadlineRefusals",
            // Jobs on both sides: those that were refused, and those that ran.
            format!(
                "{refused}\n/\n(\n  {}\n  + forebay:model:jobs:rate5m\n) > {}\nand\n{refused} > {}",
                refused.replace('\n', "\n  "),
                refusals.above,
                refusals.min_per_second
            ),
            &refusals.wait,
            [
                "Jobs are refused because they would be too late",
                "{{ $value | humanizePercentage }} of the jobs for {{ $labels.model }} are refused: their deadline cannot be met.",
            ],
        ),
        warning(
            "ForebayLatencyCreep",
            creep(values),
            &limits.creep.wait,
            [
                "Requests take longer than yesterday and a week ago",
                "The slowest 5 % of the last hour's requests to {{ $labels.model }} took longer than {{ $value | humanizeDuration }}: much longer than at the same hour yesterday and a week ago.",
            ],
        ),
        info(
            "ForebayRateLimitExceeded",
            of_tenant("rate_limited", limits.rate_limited.above),
            &limits.rate_limited.wait,
            [
                "A tenant sends more than it may",
                "{{ printf \"%.3g\" $value }} requests per second of {{ $labels.tenant }} are refused: over its limit.",
            ],
        ),
        warning(
            "ForebayQuotaExceeded",
            of_tenant("quota_exceeded", limits.quota_exceeded.above),
            &limits.quota_exceeded.wait,
            [
                "A tenant has used up its quota",
                "{{ printf \"%.3g\" $value }} requests per second of {{ $labels.tenant }} are refused: its tokens of today are used up.",
            ],
        ),
        info(
            "ForebayCacheHitRateLow",
            format!(
                "forebay:model:cache_hits:ratio5m < {}\nand\nforebay:model:cache_lookups:rate5m > {}",
                cache.below, cache.min_per_second
            ),
            &cache.wait,
            [
                "The response cache seldom helps",
                "The cache answers {{ $value | humanizePercentage }} of the rows for {{ $labels.model }}.",
            ],
        ),
    ]
}

/// Against the same hour of yesterday and of last week; silent while one of the three had little to do.
fn creep(values: &Values) -> String {
    let creep = &values.requests.creep;
    let (p95, rate) = ("forebay:model:request_duration_seconds:p95_1h", "forebay:model:requests:rate1h");
    let (factor, least) = (creep.factor, creep.min_per_second);
    format!(
        "{p95} > {factor} * ({p95} offset 1d)\nand\n{p95} > {factor} * ({p95} offset 1w)\nand\n{p95} > {}\n\
         and\n{rate} > {least}\nand\n{rate} offset 1d > {least}\nand\n{rate} offset 1w > {least}",
        creep.p95_above
    )
}
