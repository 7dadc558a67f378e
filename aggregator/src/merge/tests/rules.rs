use forebay_shared::ids::Role;
use forebay_shared::metrics::{Kind, Merge, ReportResult};
use forebay_shared::stats::{Layout, ProcessState, SeriesInfo, Snapshot, encode_cells};

use super::model::{boot, family, layout, report};
use crate::exposition::render;
use crate::merge::*;

const T: Millis = 1_000_000_000;

fn fleet() -> Fleet {
    let mut fleet = Fleet::new(T, 0);
    fleet.mark_replayed();
    fleet
}

fn page(fleet: &mut Fleet, now: Millis) -> String {
    let mut page = String::new();
    render(&fleet.totals(now), 2, &mut page);
    page
}

fn cells(count: f64) -> [f64; 5] {
    [count, 1.0, count, count, count]
}

#[test]
fn a_repeated_or_older_report_changes_nothing() {
    let mut fleet = fleet();
    assert_eq!(fleet.accept(report("w", 1, 5, T, &cells(7.0)), T).result, ReportResult::Applied);
    for seq in [5, 4] {
        assert_eq!(fleet.accept(report("w", 1, seq, T, &cells(99.0)), T).result, ReportResult::Stale);
    }
    assert!(page(&mut fleet, T).contains("forebay_engine_steps_total 7\n"));
}

#[test]
fn a_silent_process_leaves_the_gauges_and_keeps_its_counters() {
    let mut fleet = fleet();
    fleet.accept(report("w", 1, 1, T, &cells(7.0)), T);
    assert!(page(&mut fleet, T + 2_999).contains("forebay_models_loaded 1\n"));
    let silent = page(&mut fleet, T + 3_000);
    assert!(silent.contains("forebay_models_loaded 0\n"), "{silent}");
    assert!(silent.contains("forebay_engine_steps_total 7\n"), "{silent}");
}

#[test]
fn a_report_without_a_known_layout_is_asked_about_once_and_counts_when_described() {
    let mut fleet = fleet();
    let described = report("w", 1, 1, T, &cells(7.0));
    let bare = Snapshot { description: None, ..described.clone() };
    assert_eq!(fleet.accept(bare.clone(), T), Accepted { result: ReportResult::Undescribed, ask: true });
    let other = Snapshot { boot: boot(2), ..bare };
    assert!(!fleet.accept(other, T + 100).ask, "one description serves all who share the layout");
    assert!(fleet.learn_layout(described.layout, &described.description.unwrap()));
    assert!(page(&mut fleet, T).contains("forebay_engine_steps_total 14\n"));
}

#[test]
fn counters_stand_while_a_new_layout_is_awaited() {
    let mut fleet = fleet();
    fleet.accept(report("w", 1, 1, T, &cells(7.0)), T);
    let (hash, description) = layout(&[1.0, 2.0]).encode();
    let wider = encode_cells(&[8.0, 1.0, 8.0, 8.0, 8.0, 8.0]);
    let bare = Snapshot { layout: hash, cells: wider, description: None, ..report("w", 1, 2, T, &[]) };
    assert!(fleet.accept(bare, T + 1000).ask);
    assert!(page(&mut fleet, T + 1000).contains("forebay_engine_steps_total 7\n"));
    assert!(fleet.learn_layout(hash, &description));
    assert!(page(&mut fleet, T + 1000).contains("forebay_engine_steps_total 8\n"));
}

#[test]
fn histograms_with_different_buckets_stay_apart() {
    let mut fleet = fleet();
    fleet.accept(report("old", 1, 1, T, &cells(3.0)), T);
    let (hash, description) = layout(&[0.5, 2.0]).encode();
    let cells = encode_cells(&[1.0, 1.0, 2.0, 4.0, 9.5, 4.0]);
    let new = Snapshot { layout: hash, cells, description: Some(description), ..report("new", 2, 1, T, &[]) };
    fleet.accept(new, T);
    let page = page(&mut fleet, T);
    let counts: Vec<_> = page.lines().filter(|line| line.starts_with("forebay_odd_seconds_count{schema=")).collect();
    assert_eq!(counts.len(), 2, "{page}");
    assert!(counts.iter().any(|line| line.ends_with(" 3")) && counts.iter().any(|line| line.ends_with(" 4")), "{page}");
    assert!(page.contains("forebay_engine_steps_total 4\n"), "counters of both versions add up: {page}");
}

