use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::{Lane, ModelName};
use crate::metrics::{Descriptor, Kind, Merge, Method, Outcome, Route, Status};

fn reported() -> impl Iterator<Item = &'static Descriptor> {
    ApiMetrics::TABLE.iter().chain(WorkerMetrics::TABLE)
}

#[test]
fn no_name_is_served_by_two_views() {
    let own: BTreeSet<_> = AggregatorMetrics::TABLE.iter().map(|metric| metric.stem).collect();
    assert!(reported().all(|metric| !own.contains(metric.stem)), "a stem is merged and computed");
    let prefixed =
        |stem: &&str| stem.starts_with("api_") || stem.starts_with("worker_last_") || stem.starts_with("forebay");
    assert!(!reported().map(|metric| metric.stem).any(|stem| prefixed(&stem)), "a fleet name reads like a process'");
}

#[test]
fn a_stem_of_two_roles_means_the_same_in_both() {
    let mut seen: BTreeMap<&str, &Descriptor> = BTreeMap::new();
    for metric in reported() {
        let Some(other) = seen.insert(metric.stem, metric) else { continue };
        assert_eq!((metric.kind, metric.merge, metric.schema_id()), (other.kind, other.merge, other.schema_id()));
        assert!(metric.labels.iter().map(|label| label.name).eq(other.labels.iter().map(|label| label.name)));
        assert_eq!(metric.help(), other.help());
    }
}

#[test]
fn names_follow_the_conventions() {
    for metric in reported().chain(AggregatorMetrics::TABLE) {
        assert_eq!(metric.kind == Kind::Counter, metric.stem.ends_with("_total"), "{}", metric.stem);
        assert_eq!(metric.kind == Kind::Histogram, !metric.buckets.is_empty(), "{}", metric.stem);
        assert!(metric.buckets.is_sorted(), "{}", metric.stem);
        assert!(metric.help().ends_with('.'), "{}", metric.stem);
        assert!(metric.kind == Kind::Gauge || matches!(metric.merge, Merge::Sum | Merge::Own), "{}", metric.stem);
    }
    assert!(reported().all(|metric| metric.merge != Merge::Own), "a process reports what only the aggregator computes");
    assert!(AggregatorMetrics::TABLE.iter().all(|metric| metric.merge == Merge::Own));
}

#[test]
fn a_registered_model_starts_at_zero_and_an_unregistered_one_is_unknown() {
    let metrics = WorkerMetrics::new();
    let model = ModelName::from("mini");
    metrics.register_model(&model);
    let page = metrics.render();
    assert!(page.contains("forebay_worker_jobs_total{model=\"mini\",outcome=\"quota_exceeded\"} 0\n"), "{page}");
    assert!(page.contains("forebay_worker_queue_wait_seconds_count{lane=\"low\",model=\"mini\"} 0\n"), "{page}");
    assert!(!page.contains("model_training_loss"), "a loss of 0 would be a statement");

    metrics.jobs_total.with(&("what a client typed".into(), Outcome::Ok)).inc();
    metrics.jobs_total.with(&("something else".into(), Outcome::Ok)).inc();
    metrics.jobs_total.with(&(model, Outcome::Ok)).inc_by(3);
    let page = metrics.render();
    assert!(page.contains("forebay_worker_jobs_total{model=\"unknown\",outcome=\"ok\"} 2\n"), "{page}");
    assert!(page.contains("forebay_worker_jobs_total{model=\"mini\",outcome=\"ok\"} 3\n"), "{page}");
    assert!(!page.contains("typed"));
}

#[test]
fn every_endpoint_carries_the_standard_process_metrics() {
    for page in [ApiMetrics::new().render(), WorkerMetrics::new().render(), AggregatorMetrics::new().render()] {
        assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
        assert!(page.contains("\nprocess_cpu_seconds_total "), "{page}");
    }
}

#[test]
fn a_status_is_bounded_and_an_odd_method_is_other() {
    let metrics = ApiMetrics::new();
    for status in [999, 7] {
        metrics.http_requests_total.with(&(Method::from("BREW"), Route("/v1/models"), Status(status))).inc();
    }
    let page = metrics.render();
    assert!(page.contains("{method=\"other\",route=\"/v1/models\",status=\"other\"} 2\n"), "{page}");
}

#[test]
fn replacing_a_gauge_family_removes_what_is_gone() {
    let metrics = AggregatorMetrics::new();
    let model = ModelName::from("mini");
    metrics.register_model(&model);
    let lane = |lane| (model.clone(), lane);
    metrics.queue_pending.replace([(lane(Lane::High), 1.0), (lane(Lane::Low), 2.0)]);
    metrics.queue_pending.replace([(lane(Lane::High), 5.0)]);
    let page = metrics.render();
    assert!(page.contains("forebay_queue_pending{lane=\"high\",model=\"mini\"} 5\n"), "{page}");
    assert!(!page.contains("lane=\"low\""), "{page}");
}

#[test]
fn series_are_ordered_by_what_they_are_not_by_when_they_came() {
    let names = |order: [&'static str; 2]| {
        let metrics = ApiMetrics::new();
        for route in order {
            metrics.http_requests_total.with(&(Method::Get, Route(route), Status(200))).inc();
        }
        metrics.registry().series().iter().map(|one| (one.descriptor.stem, one.values.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(["/a", "/b"]), names(["/b", "/a"]));
}
