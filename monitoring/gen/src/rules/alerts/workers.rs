use super::{Alert, critical, warning};
use crate::promql;
use crate::rules::ask::{sum_gauge, sum_increase, sum_rate};
use crate::values::Values;

pub fn alerts(values: &Values) -> Vec<Alert> {
    let limits = &values.workers;
    let (errors, anomalies) = (&limits.inference_errors, &limits.output_anomalies);
    let said_nothing = sum_rate("model", "forebay_output_anomalies_total", "5m");
    vec![
        critical(
            "ForebayPodDown",
            r#"up{job=~"forebay|forebay-aggregator"} == 0"#,
            &limits.down.wait,
            [
                "A process does not answer",
                "{{ with $labels.process }}{{ . }}{{ else }}{{ $labels.job }}{{ end }} at {{ $labels.instance }} does not answer Prometheus, and has not left on purpose (up is {{ $value }}).",
            ],
        ),
        warning(
            "ForebayWorkerSilent",
            format!("{} == 0", promql::gauge("forebay_worker_up")),
            &limits.silent.wait,
            [
                "A worker is silent",
                "{{ $labels.worker }}, which serves {{ $labels.model }} on {{ $labels.device }}, sends no reports and has not said goodbye (worker_up is {{ $value }}).",
            ],
        ),
        critical(
            "ForebayNoWorker",
            no_worker(),
            &limits.none.wait,
            [
                "A model has no worker",
                "No worker of {{ $labels.model }} is ready, and one is needed: by waiting jobs, refused requests or instead of a silent worker ({{ $value | humanize }}).",
            ],
        ),
        warning(
            "ForebayProcessRestarting",
            format!(
                "sum by (job, role, process, instance) (\n  changes(process_start_time_seconds{{job=~\"forebay|forebay-aggregator\"}}[15m])\n) >= {}",
                limits.restarts.above
            ),
            &limits.restarts.wait,
            [
                "A process starts again and again",
                "{{ with $labels.process }}{{ . }}{{ else }}{{ $labels.job }}{{ end }} at {{ $labels.instance }} was started {{ $value }} times in 15 minutes.",
            ],
        ),
        warning(
            "ForebayModelLoadErrors",
            format!(
                "{} > {}",
                sum_increase("model", "forebay_model_load_errors_total", "15m"),
                limits.load_errors.above
            ),
            &limits.load_errors.wait,
            ["A model cannot be loaded", "Failed loads of {{ $labels.model }} in 15 minutes: {{ $value | humanize }}."],
        ),
        warning(
            "ForebayInferenceErrors",
            format!(
                "forebay:model:inference_errors:rate5m\n/\n(forebay:model:inference_errors:rate5m + forebay:model:batches:rate5m)\n  > {}\nand\nforebay:model:inference_errors:rate5m > {}",
                errors.above, errors.min_per_second
            ),
            &errors.wait,
            [
                "Batches cannot be computed",
                "{{ $value | humanizePercentage }} of the batches of {{ $labels.model }} end with an error of the engine.",
            ],
        ),
        critical(
            "ForebayOutputAnomalies",
            format!(
                "{said_nothing}\n/\n(forebay:model:rows:rate5m > 0)\n  > {}\nand\n{said_nothing} > {}",
                anomalies.above, anomalies.min_per_second
            ),
            &anomalies.wait,
            [
                "A model answers and says nothing",
                "{{ $value | humanizePercentage }} of the rows of {{ $labels.model }} are zeros, no numbers, or the same for different inputs.",
            ],
        ),
        warning(
            "ForebayClockOffset",
            format!("{} > {}", promql::gauge("forebay_clock_offset_seconds"), limits.clock_offset.above),
            &limits.clock_offset.wait,
            [
                "A host's clock is wrong",
                "The clock of a host and the broker's are {{ $value | humanizeDuration }} apart.",
            ],
        ),
    ]
}

/// Something asks for the model, and nobody is ready: jobs wait, requests are refused, or a worker fell silent. A model that
/// was scaled down to nothing and that nobody asks for is well.
fn no_worker() -> String {
    format!(
        "(\n  forebay:model:queue_pending:sum > 0\n  or\n  {} > 0\n  or\n  {} > 0\n)\nunless\nforebay:model:workers_ready:sum > 0",
        sum_increase("model", r#"forebay_admission_refused_total{reason="no_worker"}"#, "2m").replace('\n', "\n  "),
        sum_gauge("model", r#"forebay_workers{state="silent"}"#).replace('\n', "\n  "),
    )
}
