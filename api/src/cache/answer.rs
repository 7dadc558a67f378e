//! One request through the cache: what is there is taken, what is being computed is waited for, the rest is submitted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use forebay_shared::error::JobError;
use forebay_shared::job::{Input, Output};
use futures::FutureExt;
use futures::future::{join_all, try_join};
use rustc_hash::FxHashMap;

use super::flight::{Flight, Joined, Landing};
use super::key::{RequestKey, RowKey};
use super::{Cache, Policy, Series};
use crate::dispatch::Submission;
use crate::http::{AppState, Backend};

/// Outputs in the order of the rows.
#[derive(Debug)]
pub struct Answered {
    pub outputs: Vec<Output>,
    /// Nothing had to be computed for this request; `None` where there is no cache.
    pub hit: Option<bool>,
}

/// [`Backend::submit`], past what the cache knows. Dropping the future is dropping the submission.
///
/// # Errors
/// As [`Backend::submit`]. Errors are not kept; the error of a flight that another request began is this one's only if
/// it says something about this very row.
pub async fn answer<B: Backend>(
    state: &Arc<AppState<B>>,
    submission: Submission,
    policy: Policy,
) -> Result<Answered, JobError> {
    let Some(cache) = &state.cache else {
        return Ok(Answered { outputs: state.backend.submit(submission).await?, hit: None });
    };
    // Jobs under fixed ids are another's record of the work: they must run, or have run, under these.
    let request = match policy {
        Policy::Bypass => None,
        _ if submission.fixed.is_some() => None,
        _ => cache.request_key(&submission),
    };
    let Some(request) = request else {
        return Ok(Answered { outputs: state.backend.submit(submission).await?, hit: Some(false) });
    };
    Work::new(cache, state, submission, &request).run(policy).await
}

/// A request on its way through the cache.
struct Work<'a, B: Backend> {
    cache: &'a Arc<Cache>,
    state: &'a Arc<AppState<B>>,
    series: Arc<Series>,
    /// Without its rows.
    template: Submission,
    keys: Vec<RowKey>,
    /// Those that were not submitted and may have to be.
    rows: Vec<Option<Input>>,
    outputs: Vec<Option<Output>>,
    computed: usize,
}

/// A flight and which outputs its rows are: `(output, position)`.
struct Wanted {
    flight: Flight,
    number: u64,
    rows: usize,
    seats: Vec<(usize, usize)>,
}

impl<'a, B: Backend> Work<'a, B> {
    fn new(
        cache: &'a Arc<Cache>,
        state: &'a Arc<AppState<B>>,
        mut submission: Submission,
        request: &RequestKey,
    ) -> Self {
        let rows = std::mem::take(&mut submission.rows);
        let keys = rows.iter().map(|row| request.row(row)).collect();
        Self {
            cache,
            state,
            series: cache.series(&submission.model.name),
            template: submission,
            keys,
            outputs: vec![None; rows.len()],
            rows: rows.into_iter().map(Some).collect(),
            computed: 0,
        }
    }

    async fn run(mut self, policy: Policy) -> Result<Answered, JobError> {
        let mut may_join = policy == Policy::Use;
        let result = loop {
            if let Err(error) = self.round(policy, may_join).await {
                break Err(error);
            }
            if self.outputs.iter().all(Option::is_some) {
                break Ok(());
            }
            // Somebody else's flight failed. Waiting for another could go on for ever: now they are computed here.
            may_join = false;
        };
        self.series.misses.inc_by(self.computed as u64);
        self.series.hits.inc_by((self.keys.len() - self.computed.min(self.keys.len())) as u64);
        result?;
        Ok(Answered { outputs: self.outputs.into_iter().flatten().collect(), hit: Some(self.computed == 0) })
    }

