//! Puts the rows of one request together again, in order, whichever worker answers which first.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use forebay_shared::error::JobError;
use forebay_shared::job::Output;

use super::pending::Outcome;

/// The answers of one request as they come in.
#[derive(Debug)]
pub(crate) struct Gather(Mutex<State>);

#[derive(Debug)]
struct State {
    rows: Vec<Option<Output>>,
    missing: usize,
    /// Gone once the request was answered.
    answer: Option<oneshot::Sender<Result<Vec<Output>, JobError>>>,
}

pub(crate) type Answer = oneshot::Receiver<Result<Vec<Output>, JobError>>;

impl Gather {
    pub(crate) fn new(rows: usize) -> (Self, Answer) {
        let (sender, receiver) = oneshot::channel();
        let state = State { rows: vec![None; rows], missing: rows, answer: Some(sender) };
        (Self(Mutex::new(state)), receiver)
    }

    /// Takes the answer of one row. The first error answers the request: its other rows are of no use any more.
    pub(crate) fn fill(&self, index: usize, outcome: Outcome) {
        let mut state = self.0.lock();
        match outcome {
            Ok(output) => {
                let Some(slot) = state.rows.get_mut(index) else { return };
                if slot.replace(output).is_none() {
                    state.missing -= 1;
                }
                if state.missing == 0 {
                    let rows = std::mem::take(&mut state.rows).into_iter().flatten().collect();
                    state.send(Ok(rows));
                }
            }
            Err(error) => state.send(Err(error)),
        }
    }

    /// Nobody waits any more: answered, or the request's future is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl State {
    fn send(&mut self, answer: Result<Vec<Output>, JobError>) {
        if let Some(sender) = self.answer.take() {
            // A receiver that is gone has timed out or disconnected, and has withdrawn its jobs.
            let _gone = sender.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(tokens: u32) -> Output {
        Output { tokens, device_us: 0, vector: Vec::new() }
    }

    #[test]
    fn rows_come_out_in_the_order_of_the_request() {
        let (gather, mut answer) = Gather::new(3);
        for index in [2, 0, 1] {
            assert!(answer.try_recv().is_err());
            gather.fill(index, Ok(output(index as u32)));
        }
        let rows = answer.try_recv().unwrap().unwrap();
        assert_eq!(rows.iter().map(|row| row.tokens).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(gather.is_over());
    }

    #[test]
    fn the_first_error_answers_and_later_rows_change_nothing() {
        let (gather, mut answer) = Gather::new(2);
        gather.fill(1, Err(JobError::Cancelled));
        gather.fill(0, Ok(output(1)));
        assert_eq!(answer.try_recv().unwrap(), Err(JobError::Cancelled));
    }

    #[test]
    fn a_row_that_is_answered_twice_counts_once() {
        let (gather, mut answer) = Gather::new(2);
        gather.fill(0, Ok(output(1)));
        gather.fill(0, Ok(output(1)));
        assert!(answer.try_recv().is_err());
    }
}
