use std::collections::BTreeSet;

use super::*;

fn all() -> impl Iterator<Item = Alias> {
    (1..=STACKS).flat_map(stack)
}

#[test]
fn every_stack_has_as_many_names_as_its_guide_prints() {
    let counts: Vec<_> = (0..=STACKS + 1).map(|number| stack(number).len()).collect();
    assert_eq!(counts, [0, 7, 8, 19, 2, 4, 0]);
}

#[test]
fn no_two_stacks_share_a_name_and_none_is_ours_or_an_exporters() {
    let mut seen = BTreeSet::new();
    for alias in all() {
        assert!(seen.insert(alias.name), "{} twice", alias.name);
        let foreign = ["forebay_", "container_", "node_", "process_"];
        assert!(!foreign.iter().any(|prefix| alias.name.starts_with(prefix)), "{}", alias.name);
    }
}

#[test]
fn every_part_is_of_a_metric_of_the_same_kind_and_names_labels_that_it_has() {
    for alias in all() {
        for part in &alias.parts {
            let Some(source) = part.source() else {
                assert!(alias.zero_if_absent, "no table has {}, the source of {}", part.stem, alias.name);
                continue;
            };
            assert_eq!(source.kind, alias.kind, "{}", alias.name);
            let has = |label: &str| source.labels.iter().any(|info| info.name == label);
            assert!(part.matchers.iter().all(|matcher| has(matcher.label)), "{}", alias.name);
            for mapped in &part.labels {
                if let Mapped::From { ours, .. } = mapped {
                    assert!(has(ours), "{} has no label {ours}", part.stem);
                }
            }
        }
    }
}

#[test]
fn only_gauges_are_scaled_or_the_largest_of_several() {
    for alias in all().filter(|alias| alias.kind != Kind::Gauge) {
        assert_eq!((alias.fold, alias.scale), (Fold::Sum, 1.0), "{} would not count any more", alias.name);
    }
}

#[test]
fn the_parts_of_a_name_never_make_the_same_series() {
    for alias in all().filter(|alias| alias.parts.len() > 1) {
        let fixed = |part: &Part| {
            let value = |mapped: &Mapped| match mapped {
                Mapped::Fixed { value, .. } => Some(*value),
                Mapped::From { .. } => None,
            };
            part.labels.iter().find_map(value).unwrap_or_else(|| panic!("{} has no fixed label", alias.name))
        };
        let values: BTreeSet<_> = alias.parts.iter().map(fixed).collect();
        assert_eq!(values.len(), alias.parts.len(), "{}", alias.name);
    }
}

#[test]
fn a_bound_reads_as_pythons_client_prints_it() {
    let printed: Vec<_> = [0.0001, 0.25, 1.0, 65536.0, f64::INFINITY].map(le).into();
    assert_eq!(printed, ["0.0001", "0.25", "1.0", "65536.0", "+Inf"]);
}

/// Python's client writes larger and smaller numbers with an exponent, which [`le`] does not.
#[test]
fn no_bound_of_ours_needs_an_exponent() {
    let tables = [ApiMetrics::TABLE, WorkerMetrics::TABLE, AggregatorMetrics::TABLE];
    for bound in tables.into_iter().flatten().flat_map(|metric| metric.buckets) {
        assert!((0.0001..1e6).contains(bound), "{bound}");
    }
}
