//! A model of processes, aggregators and the bucket; random histories; the promise: counters never go down, and agree
//! with what was really counted.

use std::collections::BTreeMap;

use forebay_shared::ids::{BootId, Role};
use forebay_shared::metrics::{Kind, Merge};
use forebay_shared::stats::{
    FamilyInfo, Layout, LayoutHash, ProcessState, SeriesInfo, Snapshot, WIRE_VERSION, encode_cells,
};
use proptest::prelude::*;

use crate::exposition::render;
use crate::merge::*;

pub fn family(stem: &str, kind: Kind, merge: Merge, bounds: &[f64]) -> FamilyInfo {
    let (stem, help) = (stem.to_owned(), "Help.".to_owned());
    FamilyInfo { stem, help, kind, merge, labels: vec![], bounds: bounds.to_vec() }
}

/// One counter, one gauge, one histogram with a single bucket.
pub fn layout(bounds: &[f64]) -> Layout {
    let families = vec![
        family("engine_steps_total", Kind::Counter, Merge::Sum, &[]),
        family("models_loaded", Kind::Gauge, Merge::Sum, &[]),
        family("odd_seconds", Kind::Histogram, Merge::Sum, bounds),
    ];
    Layout { families, series: (0..3).map(|family| SeriesInfo { family, values: vec![] }).collect() }
}

pub fn boot(number: u8) -> BootId {
    BootId::from_bytes([number; 16])
}

pub fn report(name: &str, number: u8, seq: u64, started: Millis, cells: &[f64]) -> Snapshot {
    let (layout, description) = layout(&[1.0]).encode();
    Snapshot {
        version: WIRE_VERSION,
        role: Role::Worker,
        process: name.into(),
        boot: boot(number),
        seq,
        started_ms: started,
        sent_ms: started + seq * 1000,
        interval_ms: 1000,
        address: Some(format!("{name}:9000")),
        state: ProcessState::Ready,
        served: vec![],
        layout,
        cells: encode_cells(cells),
        description: Some(description),
    }
}

/// A process that counts: a counter by whole steps, a histogram sum by an awkward fraction.
struct Process {
    name: String,
    number: u8,
    seq: u64,
    started: Millis,
    count: f64,
    seconds: f64,
}

impl Process {
    fn report(&mut self) -> Snapshot {
        self.seq += 1;
        report(
            &self.name,
            self.number,
            self.seq,
            self.started,
            &[self.count, 1.0, self.count, self.seconds, self.count],
        )
    }
}

/// The bucket: key → value and revision.
#[derive(Default)]
struct Bucket {
    records: BTreeMap<BootId, (Record, u64)>,
    layouts: BTreeMap<LayoutHash, Vec<u8>>,
    total: Option<(FoldRecord, u64)>,
    revision: u64,
}

impl Bucket {
    fn sync(&mut self, fleet: &mut Fleet, now: Millis) {
        for due in fleet.due(now) {
            if let Some(bytes) = fleet.layouts().due(due.layout, now) {
                self.layouts.insert(due.layout, bytes);
                fleet.layouts_mut().mark_written(due.layout, now);
            }
            if self.records.get(&due.boot).map_or(0, |(_, revision)| *revision) == due.revision {
                self.revision += 1;
                fleet.retained(due.boot, &due.record, self.revision, now);
                self.records.insert(due.boot, (due.record, self.revision));
            }
        }
        if let Some((record, expected)) = fleet.plan_fold(now)
            && self.total.as_ref().map_or(0, |(_, revision)| *revision) == expected
        {
            self.revision += 1;
            self.total = Some((record.clone(), self.revision));
            let folded: Vec<_> = record.folded.iter().map(|(boot, _)| *boot).collect();
            assert!(fleet.take_fold(record, self.revision));
            self.records.retain(|boot, _| !folded.contains(boot));
        }
        self.replay(fleet);
    }

    fn replay(&self, fleet: &mut Fleet) {
        for (hash, bytes) in &self.layouts {
            fleet.learn_layout(*hash, bytes);
        }
        if let Some((record, revision)) = &self.total {
            assert!(fleet.take_fold(FoldRecord::decode(&record.encode()).unwrap(), *revision));
        }
        for (record, revision) in self.records.values() {
            fleet.replay(Record::decode(&record.encode()).unwrap(), *revision);
        }
        fleet.mark_replayed();
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Process `slot` counts and reports; the second aggregator may miss the report.
    Report { slot: usize, steps: u32, missed: bool },
    /// Process `slot` is killed and starts again as a new boot.
    Restart { slot: usize },
    /// An old report of an earlier boot arrives once more.
    Echo { index: usize },
    /// Time passes; aggregators write what is due.
    Pass { seconds: u64 },
    /// Aggregator `which` is killed once the silent are written, and replays the bucket.
    Crash { which: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..4usize, 0..50u32, any::<bool>()).prop_map(|(slot, steps, missed)| Op::Report { slot, steps, missed }),
        1 => (0..4usize).prop_map(|slot| Op::Restart { slot }),
        1 => (0..200usize).prop_map(|index| Op::Echo { index }),
        3 => prop_oneof![Just(1), Just(4), Just(70), Just(4000)].prop_map(|seconds| Op::Pass { seconds }),
        1 => (0..2usize).prop_map(|which| Op::Crash { which }),
    ]
}