#[test]
fn a_stem_that_versions_declare_differently_is_left_out_and_counted() {
    let mut fleet = fleet();
    fleet.accept(report("w", 1, 1, T, &cells(3.0)), T);
    let odd = Layout {
        families: vec![
            family("engine_steps_total", Kind::Gauge, Merge::Max, &[]),
            family("worker_up", Kind::Gauge, Merge::Sum, &[]),
        ],
        series: (0..2).map(|family| SeriesInfo { family, values: vec![] }).collect(),
    };
    let (hash, description) = odd.encode();
    let cells = encode_cells(&[1000.0, 1.0]);
    fleet.accept(Snapshot { layout: hash, cells, description: Some(description), ..report("x", 2, 1, T, &[]) }, T);
    let page = page(&mut fleet, T);
    assert!(page.contains("forebay_engine_steps_total 3\n"), "{page}");
    assert!(!page.contains("worker_up"), "the aggregator serves that name itself");
    assert_eq!(fleet.totals(T).conflicts(), 2);
}

#[test]
fn gauges_merge_as_declared_and_per_process_ones_are_capped() {
    let merges = [("a", Merge::Max), ("b", Merge::Min), ("c", Merge::Mean), ("d", Merge::PerProcess)];
    let families = merges.iter().map(|(stem, merge)| family(stem, Kind::Gauge, *merge, &[])).collect();
    let series = (0..4).map(|family| SeriesInfo { family, values: vec![] }).collect();
    let (hash, description) = Layout { families, series }.encode();
    let mut fleet = fleet();
    for (number, value) in [(1, 1.0), (2, 2.0), (3, 6.0)] {
        let name = format!("w{number}");
        let cells = encode_cells(&[value; 4]);
        let one = Snapshot {
            layout: hash,
            cells,
            description: Some(description.clone()),
            ..report(&name, number, 1, T, &[])
        };
        assert_eq!(fleet.accept(one, T).result, ReportResult::Applied);
    }
    let mut page = String::new();
    assert_eq!(render(&fleet.totals(T), 2, &mut page), 1, "the third is cut");
    for line in
        ["forebay_a 6", "forebay_b 1", "forebay_c 3", "forebay_d{process=\"w1\"} 1", "forebay_d{process=\"w2\"} 2"]
    {
        assert!(page.contains(&format!("{line}\n")), "{line} in {page}");
    }
}

#[test]
fn goodbye_ends_the_listing_and_a_kill_ends_it_after_a_quarter_of_an_hour() {
    let mut fleet = fleet();
    fleet.accept(report("killed", 1, 1, T, &cells(1.0)), T);
    let farewell = Snapshot { state: ProcessState::Goodbye, ..report("left", 2, 9, T, &cells(1.0)) };
    fleet.accept(farewell, T);
    let names =
        |now| fleet.members(now).iter().map(|one| (one.head.process.to_string(), one.presence)).collect::<Vec<_>>();
    assert_eq!(names(T), [("killed".to_owned(), Presence::Live)]);
    assert_eq!(names(T + 3_000), [("killed".to_owned(), Presence::Silent)]);
    assert_eq!(names(T + LISTED_MS - 1).len(), 1);
    assert_eq!(names(T + LISTED_MS), []);
}

#[test]
fn a_restarted_process_is_listed_once() {
    let mut fleet = fleet();
    fleet.accept(report("w", 1, 1, T, &cells(1.0)), T);
    fleet.accept(report("w", 2, 1, T + 5_000, &cells(1.0)), T + 5_000);
    let members = fleet.members(T + 5_000);
    assert_eq!(members.iter().map(|one| one.head.boot).collect::<Vec<_>>(), [boot(2)]);
    // Even after the successor has left, the killed predecessor is no news.
    let farewell = Snapshot { state: ProcessState::Goodbye, ..report("w", 2, 2, T + 5_000, &cells(1.0)) };
    fleet.accept(farewell, T + 6_000);
    assert!(fleet.members(T + 6_000).is_empty());
}

