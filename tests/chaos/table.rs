//! What a run prints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::counters::total;
use super::history::{History, Judged};

/// Faults, errors by fault, and the sums under them.
pub fn table(history: &History, page: &BTreeMap<String, f64>, extra: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string can be written");
    line(format!(
        "{:<20} {:>6} {:>9} {:>9} {:>9} {:>8} {:>14}",
        "fault", "times", "lasted", "refused", "excused", "failed", "error seconds"
    ));
    for (kind, blame) in history.blamed() {
        line(format!(
            "{:<20} {:>6} {:>7.1} s {:>9} {:>9} {:>8} {:>14}",
            kind.map_or("none", |kind| kind.name()),
            blame.faults,
            blame.lasted.as_secs_f64(),
            blame.refused,
            blame.excused,
            blame.failed,
            blame.seconds.len()
        ));
    }
    let count = |judged| history.count(judged).to_string();
    let rows = [
        ("requests", history.requests.len().to_string()),
        ("answered right, in time", count(Judged::Right)),
        ("refused at the door (503)", count(Judged::Refused)),
        ("excused (their api or the only broker was down)", count(Judged::Excused)),
        ("accepted and not answered in time", count(Judged::Failed)),
        ("kept of what was accepted", format!("{:.4} %", 100.0 * history.kept())),
        ("wrong answers", history.wrong().len().to_string()),
        ("left hanging past their deadline", history.hung().len().to_string()),
        ("longest time without an answer", seconds(history.longest_outage())),
        ("jobs delivered again", whole(total(page, "forebay_redelivered_total"))),
        ("duplicate answers suppressed", whole(total(page, "forebay_replies_duplicate_total"))),
        ("publishes tried again", whole(total(page, "forebay_queue_publish_errors_total"))),
    ];
    for (what, value) in rows.iter().map(|(what, value)| (*what, value)).chain(extra.iter().map(|(a, b)| (*a, b))) {
        line(format!("{what:<52} {value:>12}"));
    }
    out
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