fn value(fleet: &mut Fleet, stem: &str, now: Millis) -> Vec<f64> {
    let totals = fleet.totals(now);
    let Some(family) = totals.families().iter().find(|family| family.stem == stem) else { return vec![0.0; 3] };
    let width = if family.kind == Kind::Histogram { 3 } else { 1 };
    (0..width).map(|cell| totals.cumulative(family.series[0].offset + cell)).collect()
}

struct World {
    now: Millis,
    bucket: Bucket,
    fleets: [Fleet; 2],
    processes: Vec<Process>,
    boots: u8,
    sent: Vec<Snapshot>,
    counted: f64,
}

impl World {
    fn new() -> Self {
        let now = 1_000_000_000;
        let mut world = Self {
            now,
            bucket: Bucket::default(),
            fleets: [Fleet::new(now, 1), Fleet::new(now, 2)],
            processes: vec![],
            boots: 0,
            sent: vec![],
            counted: 0.0,
        };
        world.fleets.iter_mut().for_each(Fleet::mark_replayed);
        world.processes = (0..4).map(|slot| world.boot(slot)).collect();
        world
    }

    fn boot(&mut self, slot: usize) -> Process {
        self.boots = self.boots.wrapping_add(1);
        let (number, started) = (self.boots, self.now);
        Process { name: format!("worker-{slot}"), number, seq: 0, started, count: 0.0, seconds: 0.0 }
    }

    fn report(&mut self, slot: usize, steps: u32, missed: bool) {
        let process = &mut self.processes[slot];
        process.count += f64::from(steps);
        process.seconds += f64::from(steps) * 0.1;
        self.counted += f64::from(steps);
        let report = process.report();
        self.fleets[0].accept(report.clone(), self.now);
        if !missed {
            self.fleets[1].accept(report.clone(), self.now);
        }
        self.sent.push(report);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        if seconds * 1000 > FOLD_AFTER_MS {
            // Whoever lives has reported meanwhile; only earlier boots are ripe to be folded.
            for _ in 0..8 {
                self.now += 9_000;
                (0..4).for_each(|slot| self.report(slot, 0, false));
            }
        }
        for fleet in &mut self.fleets {
            self.bucket.sync(fleet, self.now);
        }
        // What the second wrote reaches the first through its watch.
        self.bucket.replay(&mut self.fleets[0]);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Report { slot, steps, missed } => self.report(slot, steps, missed),
            Op::Restart { slot } => self.processes[slot] = self.boot(slot),
            Op::Echo { index } => {
                if let Some(report) = self.sent.get(index).cloned() {
                    for fleet in &mut self.fleets {
                        fleet.accept(report.clone(), self.now);
                    }
                }
            }
            Op::Pass { seconds } => self.pass(seconds),
            Op::Crash { which } => {
                (0..8).for_each(|_| self.pass(1));
                self.fleets[which] = Fleet::new(self.now, which as u64);
                self.bucket.replay(&mut self.fleets[which]);
                (0..4).for_each(|slot| self.report(slot, 0, false));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn counters_never_go_down_and_are_what_was_counted(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        let mut last = [[0.0; 4]; 2];
        for op in ops {
            let note = format!("{op:?}");
            world.apply(op);
            for (fleet, last) in world.fleets.iter_mut().zip(&mut last) {
                let mut seen = [value(fleet, "engine_steps_total", world.now)[0], 0.0, 0.0, 0.0];
                seen[1..].copy_from_slice(&value(fleet, "odd_seconds", world.now));
                prop_assert!(seen.iter().zip(last.iter()).all(|(now, before)| now >= before), "{note}: {last:?} to {seen:?}");
                *last = seen;
            }
            let first = value(&mut world.fleets[0], "engine_steps_total", world.now)[0];
            prop_assert_eq!(first, world.counted, "after {}", note);
            let seconds = value(&mut world.fleets[0], "odd_seconds", world.now)[1];
            prop_assert!((seconds - world.counted * 0.1).abs() < 1e-6, "{} s after {}", seconds, note);
        }
    }

    #[test]
    fn two_aggregators_give_the_same_page_once_everybody_has_reported(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        // A round of writes carries what one of them missed of the dead, a round of reports what it missed of the living.
        (0..8).for_each(|_| world.pass(1));
        (0..4).for_each(|slot| world.report(slot, 1, false));
        let now = world.now;
        let pages = world.fleets.each_mut().map(|fleet| {
            let mut page = String::new();
            render(&fleet.totals(now), 10, &mut page);
            page
        });
        prop_assert_eq!(&pages[0], &pages[1]);
        prop_assert!(pages[0].contains("forebay_models_loaded 4\n"), "{}", pages[0]);
    }
}