#[test]
fn a_folded_boot_is_refused_for_ever() {
    let mut fleet = fleet();
    fleet.accept(report("w", 1, 1, T, &cells(7.0)), T);
    let mut now = T + 5_000;
    for (revision, due) in fleet.due(now).into_iter().enumerate() {
        fleet.retained(due.boot, &due.record, revision as u64 + 1, now);
    }
    now += FOLD_AFTER_MS;
    // After an outage of the broker everybody has been silent for long, and is about to report.
    assert!(fleet.plan_fold(now).is_none(), "nobody is heard, so nobody's silence means anything");
    for seq in 1..10 {
        now += 8_000;
        fleet.accept(report("other", 2, seq, T, &cells(0.0)), now);
    }
    let (record, expected) = fleet.plan_fold(now).unwrap();
    assert_eq!(expected, 0);
    assert!(fleet.take_fold(record, 10));
    assert_eq!(fleet.accept(report("w", 1, 2, T, &cells(9.0)), now).result, ReportResult::Folded);
    assert!(page(&mut fleet, now).contains("forebay_engine_steps_total 7\n"));
    assert!(fleet.plan_fold(now).is_none(), "nothing is folded twice");
}

#[test]
fn nothing_is_served_before_the_bucket_is_read_and_the_living_have_reported() {
    let mut first = fleet();
    first.accept(report("w", 1, 1, T, &cells(7.0)), T);
    let record = first.due(T + 5_000).remove(0).record;

    let start = T + 6_000;
    let mut fleet = Fleet::new(start, 0);
    assert!(!fleet.is_ready(start + 60_000), "the bucket is not read");
    fleet.replay(record, 1);
    let (hash, description) = layout(&[1.0]).encode();
    fleet.learn_layout(hash, &description);
    fleet.mark_replayed();
    assert!(!fleet.is_ready(start + 1_000), "an interval has not passed");
    assert!(!fleet.is_ready(start + 2_000), "w may live and has not reported");
    assert!(fleet.is_ready(start + 3_500), "w had three intervals");
    fleet.accept(report("w", 1, 8, T, &cells(9.0)), start + 1_300);
    assert!(fleet.is_ready(start + 1_300));
}

#[test]
fn torn_numbers_and_false_descriptions_are_refused() {
    let mut fleet = fleet();
    let good = report("w", 1, 1, T, &cells(7.0));
    let torn = Snapshot { cells: vec![0; 9], ..good.clone() };
    assert_eq!(fleet.accept(torn, T).result, ReportResult::Malformed);
    let short = Snapshot { cells: encode_cells(&[1.0]), seq: 2, ..good.clone() };
    assert_eq!(fleet.accept(short, T).result, ReportResult::Malformed);
    let lied = Snapshot { layout: forebay_shared::stats::LayoutHash([3; 16]), ..good };
    assert_eq!(fleet.accept(lied, T).result, ReportResult::Malformed);
    assert_eq!(fleet.totals(T).families().len(), 0);
    assert_eq!(report("w", 1, 1, T, &[]).role, Role::Worker);
}

#[test]
fn label_values_are_escaped() {
    let mut info = family("odd_total", Kind::Counter, Merge::Sum, &[]);
    info.labels = vec!["model".into()];
    let series = vec![SeriesInfo { family: 0, values: vec!["a\"b\\c\nd".into()] }];
    let (hash, description) = Layout { families: vec![info], series }.encode();
    let mut fleet = fleet();
    let cells = encode_cells(&[1.0]);
    fleet.accept(Snapshot { layout: hash, cells, description: Some(description), ..report("w", 1, 1, T, &[]) }, T);
    assert!(page(&mut fleet, T).contains(r#"forebay_odd_total{model="a\"b\\c\nd"} 1"#));
}
