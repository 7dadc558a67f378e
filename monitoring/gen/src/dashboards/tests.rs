use super::model::{Panel, Row, Unit};
use super::*;

fn dashboards() -> Vec<Dashboard> {
    let values = Values::read(std::path::Path::new("../values.yml")).unwrap();
    all(&Limits::new(&values))
}

/// What one aggregator did, another did not: these are added, or told apart.
const OF_EACH_AGGREGATOR: [&str; 6] = [
    "forebay_recovery_",
    "forebay_reports_",
    "forebay_broker_up",
    "forebay_broker_write_errors_total",
    "forebay_worker_up",
    "forebay_device_price_per_hour",
];

#[test]
fn a_second_aggregator_doubles_no_number() {
    for dashboard in dashboards() {
        for (panel, query) in json::queries(&dashboard) {
            let of_fleet = query.contains("forebay_")
                && !["forebay_api_", "forebay_worker_"].iter().any(|of_process| query.contains(of_process));
            let of_each = OF_EACH_AGGREGATOR.iter().any(|name| query.contains(name));
            let is_deduplicated = query.contains("max without (instance, job)");
            assert!(!of_fleet || of_each || is_deduplicated || panel.from_logs, "`{}`: {query}", panel.title);
        }
    }
}

#[test]
fn panels_fill_their_lines_and_holes_are_errors() {
    for dashboard in dashboards() {
        grid::place(&dashboard).unwrap();
    }
    let mut dashboard = dashboards().remove(0);
    dashboard.rows = vec![Row::new("a", vec![Panel::stat("one", "", Unit::Count)])];
    assert!(grid::place(&dashboard).unwrap_err().to_string().contains("is 4 wide"));
    let high = Panel::stat("high", "", Unit::Count).size(20, 8);
    dashboard.rows[0].panels.push(high);
    assert!(grid::place(&dashboard).unwrap_err().to_string().contains("equally high"));
}

#[test]
fn a_query_with_an_unknown_name_ends_the_run() {
    let mut dashboard = dashboards().remove(0);
    let panel = Panel::stat("Wrong", "", Unit::Count).query("", "sum(forebay_requests_totall)");
    dashboard.rows[0].panels.push(panel);
    let error = format!("{:#}", page(&dashboard, &BTreeSet::new()).unwrap_err());
    assert!(error.contains("`Wrong` on forebay-overview") && error.contains("no table has"), "{error}");
}
