use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn boot(number: u8) -> BootId {
    BootId::from_bytes([number; 16])
}

fn connection(cid: u64) -> Connection {
    Connection { server: "N".to_owned(), cid }
}

fn ack(seq: u64, delivered: u64) -> String {
    format!("$JS.ACK.FOREBAY_JOBS_m.normal.{delivered}.{seq}.{seq}.0.0")
}

/// A reaper and its clock. Workers are numbers; their messages are numbered as they should be.
struct Bench {
    policy: Policy,
    now: Instant,
    numbers: BTreeMap<(u8, u64), u64>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { policy: Policy::new(now), now, numbers: BTreeMap::new() }
    }

    /// `workers` that are connected and hold nothing.
    fn with(workers: u8) -> Self {
        let mut bench = Self::new();
        for worker in 1..=workers {
            bench.policy.connected(boot(worker), connection(worker.into()), bench.now);
            bench.full(worker, 1, &[]);
        }
        bench
    }

    /// Polls as often as the shell does.
    fn pass(&mut self, ms: u64) -> Vec<Action> {
        let end = self.now + Duration::from_millis(ms);
        let mut actions = Vec::new();
        while self.now < end {
            self.now = (self.now + Duration::from_millis(10)).min(end);
            actions.extend(self.policy.poll(self.now));
        }
        actions
    }

    fn say(&mut self, worker: u8, epoch: u64, full: bool, goodbye: bool, acks: &[(u64, u64)]) {
        let number = self.numbers.entry((worker, 0)).or_default();
        *number += 1;
        let (number, acks) = (*number, acks.iter().map(|(seq, delivered)| ack(*seq, *delivered)).collect());
        let (boot, process, token) = (boot(worker), "w".into(), ModelToken::from("m"));
        self.policy.heard(Held { boot, process, token, epoch, number, full, goodbye, acks }, self.now);
    }

    fn full(&mut self, worker: u8, epoch: u64, acks: &[(u64, u64)]) {
        self.say(worker, epoch, true, false, acks);
    }

    fn taken(&mut self, worker: u8, epoch: u64, acks: &[(u64, u64)]) {
        self.say(worker, epoch, false, false, acks);
    }

    fn lose(&mut self, worker: u8) {
        self.policy.disconnected(boot(worker), &connection(worker.into()), self.now);
    }

    fn claimed(&mut self, worker: u8, won: bool) -> Option<Vec<String>> {
        self.policy.claimed(boot(worker), 1, won, self.now).map(|reap| reap.acks)
    }
}

fn claim(worker: u8) -> Action {
    Action::Claim { boot: boot(worker), epoch: 1 }
}

fn kick(worker: u8) -> Action {
    Action::Kick { boot: boot(worker), connection: Some(connection(worker.into())) }
}

#[test]
fn what_a_dead_worker_held_is_given_back_after_the_grace_and_the_claim() {
    let mut bench = Bench::with(2);
    bench.taken(1, 1, &[(10, 1), (11, 1)]);
    bench.lose(1);
    assert_eq!(bench.pass(90), []);
    assert_eq!(bench.pass(20), [claim(1)]);
    let mut acks = bench.claimed(1, true).unwrap();
    acks.sort();
    assert_eq!(acks, [ack(10, 1), ack(11, 1)]);
    assert_eq!(bench.claimed(1, true), None, "once");
}

#[test]
fn the_reaper_that_loses_the_claim_or_is_late_does_nothing() {
    for (won, wait_ms) in [(false, 0), (true, 600)] {
        let mut bench = Bench::with(1);
        bench.taken(1, 1, &[(10, 1)]);
        bench.lose(1);
        assert_eq!(bench.pass(110), [claim(1)]);
        bench.pass(wait_ms);
        assert_eq!(bench.claimed(1, won), None);
    }
}

#[test]
fn a_worker_that_comes_back_within_the_grace_is_left_alone() {
    for by_word in [false, true] {
        let mut bench = Bench::with(1);
        bench.taken(1, 1, &[(10, 1)]);
        bench.lose(1);
        bench.pass(50);
        if by_word {
            bench.full(1, 3, &[])
        } else {
            bench.policy.connected(boot(1), connection(77), bench.now)
        }
        assert_eq!(bench.pass(500), []);
    }
}

#[test]
fn last_words_that_arrive_after_the_connection_was_lost_count() {
    let mut bench = Bench::with(1);
    bench.lose(1);
    bench.pass(20);
    bench.taken(1, 1, &[(10, 1)]);
    assert_eq!(bench.pass(100), [claim(1)]);
    assert_eq!(bench.claimed(1, true), Some(vec![ack(10, 1)]));
}

#[test]
fn a_worker_that_has_said_goodbye_is_not_reaped() {
    let mut bench = Bench::with(1);
    bench.taken(1, 1, &[(10, 1)]);
    bench.say(1, 1, true, true, &[]);
    bench.lose(1);
    assert_eq!(bench.pass(5_000), []);
}

#[test]
fn what_has_moved_on_to_a_living_worker_stays_there() {
    let mut bench = Bench::with(2);
    bench.taken(1, 1, &[(10, 1), (11, 1)]);
    bench.taken(2, 1, &[(10, 2)]);
    bench.lose(1);
    assert_eq!(bench.pass(110), [claim(1)]);
    bench.taken(2, 1, &[(11, 2)]);
    assert_eq!(bench.claimed(1, true), Some(vec![]), "one moved before the claim, one while it was made");
}

