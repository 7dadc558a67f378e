//! The queue: how much waits, how long, what came out of it, and how its broker is.

use super::ask::{CHOSEN, aggregators_per_second, buckets, now, of, per_second, quantile, ratio};
use super::limits::{Limit, Limits};
use super::model::{Dashboard, Panel, Row, Unit, Variable};
use crate::promql;

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-queue",
        title: "forebay / Queue (Queue Analysis)",
        description: "Depth, age and waiting times; what was refused, repeated or put aside; the broker and its store.",
        tags: &["queue"],
        variables: &[Variable::Model],
        rows: vec![depth(limits), waiting(), flow(), recovery(limits), asynchronous(), broker(limits)],
        from: "now-1h",
    }
}

fn depth(limits: &Limits) -> Row {
    let pending = |by: &[&str]| now(by, &of("forebay_queue_pending", ""));
    let capacity = now(&["model"], &of("forebay_queue_capacity", ""));
    Row::new(
        "Depth",
        vec![
            Panel::timeseries(
                "Waiting",
                "Jobs that somebody waits for; the alerts' limits. And jobs of lanes for which nobody does.",
                Unit::Count,
            )
            .query("{{model}}", now(&["model"], &of("forebay_queue_pending", &limits.prompt_lanes)))
            .query("{{model}} for later", now(&["model"], &of("forebay_queue_pending", &limits.other_lanes)))
            .limit(limits.backlog),
            Panel::stacked("Waiting by lane", "Jobs that wait for a worker.", Unit::Count)
                .query("{{lane}}", pending(&["lane"])),
            Panel::timeseries(
                "Age of the oldest",
                "Seconds since the oldest job was published, at most. The limit is for jobs that somebody waits for.",
                Unit::Seconds,
            )
            .query(
                "{{model}} {{lane}}",
                format!("max by (model, lane) ({})", promql::gauge(&of("forebay_queue_oldest_age_seconds", ""))),
            )
            .limit(limits.oldest_age),
            Panel::timeseries(
                "Queue utilization",
                "Jobs that wait, as a share of what the queue is sure to hold.",
                Unit::Ratio,
            )
            .query("{{model}}", ratio(&pending(&["model"]), &capacity))
            .limit(limits.queue_utilization),
            Panel::timeseries("In flight", "Jobs delivered to a worker and not yet acknowledged.", Unit::Count)
                .query("{{model}} {{lane}}", now(&["model", "lane"], &of("forebay_queue_in_flight", ""))),
            Panel::timeseries("Messages", "Messages at the broker; each holds 1 to 32 jobs.", Unit::Count)
                .query("{{model}} {{state}}", now(&["model", "state"], &of("forebay_queue_messages", ""))),
        ],
    )
}

fn waiting() -> Row {
    let name = "forebay_queue_wait_seconds";
    Row::new(
        "Waiting time",
        vec![
            Panel::timeseries("Queue wait", "Seconds from enqueue to the start of the batch.", Unit::Seconds)
                .query("P50 {{schema}}", quantile(0.5, name, CHOSEN, &[]))
                .query("P95 {{schema}}", quantile(0.95, name, CHOSEN, &[]))
                .query("P99 {{schema}}", quantile(0.99, name, CHOSEN, &[])),
            Panel::timeseries("P95 wait by lane", "Seconds from enqueue to the start of the batch.", Unit::Seconds)
                .query("{{lane}} {{schema}}", quantile(0.95, name, CHOSEN, &["lane"])),
            Panel::heatmap("Wait Distribution", "Jobs per second, by how long they waited.", Unit::Seconds)
                .query("{{le}}", buckets(name, CHOSEN)),
        ],
    )
}

