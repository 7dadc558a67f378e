//! What is promised to the rows of a batch that failed, over devices of any memory and any broken rows.

use std::collections::BTreeMap;

use forebay_sched::{Fault, Retries, Round};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    id: usize,
    tokens: usize,
    /// Fails whatever it is in.
    broken: bool,
}

/// Fails batches of more than `memory` tokens, and those with a broken row.
fn run(rows: &[Row], memory: usize) -> Result<(), Fault> {
    if rows.iter().map(|row| row.tokens).sum::<usize>() > memory {
        return Err(Fault::Memory);
    }
    if rows.iter().any(|row| row.broken) { Err(Fault::Other) } else { Ok(()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_ends_once_and_none_that_fits_alone_fails_for_memory(
        batches in prop::collection::vec(prop::collection::vec((0..40_usize, prop::bool::weighted(0.05)), 1..20), 1..3),
        memory in 0..120_usize,
    ) {
        let mut next = 0..;
        let batches: Vec<Vec<Row>> = batches
            .into_iter()
            .map(|rows| rows.into_iter().map(|(tokens, broken)| Row { id: next.next().unwrap(), tokens, broken }).collect())
            .collect();
        let all: Vec<Row> = batches.iter().flatten().copied().collect();
        let mut retries = Retries::default();
        let mut ends: BTreeMap<usize, Result<(), Fault>> = BTreeMap::new();
        let mut end = |id, how| assert!(ends.insert(id, how).is_none(), "{id} ended twice");
        let mut tries = 0;
        // All of the first round were under way when the first failed.
        let mut firsts = batches.clone().into_iter();
        let mut last_id = None;
        while let Some((rows, round)) = firsts.next().map(|rows| (rows, Round::First)).or_else(|| retries.pop()) {
            tries += 1;
            prop_assert!(!rows.is_empty());
            prop_assert!(rows.iter().map(|row| row.id).is_sorted(), "order in a batch");
            prop_assert!(rows.len() == 1 || !matches!(round, Round::Alone | Round::Last));
            if round != Round::First {
                // Rows come again in order; one that is tried once more is the same as the last.
                prop_assert!(last_id <= Some(rows[0].id), "overtaken: {:?} before {:?}", last_id, rows[0].id);
            }
            match run(&rows, memory) {
                Ok(()) => {
                    if round != Round::First {
                        last_id = rows.last().map(|row| row.id);
                    }
                    for row in &rows {
                        end(row.id, Ok(()));
                    }
                }
                Err(fault) => {
                    if let Some(row) = retries.failed(rows, round, fault, |row| row.tokens) {
                        prop_assert!(round == Round::Last || fault == Fault::Other, "no last try");
                        end(row.id, Err(fault));
                    }
                }
            }
        }
        prop_assert!(retries.is_empty());
        prop_assert_eq!(ends.len(), all.len());
        for row in &all {
            let alone = run(&[*row], memory);
            prop_assert_eq!(ends[&row.id], alone, "{:?} ended unlike alone", row);
        }
        prop_assert!(tries <= 4 * all.len(), "{} tries for {} rows", tries, all.len());
    }
}

#[test]
fn a_batch_is_cut_in_the_middle_of_its_tokens() {
    for (tokens, cut) in
        [(vec![1, 1, 1, 9], 3), (vec![9, 1, 1, 1], 1), (vec![5, 5], 1), (vec![1, 2, 3, 4, 5], 3), (vec![0, 0], 1)]
    {
        let mut retries = Retries::default();
        assert_eq!(retries.failed(tokens.clone(), Round::First, Fault::Memory, |tokens| *tokens), None);
        assert_eq!(retries.pop(), Some((tokens[..cut].to_vec(), Round::Half)));
        assert_eq!(retries.pop(), Some((tokens[cut..].to_vec(), Round::Half)));
    }
}