#[test]
fn a_frozen_worker_is_kicked_before_anything_is_given_back() {
    let mut bench = Bench::with(2);
    bench.taken(1, 1, &[(10, 1)]);
    for _ in 0..2 {
        assert_eq!(bench.pass(1_000), []);
        bench.full(2, 1, &[]);
    }
    assert_eq!(bench.pass(740), []);
    assert_eq!(bench.pass(20), [kick(1)]);
    bench.lose(1);
    assert_eq!(bench.pass(10), [claim(1)], "without a grace: nobody lost this connection by accident");
    assert_eq!(bench.claimed(1, true), Some(vec![ack(10, 1)]));
}

#[test]
fn the_work_of_a_kicked_worker_is_given_back_also_when_it_has_returned_already() {
    let mut bench = Bench::with(1);
    bench.taken(1, 1, &[(10, 1)]);
    assert_eq!(bench.pass(2_760), [kick(1)]);
    bench.full(1, 3, &[]);
    bench.taken(1, 3, &[(12, 1)]);
    assert_eq!(bench.pass(10), [claim(1)]);
    assert_eq!(bench.claimed(1, true), Some(vec![ack(10, 1)]));
    bench.lose(1);
    bench.pass(110);
    assert!(bench.policy.claimed(boot(1), 3, true, bench.now).is_some(), "and it can die again");
}

#[test]
fn a_kick_that_nobody_answers_gives_nothing_back() {
    let mut bench = Bench::with(1);
    bench.taken(1, 1, &[(10, 1)]);
    assert_eq!(bench.pass(2_760), [kick(1)]);
    bench.policy.kicked(boot(1), false, bench.now);
    assert_eq!(bench.pass(2_700), []);
    assert_eq!(bench.pass(100), [kick(1)], "tried again");
}

#[test]
fn a_reaper_that_does_not_know_everything_leaves_the_claim_to_others() {
    let mut bench = Bench::new();
    bench.taken(1, 1, &[(10, 1)]);
    bench.lose(1);
    assert_eq!(bench.pass(300), [], "no full list yet");
    let mut bench = Bench::with(1);
    *bench.numbers.get_mut(&(1, 0)).unwrap() += 1;
    bench.taken(1, 1, &[(10, 1)]);
    bench.lose(1);
    assert_eq!(bench.pass(300), [], "a message was missed");
}

#[test]
fn when_too_many_vanish_at_once_nobody_is_reaped() {
    let mut bench = Bench::with(10);
    (1..=4).for_each(|worker| bench.lose(worker));
    assert_eq!(bench.pass(3_000), [Action::StandBack { vanished: 4 }]);
    let mut bench = Bench::with(10);
    (1..=3).for_each(|worker| bench.lose(worker));
    assert_eq!(bench.pass(200).len(), 3, "three die on their own");
}

#[test]
fn when_too_many_fall_silent_at_once_nobody_is_kicked() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.pass(2_800), [Action::StandBack { vanished: 10 }]);
    for worker in 1..=10 {
        bench.full(worker, 1, &[]);
    }
    assert_eq!(bench.pass(1_000), []);
}

#[test]
fn nobody_is_reaped_while_the_broker_or_our_own_connection_is_disturbed() {
    let mut bench = Bench::with(2);
    bench.lose(1);
    bench.pass(50);
    bench.policy.disturbed(bench.now);
    bench.lose(2);
    assert_eq!(bench.pass(6_000), []);
}

#[test]
fn after_a_disturbance_the_end_of_a_connection_that_was_made_unheard_counts() {
    let mut bench = Bench::with(1);
    bench.policy.disturbed(bench.now);
    bench.pass(2_100);
    bench.full(1, 3, &[(10, 1)]);
    bench.policy.disconnected(boot(1), &connection(77), bench.now);
    assert_eq!(bench.pass(110), [Action::Claim { boot: boot(1), epoch: 3 }]);
}

#[test]
fn a_reaper_that_was_stopped_itself_takes_nobody_for_frozen() {
    let mut bench = Bench::with(2);
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.policy.poll(bench.now), []);
    assert_eq!(bench.pass(4_000), [], "quiet, and then a whole silence");
}

#[test]
fn the_end_of_an_earlier_connection_is_not_the_end_of_the_present_one() {
    let mut bench = Bench::with(1);
    bench.policy.connected(boot(1), connection(77), bench.now);
    bench.full(1, 3, &[]);
    bench.lose(1);
    assert_eq!(bench.pass(500), []);
}

#[test]
fn what_is_held_is_told_only_by_one_who_knows_it_all() {
    let mut bench = Bench::with(2);
    bench.taken(1, 1, &[(10, 1)]);
    assert_eq!(bench.policy.held_of("FOREBAY_JOBS_m", bench.now), None, "there may be workers not heard of yet");
    bench.pass(2_000);
    assert_eq!(bench.policy.held_of("FOREBAY_JOBS_m", bench.now), Some(vec![10]));
    bench.full(2, 3, &[(12, 1)]);
    assert_eq!(bench.policy.held_of("FOREBAY_JOBS_m", bench.now), Some(vec![10, 12]));
    bench.taken(2, 5, &[]);
    assert_eq!(bench.policy.held_of("FOREBAY_JOBS_m", bench.now), None, "what the new connection brought is not known");
}

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
                        assert_eq!(self.life(worker), Life::Frozen, "only the frozen are kicked");
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
