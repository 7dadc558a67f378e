use super::{Alert, critical, info, warning};
use crate::values::{Values, Wait};

pub fn alerts(values: &Values) -> Vec<Alert> {
    let mut alerts = ours(values);
    alerts.extend(prometheus(values));
    alerts.extend(alertmanager(values));
    alerts
}

fn ours(values: &Values) -> Vec<Alert> {
    let limits = &values.monitoring;
    vec![
        info(
            "ForebayWatchdog",
            "vector(1)",
            &Wait::none(),
            [
                "Alerts arrive",
                "This alert always fires ({{ $value }}). Whoever does not hear of it hears of no other either.",
            ],
        ),
        critical(
            "ForebayAggregatorDown",
            r#"absent(up{job="forebay-aggregator"} == 1)"#,
            &limits.aggregator_down.wait,
            [
                "No aggregator answers",
                "Prometheus reaches no aggregator ({{ $value }}): nothing is known of the fleet, and most alerts are blind.",
            ],
        ),
        warning(
            "ForebayAggregatorStale",
            // Each aggregator for itself.
            r#"rate(forebay_reports_total{result="applied"}[1m]) == 0"#,
            &limits.aggregator_stale.wait,
            [
                "An aggregator hears of nobody",
                "The aggregator at {{ $labels.instance }} takes {{ $value }} reports per second: its figures stand still.",
            ],
        ),
        warning(
            "ForebayMetricsIncomplete",
            format!(
                "sum without (result) (increase(forebay_reports_total{{result=~\"malformed|version|folded\"}}[15m])) > {0}\nor\nsum without (reason) (increase(forebay_series_dropped_total[15m])) > {0}",
                limits.refused.above
            ),
            &limits.refused.wait,
            [
                "The fleet's figures are not complete",
                "The aggregator at {{ $labels.instance }} left out {{ $value | humanize }} reports or series in 15 minutes.",
            ],
        ),
        warning(
            "ForebayTargetMissing",
            r#"absent(up{job="forebay", role="api"})"#,
            &limits.missing.wait,
            ["Prometheus knows no api", "The aggregators list no api to scrape ({{ $value }})."],
        ),
        warning(
            "ForebayExporterDown",
            r#"up{job=~"node|cadvisor|dcgm|nats|grafana"} == 0"#,
            &limits.exporter_down.wait,
            [
                "An exporter does not answer",
                "{{ $labels.job }} at {{ $labels.instance }} does not answer Prometheus (up is {{ $value }}).",
            ],
        ),
    ]
}

fn prometheus(values: &Values) -> Vec<Alert> {
    let wait = &values.monitoring.unhealthy.wait;
    vec![
        warning(
            "ForebayPrometheusConfigReloadFailed",
            "prometheus_config_last_reload_successful == 0",
            wait,
            [
                "Prometheus goes on with an old configuration",
                "Prometheus at {{ $labels.instance }} could not read its configuration again (last reload: {{ $value }}).",
            ],
        ),
        warning(
            "ForebayPrometheusRuleFailures",
            "sum by (instance, rule_group) (increase(prometheus_rule_evaluation_failures_total[5m])) > 0",
            wait,
            [
                "Rules fail",
                "{{ $value | humanize }} evaluations of {{ $labels.rule_group }} failed in 5 minutes: its alerts may be blind.",
            ],
        ),
        warning(
            "ForebayPrometheusNotificationsDropped",
            "sum by (instance) (increase(prometheus_notifications_dropped_total[5m])) > 0",
            wait,
            [
                "Prometheus cannot tell of alerts",
                "Prometheus at {{ $labels.instance }} dropped {{ $value | humanize }} notifications in 5 minutes.",
            ],
        ),
        warning(
            "ForebayPrometheusStorageFailing",
            "sum by (instance) (\n  increase(prometheus_tsdb_compactions_failed_total[1h])\n  + increase(prometheus_tsdb_wal_truncations_failed_total[1h])\n  + increase(prometheus_tsdb_wal_corruptions_total[1h])\n) > 0",
            wait,
            [
                "Prometheus cannot store what it reads",
                "The storage of Prometheus at {{ $labels.instance }} counts failures, within an hour: {{ $value | humanize }}.",
            ],
        ),
    ]
}

fn alertmanager(values: &Values) -> Vec<Alert> {
    let limits = &values.monitoring;
    vec![
        critical(
            "ForebayAlertmanagerDown",
            "up{job=\"alertmanager\"} == 0\nor\nprometheus_notifications_alertmanagers_discovered == 0",
            &limits.unhealthy.wait,
            [
                "There is no Alertmanager",
                "{{ $labels.job }} at {{ $labels.instance }} finds no Alertmanager that answers ({{ $value }}).",
            ],
        ),
        warning(
            "ForebayAlertmanagerConfigReloadFailed",
            "alertmanager_config_last_reload_successful == 0",
            &limits.unhealthy.wait,
            [
                "Alertmanager goes on with an old configuration",
                "Alertmanager at {{ $labels.instance }} could not read its configuration again (last reload: {{ $value }}).",
            ],
        ),
        warning(
            "ForebayAlertmanagerNotificationsFailing",
            format!(
                "sum by (instance, integration) (rate(alertmanager_notifications_failed_total[5m]))\n/\n(sum by (instance, integration) (rate(alertmanager_notifications_total[5m])) > 0)\n  > {}",
                limits.notifications.above
            ),
            &limits.notifications.wait,
            [
                "Messages about alerts are not delivered",
                "{{ $value | humanizePercentage }} of the messages to {{ $labels.integration }} fail.",
            ],
        ),
    ]
}
