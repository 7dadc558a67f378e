use super::{Alert, critical, warning};
use crate::promql;
use crate::rules::ask::sum_increase;
use crate::values::Values;

pub fn alerts(values: &Values) -> Vec<Alert> {
    let limits = &values.queue;
    let backlog = "forebay:model:queue_backlog:sum";
    let waiting =
        ["More jobs wait than should", "{{ $value | humanize }} jobs wait for a worker of {{ $labels.model }}."];
    let oldest = |operator: &str| {
        let lanes = format!(r#"forebay_queue_oldest_age_seconds{{lane{operator}"{}"}}"#, limits.lanes.join("|"));
        format!("max by (model, lane) (\n  {}\n)", promql::gauge(&lanes))
    };
    let redelivered = &limits.redeliveries;
    vec![
        critical(
            "ForebayQueueCritical",
            format!("{backlog} > {}", limits.critical.above),
            &limits.critical.wait,
            waiting,
        ),
        warning("ForebayQueueBacklog", format!("{backlog} > {}", limits.backlog.above), &limits.backlog.wait, waiting),
        warning(
            "ForebayQueueGrowing",
            format!("deriv({backlog}[10m]) > 0\nand\n{backlog} > {}", limits.growing.above),
            &limits.growing.wait,
            [
                "More jobs arrive than are done",
                "The queue of {{ $labels.model }} grows by {{ printf \"%.3g\" $value }} jobs per second.",
            ],
        ),
        warning(
            "ForebayQueueNearlyFull",
            format!("forebay:model:queue:utilization > {}", limits.utilization.above),
            &limits.utilization.wait,
            [
                "A queue is nearly full",
                "The queue of {{ $labels.model }} is {{ $value | humanizePercentage }} full. When it is full, requests get 503.",
            ],
        ),
        warning(
            "ForebayQueueOldestJob",
            format!("{} > {}\nor\n{} > {}", oldest("=~"), limits.oldest.above, oldest("!~"), limits.oldest_low.above),
            // The shorter wait; the other lanes' limit is far beyond it.
            &limits.oldest.wait,
            [
                "A job waits for long",
                "The oldest job for {{ $labels.model }} in lane {{ $labels.lane }} is {{ $value | humanizeDuration }} old.",
            ],
        ),
        warning(
            "ForebayDeadLetters",
            format!("{} > {}", promql::gauge("forebay_dead_letters"), limits.dead_letters.above),
            &limits.dead_letters.wait,
            [
                "Jobs were put aside",
                "{{ $value | humanize }} jobs ended the workers that ran them, and wait for somebody who looks at them.",
            ],
        ),
        warning(
            "ForebayRedeliveriesRising",
            format!(
                "{} > {}\nand\nforebay:model:redelivered:rate10m\n  > {} * avg_over_time(forebay:model:redelivered:rate10m[1d])",
                sum_increase("model", "forebay_redelivered_total", "10m"),
                redelivered.above,
                redelivered.factor
            ),
            &redelivered.wait,
            [
                "More jobs are delivered again",
                "{{ $value | humanize }} jobs for {{ $labels.model }} were delivered again in 10 minutes: much more than usual.",
            ],
        ),
    ]
}
