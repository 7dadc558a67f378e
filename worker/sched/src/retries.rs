//! What is run again after a batch failed, and which rows fail for good (between steps 5 and 6 of the data path).
//!
//! ```text
//! First ──memory, rows──▶ two of Half ──memory, rows──▶ two of Half …
//!   │ │                        │ └──memory, one row──▶ Last ──▶ failed
//!   │ └──memory, one row───────┼───────────────────────▲
//!   └──otherwise, rows──▶ one Alone per row ──memory───┘
//!                              └──otherwise, one row──▶ failed (from any round)
//! ```
//! A batch for which memory did not suffice is halved by tokens, in order, until the parts fit; its rows are not run one
//! by one, which would cost a full batch dearly. A row is given one last try, as what it lacked may have been taken by
//! something else. A batch that failed otherwise is run row by row, so that only the rows that fail alone are failed.
//!
//! Every round but `First` must run with **nothing else under way**: memory that another batch holds is no reason to fail
//! a row, and what fails then fails by itself.
//!
//! Invariants, each held by a property test: every row that failed in a batch comes out again exactly once, to be tried or
//! as failed; a row that fits alone is never failed for memory; order within a batch stays; a batch of `n` rows costs at
//! most `4 n` tries.

use std::collections::VecDeque;

/// How a batch came to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// As the batcher formed it.
    First,
    /// Part of a batch for which memory did not suffice.
    Half,
    /// One row of a batch that failed for another reason.
    Alone,
    /// A row for which memory did not suffice.
    Last,
}

/// Why a batch failed, as far as it decides what is run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Memory,
    Other,
}

/// Batches that wait to be tried again.
#[derive(Debug, Clone)]
pub struct Retries<T> {
    waiting: VecDeque<(Vec<T>, Round)>,
}

impl<T> Default for Retries<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Retries<T> {
    /// Decides about a batch that failed in `round`. Returns the row that failed for good, if it is one.
    pub fn failed(&mut self, mut rows: Vec<T>, round: Round, fault: Fault, tokens: impl Fn(&T) -> usize) -> Option<T> {
        let again: Vec<(Vec<T>, Round)> = match (fault, rows.len()) {
            (_, 0) => Vec::new(),
            (Fault::Memory, 1) if round != Round::Last => vec![(rows, Round::Last)],
            (_, 1) => return rows.pop(),
            (Fault::Memory, _) => {
                let second = rows.split_off(middle(&rows, tokens));
                vec![(rows, Round::Half), (second, Round::Half)]
            }
            (Fault::Other, _) => rows.into_iter().map(|row| (vec![row], Round::Alone)).collect(),
        };
        match round {
            // What failed before it comes first.
            Round::First => self.waiting.extend(again),
            // It was first in line, and so are its parts.
            _ => again.into_iter().rev().for_each(|batch| self.waiting.push_front(batch)),
        }
        None
    }

    /// Takes out what is to be tried next.
    pub fn pop(&mut self) -> Option<(Vec<T>, Round)> {
        self.waiting.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Where to cut, so that both parts have rows and their tokens are as equal as order allows.
fn middle<T>(rows: &[T], tokens: impl Fn(&T) -> usize) -> usize {
    let all: usize = rows.iter().map(&tokens).sum();
    let mut before = 0;
    for (index, row) in rows.iter().enumerate() {
        let with = before + tokens(row);
        if 2 * with >= all {
            // With this row or without it, whichever is nearer to a half.
            let cut = if 2 * with - all <= all.saturating_sub(2 * before) { index + 1 } else { index };
            return cut.clamp(1, rows.len() - 1);
        }
        before = with;
    }
    rows.len() / 2
}
