use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use forebay_shared::error::JobError;
use forebay_shared::ids::{Lane, TenantName};
use forebay_shared::job::{EmbedParams, Input, Task};
use forebay_shared::metrics::JobSource;
use forebay_shared::trace::TraceContext;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::answer::{Answered, answer};
use super::*;
use crate::http::AppState;
use crate::http::fake::{FakeFleet, model};

#[path = "cost.rs"]
mod cost;

const BIG: u64 = 1 << 20;
type Result<T> = std::result::Result<T, JobError>;
type State = Arc<AppState<FakeFleet>>;

/// What the model says to an input: its bytes.
fn output(input: &Input) -> Output {
    let Input::Text(text) = input else { panic!("a text") };
    Output { tokens: text.len() as u32, device_us: 7, vector: text.as_bytes().to_vec() }
}

fn outputs(submission: &Submission) -> Vec<Output> {
    submission.rows.iter().map(output).collect()
}

type Respond = Box<dyn Fn(&Submission) -> BoxFuture<'static, Result<Vec<Output>>> + Send + Sync>;

fn api(max_bytes: u64, respond: Respond) -> State {
    let state = FakeFleet { respond, ..FakeFleet::default() }.state();
    state.metrics.register_model(&"org/m".into());
    let cache = Cache::new(max_bytes, Scope::Tenant, Arc::clone(&state.metrics));
    Arc::new(state.with_cache(cache))
}

/// Answers at once.
fn prompt(max_bytes: u64) -> State {
    api(max_bytes, Box::new(|submission| Box::pin(std::future::ready(Ok(outputs(submission))))))
}

/// Answers when it is told to, and counts submissions that were dropped unanswered.
#[derive(Default)]
struct Held {
    doors: Mutex<Vec<Option<oneshot::Sender<Result<()>>>>>,
    dropped: AtomicUsize,
}

struct CountDrop(Arc<Held>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Held {
    fn api() -> (State, Arc<Self>) {
        let held = Arc::new(Self::default());
        let of_backend = Arc::clone(&held);
        let respond: Respond = Box::new(move |submission| {
            let (door, opened) = oneshot::channel();
            of_backend.doors.lock().push(Some(door));
            let (outputs, count) = (outputs(submission), CountDrop(Arc::clone(&of_backend), false));
            let deadline = submission.deadline;
            Box::pin(async move {
                let mut count = count;
                let told = tokio::time::timeout_at(deadline.into(), opened).await;
                count.1 = true;
                told.unwrap_or(Ok(Err(JobError::DeadlineExceeded))).unwrap_or(Err(JobError::Internal)).map(|()| outputs)
            })
        });
        (api(BIG, respond), held)
    }

    fn open(&self, index: usize, result: Result<()>) {
        self.doors.lock()[index].take().unwrap().send(result).unwrap();
    }

    fn begun(&self) -> usize {
        self.doors.lock().len()
    }
}

fn request(rows: &[&str]) -> Submission {
    Submission {
        model: model("org/m"),
        tenant: TenantName::default(),
        lane: Lane::Normal,
        task: Task::Embed(EmbedParams::default()),
        source: JobSource::Request,
        rows: rows.iter().map(|row| Input::Text((*row).into())).collect(),
        fixed: None,
        deadline: Instant::now() + Duration::from_secs(60),
        trace: TraceContext::root(),
    }
}

fn ask(state: &State, submission: Submission) -> BoxFuture<'static, Result<Answered>> {
    let state = Arc::clone(state);
    async move { answer(&state, submission, Policy::Use).await }.boxed()
}

/// Polls once.
fn poll(future: &mut BoxFuture<'static, Result<Answered>>) -> Option<Result<Answered>> {
    future.now_or_never()
}

fn vectors(answered: &Answered) -> Vec<&str> {
    answered.outputs.iter().map(|output| std::str::from_utf8(&output.vector).unwrap()).collect()
}

fn submitted(state: &State) -> Vec<usize> {
    state.backend.submitted.lock().iter().map(|submission| submission.rows.len()).collect()
}

fn no_flight_is_left(state: &State) -> bool {
    state.cache.as_ref().unwrap().flights.is_empty()
}

