use proptest::prelude::*;

use super::*;

fn boot(n: u8) -> BootId {
    BootId::from_bytes([n; 16])
}

fn start(n: u8) -> Start {
    Start { process: format!("worker-{n}").as_str().into(), boot: boot(n), attempt: 2, at_us: u64::from(n) }
}

fn run(decision: Decision) -> Record {
    match decision {
        Decision::Run(record) => record,
        Decision::Dead(record) => panic!("dead with {record:?}"),
    }
}

#[test]
fn a_job_that_ended_two_workers_alone_is_put_aside_before_it_meets_a_third() {
    let first = run(Record::default().decide(start(1)));
    let second = run(first.decide(start(2)));
    let Decision::Dead(record) = second.decide(start(3)) else { panic!("it runs a third time") };
    assert_eq!(record.starts, [start(1), start(2)]);
}

#[test]
fn a_start_that_was_ended_does_not_count() {
    let first = run(Record::default().decide(start(1)));
    assert!(first.after(&start(1)).is_empty());
    let second = run(first.after(&start(1)).decide(start(2)));
    assert_eq!(second.starts.len(), 1);
}

#[test]
fn a_worker_that_is_alive_does_not_hold_its_own_earlier_start_against_a_job() {
    let record = Record { starts: vec![start(1), start(2)], dead: false };
    assert_eq!(run(record.decide(start(2))).starts, [start(1), start(2)]);
}

#[test]
fn the_late_end_of_an_earlier_start_leaves_the_present_one() {
    let first = run(Record::default().decide(start(1)));
    let again = Start { at_us: 99, ..start(1) };
    let second = run(first.decide(again.clone()));
    assert_eq!(second.after(&start(1)).starts, std::slice::from_ref(&again));
    assert!(!second.holds(&start(1)) && second.holds(&again));
}

#[test]
fn what_has_a_dead_letter_is_never_run_again() {
    let record = Record { starts: vec![start(1)], dead: true };
    assert!(matches!(record.decide(start(1)), Decision::Dead(_)));
}

#[test]
fn a_record_survives_its_bucket_and_a_field_that_is_not_known() {
    let record = Record { starts: vec![start(1)], dead: false };
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    assert_eq!(serde_json::from_str::<Record>(r#"{"starts":[],"newer":1}"#).unwrap(), Record::default());
}

#[test]
fn a_higher_lane_goes_first_and_the_oldest_of_a_lane() {
    let mut queue = SuspectQueue::new(8, 100);
    for (lane, name) in [(Lane::Low, "a"), (Lane::High, "b"), (Lane::Low, "c"), (Lane::High, "d")] {
        queue.push(lane, 1, name);
    }
    assert_eq!(queue.remove_where(|name| *name == "d"), ["d"]);
    assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), ["b", "a", "c"]);
}

const FIRST: MessageName = MessageName { lane: Lane::Normal, stream_seq: 5, stored_us: 70 };

#[test]
fn a_message_that_only_we_have_had_is_no_suspect() {
    let mut own = OwnDeliveries::new(8);
    assert!(own.note(FIRST, 1));
    assert!(own.note(FIRST, 2), "after a reconnect");
    assert!(!own.note(FIRST, 4), "somebody else had it in between");
    assert!(!own.note(FIRST, 5));
    assert!(!own.note(MessageName { lane: Lane::High, ..FIRST }, 2), "another lane's sequence");
    assert!(!own.note(MessageName { stream_seq: 6, ..FIRST }, 2), "taken over from another");
}

#[test]
fn a_message_of_a_queue_that_was_made_anew_is_not_the_one_that_had_its_number_before() {
    let mut own = OwnDeliveries::new(8);
    assert!(own.note(FIRST, 1));
    assert!(!own.note(MessageName { stored_us: 90, ..FIRST }, 2), "another worker may have died of it");
}

proptest! {
    /// Whatever workers are handed a message in whatever order: it is trusted exactly when all were us, as long as it is
    /// remembered, and never otherwise.
    #[test]
    fn no_message_is_trusted_that_another_worker_had(
        history in prop::collection::vec((0u64..6, any::<bool>()), 1..60),
        capacity in 1usize..8,
    ) {
        let mut own = OwnDeliveries::new(capacity);
        let mut delivered = [0u64; 6];
        let mut others = [false; 6];
        for (seq, to_us) in history {
            delivered[seq as usize] += 1;
            if to_us {
                let trusted = own.note(MessageName { stream_seq: seq, ..FIRST }, delivered[seq as usize]);
                prop_assert!(!(trusted && others[seq as usize]), "{seq} was with another worker");
                prop_assert!(trusted || others[seq as usize] || capacity < 6);
            } else {
                others[seq as usize] = true;
            }
            prop_assert!(own.seen.len() <= capacity && own.order.len() <= capacity);
        }
    }

    /// Workers take a job in any order and die of it, end it or are alive without having written the end: it runs at most
    /// [`MAX_STARTS`] times to the death of another, and is put aside exactly then.
    #[test]
    fn at_most_two_deaths_are_recorded(steps in prop::collection::vec((0u8..5, 0u8..3), 1..40)) {
        let mut record = Record::default();
        let mut dead_of_it: Vec<u8> = Vec::new();
        for (worker, fate) in steps {
            if dead_of_it.contains(&worker) {
                continue;
            }
            match record.decide(start(worker)) {
                Decision::Dead(record) => {
                    prop_assert!(record.starts.len() >= MAX_STARTS);
                    break;
                }
                Decision::Run(next) => {
                    prop_assert!(next.starts.len() <= MAX_STARTS);
                    record = match fate {
                        0 => { dead_of_it.push(worker); next }
                        1 => next.after(&start(worker)),
                        _ => next,
                    };
                }
            }
            prop_assert!(dead_of_it.len() <= MAX_STARTS);
        }
    }

    #[test]
    fn a_queue_gives_out_what_it_took_and_counts_it(
        jobs in prop::collection::vec((0usize..3, 0usize..50), 0..40),
        max_jobs in 1usize..20,
    ) {
        let mut queue = SuspectQueue::new(max_jobs, 200);
        let mut held = 0;
        for (lane, bytes) in jobs {
            if queue.has_room(1, bytes) {
                queue.push(Lane::ALL[lane], bytes, (lane, bytes));
                held += 1;
            }
            prop_assert!(queue.len() == held && held <= max_jobs && (queue.bytes <= 200 || held == 1));
        }
        let mut lanes = Vec::new();
        while let Some((lane, _)) = queue.pop() {
            lanes.push(lane);
        }
        prop_assert!(lanes.is_sorted() && lanes.len() == held);
        prop_assert_eq!((queue.jobs, queue.bytes), (0, 0));
    }
}
