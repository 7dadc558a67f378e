use super::{Alert, critical, warning};
use crate::promql;
use crate::rules::ask::{sum_increase, sum_rate};
use crate::values::Values;

pub fn alerts(values: &Values) -> Vec<Alert> {
    let limits = &values.broker;
    let stored = |above: f64| format!("forebay:stream:broker_store:utilization > {above}");
    let calls =
        |outcomes: &str| sum_rate("", &format!(r#"forebay_webhook_deliveries_total{{outcome=~"{outcomes}"}}"#), "15m");
    let failed = calls("retried|given_up");
    vec![
        critical(
            "ForebayBrokerDown",
            format!("{} == 0", promql::gauge("forebay_broker_up")),
            &limits.down.wait,
            ["The broker does not answer", "No aggregator gets an answer from the broker (broker_up is {{ $value }})."],
        ),
        critical(
            "ForebayBrokerStoreFull",
            stored(limits.store_full.above),
            &limits.store_full.wait,
            [
                "The broker's store is full",
                "Store {{ $labels.stream }} of the broker is {{ $value | humanizePercentage }} full.",
            ],
        ),
        warning(
            "ForebayBrokerStoreFilling",
            stored(limits.store_filling.above),
            &limits.store_filling.wait,
            [
                "The broker's store fills up",
                "Store {{ $labels.stream }} of the broker is {{ $value | humanizePercentage }} full.",
            ],
        ),
        critical(
            "ForebayPersistenceWriteFailure",
            // A short window: errors must go on for the whole wait.
            format!(
                "{}\n+\n{} > {}",
                sum_rate("", "forebay_broker_write_errors_total", "2m"),
                sum_rate("", r#"forebay_queue_publish_errors_total{reason=~"timeout|no_stream|other"}"#, "2m"),
                limits.write_errors.above
            ),
            &limits.write_errors.wait,
            ["The broker does not write", "{{ printf \"%.3g\" $value }} writes to the broker fail per second."],
        ),
        warning(
            "ForebaySlowConsumer",
            format!("{} > {}", sum_increase("", "forebay_slow_consumer_total", "5m"), limits.slow_consumers.above),
            &limits.slow_consumers.wait,
            [
                "A process loses messages",
                "Processes were too slow for the broker's messages and lost some, {{ $value | humanize }} times in 5 minutes.",
            ],
        ),
        warning(
            "ForebayWebhooksFailing",
            format!(
                "{failed}\n/\n{} > {}\nand\n{failed} > {}",
                calls("delivered|retried|given_up"),
                limits.webhooks.above,
                limits.webhooks.min_per_second
            ),
            &limits.webhooks.wait,
            ["Webhooks fail", "{{ $value | humanizePercentage }} of the calls of webhooks fail."],
        ),
    ]
}
