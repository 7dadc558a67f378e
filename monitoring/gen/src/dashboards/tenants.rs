//! Who asks for how much, and what it costs.

use super::ask::{grown, per_second};
use super::cost;
use super::model::{Dashboard, Panel, Row, Unit, Variable};

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "forebay-tenants",
        title: "forebay / Tenants and cost (Business Metrics)",
        description: "Requests, tokens and device time of each tenant that has API keys, and what they cost.",
        tags: &["tenants", "cost"],
        variables: &[Variable::Tenant, Variable::Model],
        rows: vec![requests(), use_of_devices(), cost::of_models(), cost::of_tenants()],
        from: "now-24h",
    }
}

/// The series of a metric for the chosen tenants.
pub fn theirs(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(r#"{name}{{tenant=~"$tenant"{comma}{more}}}"#)
}

fn requests() -> Row {
    let refused = r#"outcome=~"rate_limited|quota_exceeded""#;
    Row::new(
        "Requests and tokens",
        vec![
            Panel::stacked(
                "Requests per customer",
                "Requests per second of each tenant, whatever they were for.",
                Unit::RequestsPerSecond,
            )
            .query("{{tenant}}", per_second(&["tenant"], &theirs("forebay_tenant_requests_total", ""))),
            Panel::stacked(
                "Tokens per hour",
                "Tokens that each tenant was charged for in an hour, as the model counted them.",
                Unit::Count,
            )
            .query("{{tenant}}", grown(&["tenant"], &theirs("forebay_tenant_tokens_total", ""), "1h")),
            Panel::timeseries(
                "Over their limits",
                "Requests per second that were refused by rate or quota.",
                Unit::RequestsPerSecond,
            )
            .query(
                "{{tenant}} {{outcome}}",
                per_second(&["tenant", "outcome"], &theirs("forebay_tenant_requests_total", refused)),
            ),
            Panel::timeseries(
                "Requests without a valid key",
                "Requests per second that were answered with 401.",
                Unit::RequestsPerSecond,
            )
            .query("refused", per_second(&[], "forebay_auth_failures_total")),
            Panel::timeseries("Tokens per hour by model", "Tokens of answered requests in an hour.", Unit::Count)
                .query(
                    "{{model}} {{kind}}",
                    grown(&["model", "kind"], r#"forebay_tokens_total{model=~"$model"}"#, "1h"),
                ),
            Panel::timeseries(
                "Failed requests per customer",
                "Requests per second that failed by our fault.",
                Unit::RequestsPerSecond,
            )
            .query("{{tenant}}", per_second(&["tenant"], &theirs("forebay_tenant_requests_total", super::ask::FAULTS))),
        ],
    )
}

fn use_of_devices() -> Row {
    let device_seconds = theirs("forebay_tenant_device_seconds_total", r#"model=~"$model""#);
    Row::new(
        "Use of devices",
        vec![
            Panel::stacked(
                "Devices at work per customer",
                "Seconds of devices per second; 1 is one device.",
                Unit::Number,
            )
            .query("{{tenant}}", per_second(&["tenant"], &device_seconds)),
            Panel::bar_gauge(
                "Outcomes in the time on display",
                "Requests of all chosen tenants, by outcome.",
                Unit::Count,
            )
            .query("{{outcome}}", grown(&["outcome"], &theirs("forebay_tenant_requests_total", ""), "$__range")),
            Panel::table(
                "In the time on display",
                "Sums over the time that the dashboard shows.",
                Unit::Count,
                &[
                    ("tenant", "Tenant"),
                    ("Value #A", "Requests"),
                    ("Value #B", "Tokens"),
                    ("Value #C", "Device seconds"),
                ],
            )
            .query("", grown(&["tenant"], &theirs("forebay_tenant_requests_total", ""), "$__range"))
            .query("", grown(&["tenant"], &theirs("forebay_tenant_tokens_total", ""), "$__range"))
            .query("", grown(&["tenant"], &device_seconds, "$__range"))
            .unit_of("Device seconds", Unit::Seconds),
        ],
    )
}