#[tokio::test]
async fn of_a_request_only_the_rows_that_are_not_kept_are_computed() {
    let state = prompt(BIG);
    assert_eq!(ask(&state, request(&["a", "b"])).await.unwrap().hit, Some(false));
    let answered = ask(&state, request(&["c", "b", "d", "a", "c"])).await.unwrap();
    assert_eq!((vectors(&answered), answered.hit), (vec!["c", "b", "d", "a", "c"], Some(false)));
    assert_eq!(submitted(&state), [2, 2]);
    let answered = ask(&state, request(&["d", "a"])).await.unwrap();
    assert_eq!((vectors(&answered), answered.hit), (vec!["d", "a"], Some(true)));
    assert_eq!(submitted(&state), [2, 2]);
    assert!(answered.outputs.iter().all(|output| output.device_us == 0 && output.tokens == 1));
    let count = |family: &forebay_shared::metrics::Family<Counter, (ModelName,)>| family.with(&("org/m".into(),)).get();
    assert_eq!((count(&state.metrics.cache_hits_total), count(&state.metrics.cache_misses_total)), (5, 4));
    assert!(no_flight_is_left(&state));
}

#[tokio::test]
async fn answers_are_a_tenants_own_unless_they_are_shared() {
    for (scope, computed) in [(Scope::Tenant, 2), (Scope::Shared, 1)] {
        let state = prompt(0);
        let cache = Cache::new(BIG, scope, Arc::clone(&state.metrics));
        let state = Arc::new(Arc::into_inner(state).unwrap().with_cache(cache));
        for tenant in ["a", "b", "a"] {
            ask(&state, Submission { tenant: tenant.into(), ..request(&["x"]) }).await.unwrap();
        }
        assert_eq!(submitted(&state).len(), computed, "{scope:?}");
    }
}

#[tokio::test]
async fn another_token_or_other_parameters_are_another_row() {
    let state = prompt(BIG);
    let of_revision = |token: &str| {
        let record = forebay_shared::model::ModelRecord { token: token.into(), ..(*model("org/m")).clone() };
        Submission { model: Arc::new(record), ..request(&["x"]) }
    };
    let truncate = Task::Embed(EmbedParams { truncate: true, ..EmbedParams::default() });
    for _ in 0..2 {
        ask(&state, of_revision("m-1")).await.unwrap();
        ask(&state, of_revision("m-2")).await.unwrap();
        ask(&state, Submission { task: truncate.clone(), ..request(&["x"]) }).await.unwrap();
    }
    assert_eq!(submitted(&state).len(), 3);
}

#[tokio::test]
async fn a_client_may_refuse_to_be_answered_from_what_is_kept() {
    let state = prompt(BIG);
    let with = async |policy| answer(&state, request(&["x"]), policy).await.unwrap().hit;
    assert_eq!(with(Policy::Bypass).await, Some(false));
    assert_eq!(with(Policy::Use).await, Some(false), "no-store keeps nothing");
    assert_eq!(with(Policy::Bypass).await, Some(false), "and looks for nothing");
    assert_eq!(with(Policy::Refresh).await, Some(false));
    assert_eq!(with(Policy::Use).await, Some(true));
    assert_eq!(submitted(&state).len(), 4);
}

#[test]
fn cache_control_is_read_as_it_is_written() {
    for (values, policy) in [
        (&[][..], Policy::Use),
        (&["max-age=0"], Policy::Use),
        (&["no-cache"], Policy::Refresh),
        (&["max-age=0, No-Cache"], Policy::Refresh),
        (&["no-cache,no-store"], Policy::Bypass),
        (&["no-cache", "NO-STORE"], Policy::Bypass),
        (&["no-storefront"], Policy::Use),
    ] {
        let name = HeaderName::from_static("cache-control");
        let headers = values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect();
        assert_eq!(Policy::of(&headers), policy, "{values:?}");
    }
}

#[tokio::test]
async fn identical_rows_at_the_same_time_are_computed_once() {
    let (state, held) = Held::api();
    let mut waiting: Vec<_> = (0..5).map(|_| ask(&state, request(&["x"]))).collect();
    waiting.push(ask(&state, request(&["y", "x"])));
    assert!(waiting.iter_mut().all(|one| poll(one).is_none()));
    assert_eq!(submitted(&state), [1, 1], "x, and y alone");
    held.open(0, Ok(()));
    held.open(1, Ok(()));
    let answers: Vec<_> = join_all(waiting).await.into_iter().map(|answered| answered.unwrap()).collect();
    assert!(answers[..5].iter().all(|answered| vectors(answered) == ["x"]));
    assert_eq!(vectors(&answers[5]), ["y", "x"]);
    assert_eq!(
        answers.iter().map(|answered| answered.hit.unwrap()).collect::<Vec<_>>(),
        [false, true, true, true, true, false]
    );
    assert!(no_flight_is_left(&state));
}

