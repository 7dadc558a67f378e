//! Kept answers: how often they help, how much room they have.

use super::ask::{grown, now, of, per_second, ratio};
use super::limits::Limits;
use super::model::{Dashboard, Panel, Row, Unit, Variable};

pub fn dashboard(limits: &Limits) -> Dashboard {
    Dashboard {
        uid: "forebay-cache",
        title: "forebay / Cache (Cache Analysis)",
        description: "Rows that were answered without computing them.",
        tags: &["cache"],
        variables: &[Variable::Model],
        rows: vec![rate(limits), room()],
        from: "now-6h",
    }
}

/// Hits as a share of look-ups.
fn hit_ratio(get: impl Fn(&str) -> String) -> String {
    let hits = get("forebay_cache_hits_total");
    ratio(&hits, &format!("({hits} + {})", get("forebay_cache_misses_total")))
}

fn rate(limits: &Limits) -> Row {
    Row::new(
        "Hits",
        vec![
            Panel::gauge("Hit rate in this hour", "Share of rows that were not computed, over the last hour.")
                .query("hit rate", hit_ratio(|name| grown(&[], &of(name, ""), "1h")))
                .limit(limits.cache_hits)
                .size(6, 8),
            Panel::timeseries("Hit rate by model", "Share of rows that were not computed.", Unit::Ratio)
                .query("{{model}}", hit_ratio(|name| per_second(&["model"], &of(name, ""))))
                .max(1.0)
                .limit(limits.cache_hits)
                .size(9, 8),
            Panel::stacked("Rows looked up", "Rows per second.", Unit::PerSecond)
                .query("hits", per_second(&[], &of("forebay_cache_hits_total", "")))
                .query("misses", per_second(&[], &of("forebay_cache_misses_total", "")))
                .size(9, 8),
        ],
    )
}

fn room() -> Row {
    let seconds = per_second(&["model"], &of("forebay_device_seconds_total", ""));
    let computed = per_second(&["model"], &of("forebay_cache_misses_total", ""));
    let hits = per_second(&["model"], &of("forebay_cache_hits_total", ""));
    Row::new(
        "Room",
        vec![
            Panel::timeseries(
                "Evictions",
                "Kept answers per second that had to make room. Many: the cache is too small.",
                Unit::PerSecond,
            )
            .query("{{model}}", per_second(&["model"], &of("forebay_cache_evictions_total", ""))),
            Panel::timeseries("Size", "Bytes of kept answers, over all apis.", Unit::Bytes)
                .query("kept", now(&[], "forebay_cache_size_bytes")),
            Panel::timeseries(
                "Device time saved",
                "Seconds of devices per second that hits would have taken, at what a row takes now. An estimate.",
                Unit::Number,
            )
            .query("{{model}}", format!("{hits} * {}", ratio(&seconds, &computed))),
        ],
    )
}
