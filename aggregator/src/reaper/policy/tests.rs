use std::collections::BTreeMap;

use super::*;

mod fleet;

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
    assert_eq!(bench.pass(1_000), [], "it may be one before that");
    assert_eq!(bench.pass(110), [Action::Kick { boot: boot(1), connection: None }], "it has skipped a heartbeat");
}

#[test]
fn a_reaper_that_was_stopped_itself_takes_nobody_for_frozen() {
    let mut bench = Bench::with(2);
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.policy.poll(bench.now), []);
    assert_eq!(bench.pass(4_000), [], "quiet, and then a whole silence");
}

#[test]
fn a_fleet_that_never_stops_talking_does_not_keep_the_reaper_from_looking() {
    let mut bench = Bench::with(2);
    let end = bench.now + Duration::from_secs(5);
    while bench.now < end {
        // As the shell does: an announcement alone is not followed by a poll.
        bench.now += Duration::from_millis(5);
        bench.full(1, 1, &[(10, 1)]);
        bench.full(2, 1, &[]);
        if bench.policy.wake() <= bench.now {
            assert_eq!(bench.policy.poll(bench.now), []);
        }
    }
    bench.lose(1);
    assert_eq!(bench.pass(110), [claim(1)]);
    assert_eq!(bench.claimed(1, true), Some(vec![ack(10, 1)]));
}

#[test]
fn the_late_end_of_a_connection_that_nobody_knows_takes_nothing_from_the_living() {
    let mut bench = Bench::with(1);
    bench.policy.disturbed(bench.now);
    bench.pass(2_100);
    bench.full(1, 3, &[(10, 1)]);
    bench.policy.disconnected(boot(1), &connection(77), bench.now);
    for _ in 0..5 {
        assert_eq!(bench.pass(1_000), []);
        bench.full(1, 3, &[(10, 1)]);
    }
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