#[tokio::test]
async fn the_last_to_go_cancels_and_nobody_before() {
    let (state, held) = Held::api();
    let (mut leader, mut follower) = (ask(&state, request(&["x"])), ask(&state, request(&["x"])));
    assert!(poll(&mut leader).is_none() && poll(&mut follower).is_none());
    drop(leader);
    assert!(poll(&mut follower).is_none());
    assert_eq!((held.begun(), held.dropped.load(Ordering::Relaxed)), (1, 0), "it goes on for who is left");
    drop(follower);
    assert_eq!((held.dropped.load(Ordering::Relaxed), no_flight_is_left(&state)), (1, true));
    let mut next = ask(&state, request(&["x"]));
    assert!(poll(&mut next).is_none());
    held.open(1, Ok(()));
    assert_eq!(vectors(&next.await.unwrap()), ["x"]);
}

#[tokio::test]
async fn who_joins_inherits_neither_the_deadline_nor_the_failure() {
    let (state, held) = Held::api();
    let short = Instant::now() + Duration::from_secs(1);
    let (mut leader, mut follower) =
        (ask(&state, Submission { deadline: short, ..request(&["x"]) }), ask(&state, request(&["x"])));
    assert!(poll(&mut leader).is_none() && poll(&mut follower).is_none());
    assert_eq!(leader.await.unwrap_err(), JobError::DeadlineExceeded);
    assert!(poll(&mut follower).is_none());
    assert_eq!(held.begun(), 2, "it computes the row itself");
    held.open(1, Ok(()));
    assert_eq!(vectors(&follower.await.unwrap()), ["x"]);

    let mut both: Vec<_> = (0..2).map(|_| ask(&state, request(&["y"]))).collect();
    assert!(both.iter_mut().all(|one| poll(one).is_none()));
    held.open(2, Err(JobError::Overloaded { retry_after_ms: 1 }));
    assert_eq!(both.remove(0).await.unwrap_err(), JobError::Overloaded { retry_after_ms: 1 });
    assert!(poll(&mut both[0]).is_none());
    held.open(3, Ok(()));
    assert_eq!(vectors(&both.remove(0).await.unwrap()), ["y"]);
    assert!(no_flight_is_left(&state));
}

#[tokio::test]
async fn who_joins_keeps_its_own_deadline() {
    let (state, _held) = Held::api();
    let mut leader = ask(&state, request(&["x"]));
    assert!(poll(&mut leader).is_none());
    let deadline = Instant::now() + Duration::from_secs(1);
    assert_eq!(ask(&state, Submission { deadline, ..request(&["x"]) }).await.unwrap_err(), JobError::DeadlineExceeded);
    assert!(poll(&mut leader).is_none());
}

#[tokio::test]
async fn an_error_is_not_kept_and_one_about_the_row_is_everybodys() {
    let (state, held) = Held::api();
    let mut both: Vec<_> = (0..2).map(|_| ask(&state, request(&["x"]))).collect();
    assert!(both.iter_mut().all(|one| poll(one).is_none()));
    let too_long = JobError::InputTooLong { got: 9, max: 8 };
    held.open(0, Err(too_long.clone()));
    for one in both {
        assert_eq!(one.await.unwrap_err(), too_long);
    }
    assert_eq!(held.begun(), 1);
    let mut next = ask(&state, request(&["x"]));
    assert!(poll(&mut next).is_none());
    assert_eq!(held.begun(), 2, "errors are not kept");
}

#[tokio::test]
async fn nobody_waits_in_a_lane_below_its_own_or_for_a_much_larger_request() {
    let (state, held) = Held::api();
    let mut low = ask(&state, Submission { lane: Lane::Low, ..request(&["x"]) });
    let mut high = ask(&state, Submission { lane: Lane::High, ..request(&["x"]) });
    let mut normal = ask(&state, request(&["x"]));
    assert!(poll(&mut low).is_none() && poll(&mut high).is_none() && poll(&mut normal).is_none());
    assert_eq!(held.begun(), 2, "high does not wait in low, normal waits in high");
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut large = ask(&state, request(&many));
    let mut small = ask(&state, request(&["7"]));
    let mut alike = ask(&state, request(&many));
    assert!(poll(&mut large).is_none() && poll(&mut small).is_none() && poll(&mut alike).is_none());
    assert_eq!(held.begun(), 4, "the small one goes alone, the one that is alike joins");
}

#[tokio::test]
async fn a_panic_below_is_an_internal_error_for_all_who_wait() {
    let (door, opened) = oneshot::channel::<()>();
    let opened = Mutex::new(Some(opened));
    let state = api(
        BIG,
        Box::new(move |_| {
            let opened = opened.lock().take();
            Box::pin(async move {
                if let Some(opened) = opened {
                    let _told = opened.await;
                    panic!("no");
                }
                Err(JobError::Cancelled)
            })
        }),
    );
    let mut both: Vec<_> = (0..2).map(|_| ask(&state, request(&["x"]))).collect();
    assert!(both.iter_mut().all(|one| poll(one).is_none()));
    door.send(()).unwrap();
    assert_eq!(both.remove(0).await.unwrap_err(), JobError::Internal);
    assert_eq!(both.remove(0).await.unwrap_err(), JobError::Cancelled, "it tried again by itself");
    assert!(no_flight_is_left(&state));
}

