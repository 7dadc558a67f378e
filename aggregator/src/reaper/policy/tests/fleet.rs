//! A fleet to which anything may happen, watched by two reapers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What can happen to a fleet.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    /// A waiting message goes to this worker.
    Deliver(u8),
    /// The lease of the oldest message that a dead worker holds ends: the broker gives it to this one.
    LeaseEnds(u8),
    Answer(u8),
    Kill(u8),
    Freeze(u8),
    Thaw(u8),
    Drain(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 1u8..=5;
    prop_oneof![
        4 => (50u64..900).prop_map(Step::Pass),
        6 => worker.clone().prop_map(Step::Deliver),
        1 => worker.clone().prop_map(Step::LeaseEnds),
        2 => worker.clone().prop_map(Step::Answer),
        2 => worker.clone().prop_map(Step::Kill),
        1 => worker.clone().prop_map(Step::Freeze),
        1 => worker.clone().prop_map(Step::Thaw),
        1 => worker.prop_map(Step::Drain),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Runs,
    Frozen,
    /// Kicked off the broker while it was frozen.
    Cut,
    Dead,
    Left,
}

/// A fleet, its queue, and two reapers that hear the same.
struct World {
    reapers: [Policy; 2],
    now: Instant,
    /// Of each worker: how it is, its next number, its next heartbeat.
    workers: BTreeMap<u8, (Life, u64, Instant)>,
    /// Message → who has it (0 = it waits) and how often it was delivered.
    messages: BTreeMap<u64, (u8, u64)>,
    next_message: u64,
    claims: BTreeSet<BootId>,
    naked: Vec<(u64, u8)>,
    disturbed: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut world = Self {
            reapers: [Policy::new(now), Policy::new(now)],
            now,
            workers: (1..=5).map(|worker| (worker, (Life::Runs, 0, now))).collect(),
            messages: BTreeMap::new(),
            next_message: 1,
            claims: BTreeSet::new(),
            naked: Vec::new(),
            disturbed: false,
        };
        for worker in 1..=5 {
            world.tell(|policy, now| policy.connected(boot(worker), connection(worker.into()), now));
        }
        world.pass(10);
        world
    }

    fn tell(&mut self, mut what: impl FnMut(&mut Policy, Instant)) {
        let now = self.now;
        self.reapers.iter_mut().for_each(|policy| what(policy, now));
    }

    fn life(&self, worker: u8) -> Life {
        self.workers[&worker].0
    }

    fn say(&mut self, worker: u8, full: bool, goodbye: bool, acks: Vec<String>) {
        let entry = self.workers.get_mut(&worker).unwrap();
        entry.1 += 1;
        let (boot, process, token) = (boot(worker), "w".into(), ModelToken::from("m"));
        let held = Held { boot, process, token, epoch: 1, number: entry.1, full, goodbye, acks };
        self.tell(|policy, now| policy.heard(held.clone(), now));
    }

    fn held(&self, worker: u8) -> Vec<String> {
        let held = self.messages.iter().filter(|(_, (holder, _))| *holder == worker);
        held.map(|(seq, (_, delivered))| ack(*seq, *delivered)).collect()
    }

    fn deliver(&mut self, seq: u64, worker: u8) {
        let delivered = self.messages[&seq].1 + 1;
        self.messages.insert(seq, (worker, delivered));
        self.say(worker, false, false, vec![ack(seq, delivered)]);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now += Duration::from_millis(10);
            for worker in 1..=5 {
                let (life, _, beat) = self.workers[&worker];
                if life == Life::Runs && beat <= self.now {
                    self.workers.get_mut(&worker).unwrap().2 = self.now + HELD_INTERVAL;
                    self.say(worker, true, false, self.held(worker));
                }
            }
            for reaper in 0..2 {
                self.poll(reaper);
            }
        }
    }

    fn poll(&mut self, reaper: usize) {
        for action in self.reapers[reaper].poll(self.now) {
            match action {
                Action::StandBack { .. } => self.disturbed = true,
                Action::Kick { boot: of, .. } => {
                    let worker = of.as_bytes()[0];
                    if self.life(worker) != Life::Dead {
                        assert_ne!(self.life(worker), Life::Runs, "who runs is not kicked");
                        self.workers.get_mut(&worker).unwrap().0 = Life::Cut;
                        self.tell(|policy, now| policy.disconnected(of, &connection(worker.into()), now));
                    }
                    self.reapers[reaper].kicked(of, true, self.now);
                }
                Action::Claim { boot, epoch } => {
                    let won = self.claims.insert(boot);
                    if let Some(reap) = self.reapers[reaper].claimed(boot, epoch, won, self.now) {
                        assert!(won);
                        self.nak(boot.as_bytes()[0], &reap.acks);
                    }
                }
            }
        }
    }

    fn nak(&mut self, dead: u8, acks: &[String]) {
        assert!([Life::Dead, Life::Cut].contains(&self.life(dead)), "{:?} was reaped", self.life(dead));
        for (seq, delivered) in self.messages.clone().into_iter().map(|(seq, (_, delivered))| (seq, delivered)) {
            if !acks.contains(&ack(seq, delivered)) {
                continue;
            }
            let holder = self.messages[&seq].0;
            assert_eq!(holder, dead, "message {seq} was taken from its holder");
            self.messages.insert(seq, (0, delivered));
            self.naked.push((seq, dead));
        }
        let stale = acks.iter().filter(|ack| {
            let parsed = forebay_shared::ack::AckSubject::parse(ack).unwrap();
            self.messages
                .get(&parsed.stream_seq)
                .is_some_and(|(holder, delivered)| *delivered > parsed.delivered && ![0, dead].contains(holder))
        });
        assert_eq!(stale.count(), 0, "a nak matches by sequence alone: it would take what another has");
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass(ms) => self.pass(ms),
            Step::Deliver(worker) if self.life(worker) == Life::Runs => {
                let waiting = self.messages.iter().find(|(_, (holder, _))| *holder == 0).map(|(seq, _)| *seq);
                let seq = waiting.unwrap_or(self.next_message);
                self.messages.entry(seq).or_insert((0, 0));
                self.next_message = self.next_message.max(seq + 1);
                self.deliver(seq, worker);
            }
            Step::LeaseEnds(worker) if self.life(worker) == Life::Runs => {
                let lost = |holder: u8| holder != 0 && self.life(holder) != Life::Runs;
                let lost = self.messages.iter().find(|(_, (holder, _))| lost(*holder)).map(|(seq, _)| *seq);
                if let Some(seq) = lost {
                    self.deliver(seq, worker);
                }
            }
            Step::Answer(worker) if self.life(worker) == Life::Runs => {
                let held = self.messages.iter().find(|(_, (holder, _))| *holder == worker).map(|(seq, _)| *seq);
                self.messages.remove(&held.unwrap_or(0));
            }
            Step::Kill(worker) if [Life::Runs, Life::Frozen].contains(&self.life(worker)) => {
                self.workers.get_mut(&worker).unwrap().0 = Life::Dead;
                self.tell(|policy, now| policy.disconnected(boot(worker), &connection(worker.into()), now));
            }
            Step::Freeze(worker) if self.life(worker) == Life::Runs => {
                self.workers.get_mut(&worker).unwrap().0 = Life::Frozen;
            }
            Step::Thaw(worker) if self.life(worker) == Life::Frozen => {
                self.workers.get_mut(&worker).unwrap().0 = Life::Runs;
            }
            Step::Drain(worker) if self.life(worker) == Life::Runs => {
                self.workers.get_mut(&worker).unwrap().0 = Life::Left;
                self.messages.values_mut().filter(|(holder, _)| *holder == worker).for_each(|(holder, _)| *holder = 0);
                self.say(worker, true, true, Vec::new());
                self.tell(|policy, now| policy.disconnected(boot(worker), &connection(worker.into()), now));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever dies, freezes, thaws or leaves in whatever order: nothing is taken from the living, and everything that
    /// the dead held is naked once, unless so many vanished that it looked like the broker.
    #[test]
    fn the_work_of_the_dead_moves_and_that_of_the_living_stays(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.pass(8_000);
        prop_assert!(world.workers.values().all(|(life, ..)| *life != Life::Frozen) || world.disturbed);
        let lost = world.messages.values().filter(|(holder, _)| {
            *holder != 0 && [Life::Dead, Life::Cut].contains(&world.life(*holder))
        });
        let lost = lost.count();
        prop_assert!(lost == 0 || world.disturbed, "{lost} messages stay with the dead");
        let mut once = BTreeSet::new();
        for nak in &world.naked {
            prop_assert!(once.insert(*nak), "{nak:?} was naked twice");
        }
    }
}