    /// Tries to get every output that is missing; leaves those missing that another's flight did not bring.
    async fn round(&mut self, policy: Policy, may_join: bool) -> Result<(), JobError> {
        let (joined, own) = self.plan(policy, may_join);
        let own = self.depart(&own);
        if joined.is_empty() {
            // By far the most: no timer, because the queue keeps the deadline.
            if let Some(own) = own {
                let landing = own.flight.clone().await?;
                self.fill(&own.seats, &landing);
            }
            return Ok(());
        }
        let ours = async {
            match &own {
                Some(own) => own.flight.clone().await.map(Some),
                None => Ok(None),
            }
        };
        let theirs = async { Ok(join_all(joined.iter().map(|wanted| wanted.flight.clone())).await) };
        let waited = tokio::time::timeout_at(self.template.deadline.into(), try_join(ours, theirs)).await;
        let (landing, landings) = waited.map_err(|_| JobError::DeadlineExceeded)??;
        if let (Some(own), Some(landing)) = (&own, landing) {
            self.fill(&own.seats, &landing);
        }
        for (wanted, landing) in joined.iter().zip(landings) {
            match landing {
                Ok(outputs) => self.fill(&wanted.seats, &outputs),
                // It was this row alone, and it will not be better the next time.
                Err(error) if wanted.rows == 1 && is_about_input(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Takes what is kept, and divides the rest into what others compute and what is to be computed here.
    fn plan(&mut self, policy: Policy, may_join: bool) -> (Vec<Wanted>, Vec<usize>) {
        let (mut joined, mut own): (Vec<Wanted>, _) = (Vec::new(), Vec::new());
        for index in 0..self.keys.len() {
            if self.outputs[index].is_some() {
                continue;
            }
            let key = &self.keys[index];
            if policy == Policy::Use
                && let Some(kept) = self.cache.get(key)
            {
                self.outputs[index] = Some(kept);
                continue;
            }
            let found = may_join.then(|| self.cache.flights.join(key, self.template.lane, self.keys.len())).flatten();
            match found {
                None => own.push(index),
                Some(Joined { number, flight, rows, position }) => match joined.last_mut() {
                    Some(last) if last.number == number => last.seats.push((index, position)),
                    _ => joined.push(Wanted { flight, number, rows, seats: vec![(index, position)] }),
                },
            }
        }
        (joined, own)
    }

    /// Begins a flight with these rows, each once.
    fn depart(&mut self, own: &[usize]) -> Option<Wanted> {
        let (mut seats, mut keys, mut rows) = (Vec::with_capacity(own.len()), Vec::new(), Vec::new());
        let mut positions = FxHashMap::default();
        for &index in own {
            let key = self.keys[index];
            // Alone in its flight a row needs no looking up.
            let position = if own.len() == 1 { 0 } else { *positions.entry(key).or_insert(keys.len()) };
            seats.push((index, position));
            if position == keys.len()
                && let Some(row) = self.rows[index].take()
            {
                keys.push(key);
                rows.push(row);
            }
        }
        if rows.is_empty() {
            return None;
        }
        self.computed += rows.len();
        let Submission { model, tenant, lane, task, source, fixed: _, deadline, trace, rows: _ } = &self.template;
        let submission = Submission {
            model: Arc::clone(model),
            tenant: tenant.clone(),
            lane: *lane,
            task: task.clone(),
            source: *source,
            rows,
            fixed: None,
            deadline: *deadline,
            trace: *trace,
        };
        let keys: Arc<[RowKey]> = keys.into();
        let number = self.cache.flights.number();
        let aboard = Aboard { cache: Arc::clone(self.cache), number, keys: Arc::clone(&keys) };
        let flight = fly(Arc::clone(self.state), submission, aboard, Arc::clone(&self.series)).boxed().shared();
        self.cache.flights.depart(number, &flight, *lane, &keys);
        Some(Wanted { flight, number, rows: keys.len(), seats })
    }

    fn fill(&mut self, seats: &[(usize, usize)], landing: &[Output]) {
        for (index, position) in seats {
            self.outputs[*index] = landing.get(*position).cloned();
        }
    }
}

/// Computes the rows and keeps what comes of it.
async fn fly<B: Backend>(
    state: Arc<AppState<B>>,
    submission: Submission,
    aboard: Aboard,
    series: Arc<Series>,
) -> Landing {
    // A panic must not become everybody's who joined.
    let answered = AssertUnwindSafe(state.backend.submit(submission)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a submission panicked");
        Err(JobError::Internal)
    });
    let outputs = answered?;
    if outputs.len() != aboard.keys.len() {
        return Err(JobError::Internal);
    }
    for (key, output) in aboard.keys.iter().zip(&outputs) {
        aboard.cache.put(*key, output, &series);
    }
    Ok(Arc::new(outputs))
}

/// Takes a flight's berths away when it is over, whichever way.
struct Aboard {
    cache: Arc<Cache>,
    number: u64,
    keys: Arc<[RowKey]>,
}

impl Drop for Aboard {
    fn drop(&mut self) {
        self.cache.flights.leave(self.number, &self.keys);
    }
}

/// Says something about the input, not about the moment.
fn is_about_input(error: &JobError) -> bool {
    matches!(error, JobError::InvalidInput { .. } | JobError::InputTooLong { .. } | JobError::BadOutput { .. })
}
