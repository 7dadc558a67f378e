use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn drain(drr: &mut Drr<u8, (u8, u64)>) -> Vec<(u8, u64)> {
    std::iter::from_fn(|| drr.pop()).collect()
}

#[test]
fn a_flood_that_came_first_does_not_stand_before_others() {
    let mut drr = Drr::new(10);
    (0..1000).for_each(|n| drr.push(1, 10, (1, n)));
    assert_eq!(drr.pop(), Some((1, 0)));
    drr.push(2, 10, (2, 0));
    let next: Vec<u8> = (0..2).filter_map(|_| drr.pop()).map(|(tenant, _)| tenant).collect();
    assert!(next.contains(&2), "{next:?}");
}

#[test]
fn a_lone_tenant_has_everything_and_its_order() {
    let mut drr = Drr::new(1);
    (0..5).for_each(|n| drr.push(7, 100, (7, n)));
    assert_eq!(drain(&mut drr).iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!((drr.rows(), drr.pop()), (0, None));
}

#[test]
fn a_huge_job_takes_its_turn_without_a_thousand_rounds() {
    let mut drr = Drr::new(1);
    drr.push(1, 1_000_000_000, (1, 0));
    drr.push(2, 999_999_999, (2, 0));
    assert_eq!(drain(&mut drr), [(2, 0), (1, 0)]);
}

#[test]
fn what_stands_before_a_newcomer_is_not_the_whole_flood() {
    let mut drr = Drr::new(10);
    (0..1000).for_each(|n| drr.push(1, 10, (1, n)));
    assert_eq!(drr.cost_before(&1, 10), 10_010, "behind its own");
    assert_eq!(drr.cost_before(&2, 10), 30, "its own, and as much and a quantum of the flood");
}

#[test]
fn what_is_withdrawn_vanishes() {
    let mut drr = Drr::new(10);
    (0..10).for_each(|n| drr.push((n % 2) as u8, 5, (0, n)));
    assert_eq!(drr.retain(|(_, n)| n % 2 == 0), 5);
    assert_eq!(drr.rows(), 5);
    assert_eq!(drain(&mut drr).iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, u64),
    Pop,
    /// Withdraws all jobs whose number divides so.
    Withdraw(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5, 1u64..400).prop_map(|(tenant, cost)| Step::Push(tenant, cost)),
        3 => Just(Step::Pop),
        1 => (2u64..5).prop_map(Step::Withdraw),
    ]
}

proptest! {
    #[test]
    fn every_job_comes_out_once_and_in_its_tenants_order(steps in prop::collection::vec(step(), 1..200), quantum in 0u64..200) {
        let mut drr = Drr::new(quantum);
        let mut expected: HashMap<u8, VecDeque<(u64, u64)>> = HashMap::new();
        let mut number = 0;
        let check = |drr: &Drr<u8, (u8, u64)>, expected: &HashMap<u8, VecDeque<(u64, u64)>>| {
            assert_eq!(drr.rows(), expected.values().map(VecDeque::len).sum::<usize>());
            assert_eq!(drr.cost, expected.values().flatten().map(|(_, cost)| cost).sum::<u64>());
            assert_eq!(drr.turns.len(), drr.queues.len());
        };
        for step in steps {
            match step {
                Step::Push(tenant, cost) => {
                    drr.push(tenant, cost, (tenant, number));
                    expected.entry(tenant).or_default().push_back((number, cost));
                    number += 1;
                }
                Step::Pop => {
                    let waiting = drr.rows();
                    let popped = drr.pop();
                    prop_assert_eq!(popped.is_some(), waiting > 0, "work-conserving");
                    if let Some((tenant, n)) = popped {
                        let first = expected.get_mut(&tenant).and_then(VecDeque::pop_front);
                        prop_assert_eq!(first.map(|(number, _)| number), Some(n));
                    }
                }
                Step::Withdraw(divisor) => {
                    drr.retain(|(_, n)| n % divisor != 0);
                    expected.values_mut().for_each(|queue| queue.retain(|(n, _)| n % divisor != 0));
                }
            }
            check(&drr, &expected);
        }
    }

    /// Tenants that wait all the time are served alike, whatever their jobs cost.
    #[test]
    fn backlogged_tenants_are_served_within_a_quantum_and_a_job(
        costs in prop::collection::vec(prop::collection::vec(1u64..300, 1..8), 2..6),
        quantum in 1u64..200,
        pops in 1usize..400,
    ) {
        let mut drr = Drr::new(quantum);
        for (tenant, costs) in costs.iter().enumerate() {
            // More than can be popped.
            costs.iter().cycle().take(pops + 1).for_each(|cost| drr.push(tenant as u8, *cost, (tenant as u8, *cost)));
        }
        let mut served = vec![0u64; costs.len()];
        for _ in 0..pops {
            let (tenant, cost) = drr.pop().unwrap();
            served[usize::from(tenant)] += cost;
            let bound = quantum + 2 * 300;
            let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
            prop_assert!(most - least <= bound, "{:?}, quantum {}", served, quantum);
        }
    }
}