fn flow() -> Row {
    let arriving = per_second(&["model"], &of("forebay_jobs_admitted_total", ""));
    let able = format!(
        "({} * {})",
        now(&["model"], &of("forebay_workers", r#"state="ready""#)),
        now(&["model"], &of("forebay_worker_capacity_jobs_per_second", ""))
    );
    Row::new(
        "Throughput",
        vec![
            Panel::timeseries(
                "Jobs in and out",
                "Jobs per second, of requests and of what is stored.",
                Unit::PerSecond,
            )
            .query("admitted: {{source}}", per_second(&["source"], &of("forebay_jobs_admitted_total", "")))
            .query("processed", per_second(&[], &of("forebay_queue_processed_total", "")))
            .query("rejected", per_second(&[], &of("forebay_queue_rejected_total", ""))),
            Panel::timeseries(
                "Workers, and how many there should be",
                "Workers that are ready, and those that the model should have.",
                Unit::Count,
            )
            .query("{{model}} ready", now(&["model"], &of("forebay_workers", r#"state="ready""#)))
            .query("{{model}} desired", now(&["model"], &of("forebay_desired_workers", "")))
            .more("forebay-gateway"),
            Panel::timeseries(
                "Load",
                "Jobs that arrive, as a share of what the workers that are ready can do.",
                Unit::Ratio,
            )
            .query("{{model}}", ratio(&arriving, &able)),
            Panel::stacked("Jobs finished", "Jobs per second, by outcome.", Unit::PerSecond)
                .query("{{outcome}}", format!("{} > 0", per_second(&["outcome"], &of("forebay_jobs_total", "")))),
            Panel::timeseries(
                "Refused at the door",
                "Requests per second, by what was missing.",
                Unit::RequestsPerSecond,
            )
            .query("{{reason}}", per_second(&["reason"], &of("forebay_admission_refused_total", ""))),
            Panel::timeseries(
                "Publishes that failed",
                "Messages per second that the broker did not take.",
                Unit::PerSecond,
            )
            .query("{{reason}}", per_second(&["reason"], "forebay_queue_publish_errors_total")),
        ],
    )
}

fn recovery(limits: &Limits) -> Row {
    let given_back = "forebay_recovery_seconds_bucket";
    Row::new(
        "Repeated, dropped, put aside",
        vec![
            Panel::timeseries(
                "Delivered again",
                "Jobs per second that a worker had been given before.",
                Unit::PerSecond,
            )
            .query("{{model}}", per_second(&["model"], &of("forebay_redelivered_total", ""))),
            Panel::timeseries(
                "Dropped before they ran",
                "Jobs per second whose time was over, or that nobody wanted any more.",
                Unit::PerSecond,
            )
            .query("{{model}} expired", per_second(&["model"], &of("forebay_expired_total", "")))
            .query("{{model}} cancelled", per_second(&["model"], &of("forebay_cancelled_total", ""))),
            Panel::timeseries("Dead letters", "Jobs that were put aside and are still kept.", Unit::Count)
                .query("kept", format!("max({})", promql::gauge("forebay_dead_letters")))
                .limit(limits.dead_letters),
            Panel::timeseries("Put aside", "Jobs per second that became dead letters.", Unit::PerSecond).query(
                "{{model}} {{reason}}",
                per_second(&["model", "reason"], &of("forebay_dead_lettered_total", "")),
            ),
            Panel::timeseries(
                "Time to give work back",
                "P99 over an hour: seconds from the loss of a worker until its work was in the queue again.",
                Unit::Seconds,
            )
            .query("P99", format!("histogram_quantile(0.99, sum by (le) (increase({given_back}[1h])))"))
            .query("deliveries given back per second", aggregators_per_second(&[], "forebay_recovery_naks_total"))
            .unit_of("deliveries given back per second", Unit::PerSecond),
            Panel::timeseries(
                "Work",
                "Seconds of devices per second: saved by not running jobs; answers that nobody waited for.",
                Unit::Number,
            )
            .query("saved: {{reason}}", per_second(&["reason"], "forebay_work_saved_seconds_total"))
            .query("answers too late, per second", per_second(&[], "forebay_replies_duplicate_total")),
        ],
    )
}

fn asynchronous() -> Row {
    Row::new(
        "Asynchronous jobs and batches",
        vec![
            Panel::timeseries("Asynchronous jobs", "Jobs whose records are kept, by state.", Unit::Count)
                .query("{{state}}", format!("max by (state) ({})", promql::gauge("forebay_async_jobs")))
                .query("rows that wait: {{model}}", now(&["model"], &of("forebay_async_waiting_rows", ""))),
            Panel::timeseries("Webhooks", "Calls per second, by what became of them.", Unit::PerSecond)
                .query("{{outcome}}", per_second(&["outcome"], "forebay_webhook_deliveries_total")),
            Panel::timeseries("Lines of batches", "Lines per second, by how they ended.", Unit::PerSecond)
                .query("{{end}}", per_second(&["end"], "forebay_batch_lines_total")),
        ],
    )
}

fn broker(limits: &Limits) -> Row {
    let store = |kind: &str| promql::gauge(&format!(r#"forebay_broker_store_bytes{{kind="{kind}"}}"#));
    Row::new(
        "Broker",
        vec![
            Panel::timeseries("Broker answers", "1 while the broker answers an aggregator's questions.", Unit::Number)
                .query("{{instance}}", "min by (instance) (forebay_broker_up)")
                .limit(Limit::crit_below(1.0))
                .max(1.0),
            Panel::timeseries(
                "Store",
                "Bytes of the broker's account, and its limits where there are any.",
                Unit::Bytes,
            )
            .query("{{kind}}", format!("max by (kind) ({})", promql::gauge("forebay_broker_store_bytes"))),
            Panel::timeseries("Bytes by model", "Bytes of each model's stream.", Unit::Bytes)
                .query("{{model}}", now(&["model"], &of("forebay_queue_bytes", ""))),
            Panel::timeseries("Writes that failed", "Writes per second that the broker did not take.", Unit::PerSecond)
                .query("{{kind}}", per_second(&["kind"], "forebay_store_write_errors_total"))
                .query("{{instance}}", aggregators_per_second(&["instance"], "forebay_broker_write_errors_total")),
            Panel::timeseries(
                "Store in use",
                "Share of the limit of the broker's file store, where it has one.",
                Unit::Ratio,
            )
            .query("files", format!("max({}) / max({} > 0)", store("file_used"), store("file_limit")))
            .limit(limits.store),
            Panel::timeseries(
                "Figures of the broker itself",
                "Messages per second through nats-server, from its exporter.",
                Unit::PerSecond,
            )
            .query("in {{instance}}", r#"rate(gnatsd_varz_in_msgs{job="nats"}[$__rate_interval])"#)
            .query("out {{instance}}", r#"rate(gnatsd_varz_out_msgs{job="nats"}[$__rate_interval])"#),
        ],
    )
}