#[tokio::test]
async fn kept_bytes_stay_within_the_bound() {
    let state = prompt(10 * (ENTRY_BYTES as u64 + 4));
    let cache = Arc::clone(state.cache.as_ref().unwrap());
    for n in 0..100 {
        ask(&state, request(&[&format!("{n:04}")])).await.unwrap();
    }
    cache.sample();
    let bytes = state.metrics.cache_size_bytes.get();
    assert!(bytes > 0.0 && bytes <= 10.0 * (ENTRY_BYTES as f64 + 4.0), "{bytes} bytes");
    let evicted = state.metrics.cache_evictions_total.with(&("org/m".into(),)).get();
    assert_eq!(evicted as usize, 100 - cache.kept.entry_count() as usize);
    let huge = "x".repeat(20_000);
    ask(&state, request(&[&huge])).await.unwrap();
    cache.sample();
    assert!(state.metrics.cache_size_bytes.get() <= bytes);
}

#[tokio::test]
async fn work_under_fixed_ids_is_always_submitted_under_them() {
    let state = prompt(BIG);
    let fixed = crate::dispatch::FixedIds { jobs: vec![forebay_shared::ids::JobId::random()], generation: 0 };
    for _ in 0..2 {
        ask(&state, Submission { fixed: Some(fixed.clone()), ..request(&["x"]) }).await.unwrap();
    }
    assert_eq!(submitted(&state), [1, 1]);
    assert!(state.backend.submitted.lock().iter().all(|submission| submission.fixed.is_some()));
}

proptest! {
    /// Requests begin, are looked at, go away and their submissions end well or badly in any order: whoever gets an
    /// answer gets the bytes that a submission of its own would give, nobody waits for ever, and nothing is left.
    #[test]
    fn any_interleaving_gives_the_same_bytes_as_no_cache(
        steps in prop::collection::vec((0u8..5, 0usize..8, prop::collection::vec(0usize..4, 1..4)), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (state, held) = Held::api();
            let mut waiting: HashMap<usize, (Vec<&str>, BoxFuture<'static, Result<Answered>>)> = HashMap::new();
            let check = |rows: &[&str], answered: Result<Answered>| match answered {
                Ok(answered) => assert_eq!(vectors(&answered), rows),
                Err(error) => assert_eq!(error, JobError::Cancelled),
            };
            for (number, (step, which, rows)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let rows: Vec<&str> = rows.iter().map(|row| ["a", "b", "c", "d"][*row]).collect();
                        let lane = Lane::ALL[which % 3];
                        let mut begun = ask(&state, Submission { lane, ..request(&rows) });
                        match poll(&mut begun) {
                            Some(answered) => check(&rows, answered),
                            None => { waiting.insert(number, (rows, begun)); }
                        }
                    }
                    2 => {
                        let key = waiting.keys().copied().min_by_key(|key| key.abs_diff(which * 4));
                        drop(key.and_then(|key| waiting.remove(&key)));
                    }
                    _ => {
                        let closed: Vec<usize> = (0..held.begun()).filter(|index| held.doors.lock()[*index].is_some()).collect();
                        if let Some(index) = closed.get(which % closed.len().max(1)) {
                            let door = held.doors.lock()[*index].take().unwrap();
                            let _gone = door.send(if step == 3 { Ok(()) } else { Err(JobError::Cancelled) });
                        }
                        for key in waiting.keys().copied().collect::<Vec<_>>() {
                            let (rows, one) = waiting.get_mut(&key).unwrap();
                            if let Some(answered) = poll(one) {
                                check(rows, answered);
                                waiting.remove(&key);
                            }
                        }
                    }
                }
            }
            // Everything is let go: everybody is answered, in a bounded number of rounds.
            for _ in 0..4 {
                for door in held.doors.lock().iter_mut().filter_map(Option::take) {
                    let _gone = door.send(Ok(()));
                }
                for key in waiting.keys().copied().collect::<Vec<_>>() {
                    let (rows, one) = waiting.get_mut(&key).unwrap();
                    if let Some(answered) = poll(one) {
                        check(rows, answered);
                        waiting.remove(&key);
                    }
                }
            }
            assert!(waiting.is_empty(), "{} wait for ever", waiting.len());
            assert!(no_flight_is_left(&state));
        });
    }
}
