//! Which faults happen when: decided beforehand from a seed, so that a run can be repeated. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// What a broker of a cluster gets between its return and the next fault of one.
const CATCH_UP: Duration = Duration::from_secs(12);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    KillWorker,
    FreezeWorker,
    KillApi,
    FreezeApi,
    KillAggregator,
    FreezeAggregator,
    KillBroker,
    FreezeBroker,
    /// One more worker joins that takes twenty times as long, and is killed.
    SlowWorker,
    /// One more worker joins whose host's clock is an hour ahead, and leaves.
    SkewedClock,
    /// The queue is filled up to its limit.
    FullStream,
    /// The network of one worker is cut.
    Partition,
}

impl Kind {
    pub const ALL: [Self; 12] = [
        Self::KillWorker,
        Self::FreezeWorker,
        Self::KillApi,
        Self::FreezeApi,
        Self::KillAggregator,
        Self::FreezeAggregator,
        Self::KillBroker,
        Self::FreezeBroker,
        Self::SlowWorker,
        Self::SkewedClock,
        Self::FullStream,
        Self::Partition,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::KillWorker => "worker killed",
            Self::FreezeWorker => "worker frozen",
            Self::KillApi => "api killed",
            Self::FreezeApi => "api frozen",
            Self::KillAggregator => "aggregator killed",
            Self::FreezeAggregator => "aggregator frozen",
            Self::KillBroker => "broker killed",
            Self::FreezeBroker => "broker frozen",
            Self::SlowWorker => "slow worker",
            Self::SkewedClock => "skewed clock",
            Self::FullStream => "full stream",
            Self::Partition => "worker cut off",
        }
    }

    /// How often it is drawn. What kills what holds work is what this system promises to survive.
    const fn weight(self) -> u32 {
        match self {
            Self::KillWorker | Self::FreezeWorker => 4,
            Self::KillApi | Self::KillBroker => 3,
            Self::FreezeApi | Self::KillAggregator | Self::Partition => 2,
            _ => 1,
        }
    }

    /// Shortest and longest time that it lasts.
    const fn range_ms(self) -> (u64, u64) {
        match self {
            Self::KillWorker | Self::KillAggregator => (200, 3_000),
            Self::FreezeWorker | Self::Partition => (500, 7_000),
            Self::KillApi => (200, 2_000),
            Self::FreezeApi => (500, 3_000),
            Self::FreezeAggregator => (500, 4_000),
            Self::KillBroker => (200, 1_500),
            Self::FreezeBroker => (300, 1_500),
            Self::SlowWorker | Self::SkewedClock => (2_000, 5_000),
            Self::FullStream => (1_000, 3_000),
        }
    }
}

/// How many there are of each.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    pub workers: usize,
    pub apis: usize,
    pub aggregators: usize,
    pub brokers: usize,
    /// Whether a worker's network can be cut here.
    pub can_partition: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub at: Duration,
    pub kind: Kind,
    /// Which one of its kind.
    pub target: usize,
    pub lasts: Duration,
}

/// Faults for `length`, the last of which is over a while before the end. One begins when the one before is over, mostly;
/// a third begin before that, so that two things are wrong at once, but never two of one role.
pub fn schedule(seed: u64, length: Duration, topology: Topology) -> Vec<Event> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| topology.can_partition || *kind != Kind::Partition).collect();
    let mut events: Vec<Event> = Vec::new();
    let mut now = Duration::from_secs(2);
    let mut free_at: BTreeMap<Role, Duration> = BTreeMap::new();
    while now + Duration::from_secs(8) < length {
        let free = |kind: &&Kind| free_at.get(&kind.role()).is_none_or(|at| *at <= now);
        let free: Vec<Kind> = kinds.iter().filter(free).copied().collect();
        let Ok(kind) = free.choose_weighted(&mut rng, |kind| kind.weight()).copied() else { break };
        let of = match kind.role() {
            Role::Worker => topology.workers,
            Role::Api => topology.apis,
            Role::Aggregator => topology.aggregators,
            Role::Broker => topology.brokers,
        };
        let (least, most) = kind.range_ms();
        let lasts = Duration::from_millis(rng.random_range(least..=most));
        let target = match kind {
            // The one whose network can be cut.
            Kind::Partition => topology.workers - 1,
            _ => rng.random_range(0..of),
        };
        events.push(Event { at: now, kind, target, lasts });
        // One of several brokers has to catch up before the next may be disturbed, or there is no quorum.
        let settles = if kind.role() == Role::Broker && of > 1 { CATCH_UP } else { Duration::ZERO };
        free_at.insert(kind.role(), now + lasts + settles);
        // Everything that was disturbed is given the time to come back, except where two faults are to overlap.
        let together = rng.random_ratio(1, 3);
        now += if together { lasts / 2 } else { lasts + Duration::from_millis(rng.random_range(800..2_500)) };
    }
    events
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Worker,
    Api,
    Aggregator,
    Broker,
}

impl Kind {
    pub const fn role(self) -> Role {
        match self {
            Self::KillWorker | Self::FreezeWorker | Self::SlowWorker | Self::SkewedClock | Self::Partition => {
                Role::Worker
            }
            Self::KillApi | Self::FreezeApi => Role::Api,
            Self::KillAggregator | Self::FreezeAggregator => Role::Aggregator,
            Self::KillBroker | Self::FreezeBroker | Self::FullStream => Role::Broker,
        }
    }
}

#[test]
fn a_seed_gives_one_schedule_with_every_kind_in_a_long_run() {
    let topology = Topology { workers: 3, apis: 2, aggregators: 2, brokers: 1, can_partition: true };
    let long = schedule(7, Duration::from_secs(900), topology);
    assert_eq!(long, schedule(7, Duration::from_secs(900), topology));
    assert_ne!(long, schedule(8, Duration::from_secs(900), topology));
    for kind in Kind::ALL {
        assert!(long.iter().any(|event| event.kind == kind), "{kind:?}");
    }
    assert!(long.iter().all(|event| event.at + event.lasts < Duration::from_secs(900)));
}

#[test]
fn no_two_processes_of_a_role_are_disturbed_at_once_and_brokers_catch_up_between() {
    let topology = Topology { workers: 3, apis: 2, aggregators: 2, brokers: 3, can_partition: true };
    let long = schedule(9, Duration::from_secs(900), topology);
    assert!(long.windows(2).any(|pair| pair[1].at < pair[0].at + pair[0].lasts), "some faults overlap");
    for (index, event) in long.iter().enumerate() {
        let wait = if event.kind.role() == Role::Broker { CATCH_UP } else { Duration::ZERO };
        let before = long[..index].iter().filter(|before| before.kind.role() == event.kind.role());
        assert!(before.clone().all(|before| before.at + before.lasts + wait <= event.at), "{event:?}");
    }
}
