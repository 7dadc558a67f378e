use super::*;

fn fails(query: &str) -> String {
    check(query, &BTreeSet::from(["forebay:known:rate5m".to_owned()])).unwrap_err().to_string()
}

fn passes(query: &str) {
    check(query, &BTreeSet::from(["forebay:known:rate5m".to_owned()])).unwrap();
}

#[test]
fn queries_that_the_tables_can_answer_pass() {
    passes(&format!("sum by (model) ({})", rate(r#"forebay_requests_total{outcome="ok", model="a"}"#, "5m")));
    passes(&quantile(0.95, "forebay_request_duration_seconds", r#"{model=~"$model"}"#, "5m", &["model"]));
    passes(&mean("forebay_batch_size", "", "5m", &["model"]));
    passes(&gauge("forebay_queue_pending"));
    passes("forebay:known:rate5m > 5 and on (model) forebay_dead_letters offset 1h");
    passes(r#"up{job="forebay-aggregator"} == 0"#);
    passes(r#"forebay_worker_batch_size_count{process="worker-1"} / on (instance) group_left (x) other_total"#);
    passes(r#"increase(forebay_requests_total{outcome=~"failed|overloaded"}[1h]) > bool 3"#);
}

#[test]
fn unknown_names_labels_and_values_do_not() {
    assert!(fails("rate(forebay_request_total[5m])").contains("no table has `forebay_request_total`"));
    assert!(fails("forebay_batch_size").contains("no table has"));
    assert!(fails("forebay_queue_pending_bucket").contains("no table has"));
    assert!(fails("forebay_api_batch_size_count").contains("no table has"));
    assert!(fails(r#"forebay_requests_total{status="200"}"#).contains("no label `status`"));
    assert!(fails(r#"forebay_requests_total{outcome=~"ok|error"}"#).contains("never `error`"));
    assert!(fails("sum by (modell) (forebay_queue_pending)").contains("label `modell`"));
    assert!(fails("forebay:unknown:rate5m").contains("no rule records"));
}

#[test]
fn selectors_are_found_with_their_matchers() {
    let found =
        selectors(r#"sum by (le) (rate(a_b{x="1",y=~"p|q"}[5m])) / on (z) c:d{w="}\""} > 0.5 or 1e3 * e_total"#);
    let names: Vec<_> = found.iter().map(|selector| selector.name).collect();
    assert_eq!(names, ["a_b", "c:d", "e_total"]);
    assert_eq!(found[0].matchers, [("x", vec!["1"]), ("y", vec!["p", "q"])]);
}
