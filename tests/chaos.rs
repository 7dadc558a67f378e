//! Everything dies, in a random order, under load, and nothing that was accepted is lost.
//!
//! `CHAOS_SECONDS` sets how long (60), `CHAOS_SEED` repeats a run; both are printed. See `tests/chaos/` for the parts:
//! `schedule` decides, `faults` acts, `traffic` and `background` send work, `history` judges, `table` prints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

#[path = "chaos/background.rs"]
mod background;
#[path = "chaos/counters.rs"]
mod counters;
#[path = "chaos/faults.rs"]
mod faults;
#[path = "chaos/history.rs"]
mod history;
#[path = "chaos/leaks.rs"]
mod leaks;
#[path = "chaos/schedule.rs"]
mod schedule;
#[path = "chaos/table.rs"]
mod table;
#[path = "chaos/traffic.rs"]
mod traffic;

use std::time::Duration;

use background::Background;
use counters::Counters;
use faults::{Faults, QUEUE_MAX_MESSAGES};
use forebay_shared::planted::Bug;
use history::{History, Judged};
use schedule::{Event, Kind, Topology};
use support::netns::Netns;
use support::{Cluster, ClusterOptions, Process, eventually, queue};
use traffic::Traffic;

/// Requests per second, and what a batch takes.
const USUAL: (f64, &str) = (150.0, "8ms");
/// Work is on its way at every moment.
const SLOW: (f64, &str) = (10.0, "400ms");
/// Of what was accepted with a worker, an api and a broker there.
const KEPT: f64 = 0.999;
const LONG: Duration = Duration::from_secs(30);

/// A schedule by hand: `(second, kind, target, lasts in milliseconds)`.
fn script(events: &[(f64, Kind, usize, u64)]) -> Vec<Event> {
    let event = |(at, kind, target, lasts): &(f64, Kind, usize, u64)| Event {
        at: Duration::from_secs_f64(*at),
        kind: *kind,
        target: *target,
        lasts: Duration::from_millis(*lasts),
    };
    events.iter().map(event).collect()
}

/// A test of the test: with `bug` in the system the suite finds a problem that names it.
async fn finds(bug: Bug, schedule: &[Event], named: &str) {
    let problems = run(schedule, 50, None, Some(bug)).await.problems();
    println!("{}: {problems:?}", bug.name());
    assert!(problems.iter().any(|problem| problem.contains(named)), "{} was not found: {problems:?}", bug.name());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number")))
}

fn options(base: &str, bug: Option<Bug>) -> ClusterOptions {
    let mut env = vec![
        ("FOREBAY_SIMULATED_BASE", base.to_owned()),
        ("FOREBAY_BATCH_MAX_ROWS", "16".to_owned()),
        ("FOREBAY_QUEUE_MAX_MESSAGES", QUEUE_MAX_MESSAGES.to_string()),
    ];
    env.extend(bug.map(|bug| ("FOREBAY_PLANTED_BUG", bug.name().to_owned())));
    ClusterOptions {
        apis: 2,
        workers: 2,
        aggregators: 2,
        model: "simulated".to_owned(),
        env,
        listen_everywhere: true,
        reapers: true,
        ..ClusterOptions::default()
    }
}

/// What a run found.
struct Run {
    history: History,
    counters: counters::Found,
    background: background::Ended,
    grown: Vec<String>,
    /// Redeliveries counted while nothing was wrong and nothing had been.
    causeless_redeliveries: f64,
}

impl Run {
    /// Everything that must not be, in words.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let history = &self.history;
        expect(history.wrong().is_empty(), format!("wrong answers: {:?}", history.wrong().first()));
        expect(history.hung().is_empty(), format!("requests hung: {:?}", history.hung().first()));
        let failed = history.requests.iter().find(|request| history.judge(request) == Judged::Failed);
        expect(history.kept() >= KEPT, format!("only {:.4} of the accepted were answered: {failed:?}", history.kept()));
        expect(self.counters.fallen.is_empty(), format!("counters fell: {:?}", self.counters.fallen.first()));
        let background = &self.background;
        expect(
            background.wrong_jobs.is_empty(),
            format!("jobs did not end as they should: {:?}", background.wrong_jobs),
        );
        expect(background.ended_twice.is_empty(), format!("jobs ended twice: {:?}", background.ended_twice));
        expect(background.wrong_lines.is_empty(), format!("lines of the batch: {:?}", background.wrong_lines));
        expect(self.grown.is_empty(), format!("processes grew: {:?}", self.grown));
        expect(
            self.causeless_redeliveries == 0.0,
            format!("{} jobs were delivered again with nothing wrong", self.causeless_redeliveries),
        );
        problems
    }
}

async fn run(schedule: &[Event], lines: usize, netns: Option<&Netns>, bug: Option<Bug>) -> Run {
    let (per_second, base) = if bug == Some(Bug::NoDuplicateSuppression) { SLOW } else { USUAL };
    let mut cluster = Cluster::start(options(base, bug)).await;
    if let Some(netns) = netns {
        cluster.add_worker_in(netns);
        cluster.ready().await;
    }
    let aggregators = (0..2).map(|index| cluster.aggregator(index).addr()).collect();
    let counters = Counters::watch(aggregators);
    let traffic = Traffic::start(cluster.api_addrs(), cluster.model_name(), per_second);
    let background = Background::start(&cluster, lines).await;
    eventually("work flows", LONG, || async { traffic.right() > 20 }).await;
    let before = leaks::held(processes(&cluster));
    // Nothing is wrong yet: nothing may be delivered twice.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let causeless_redeliveries = counters::total(&counters.last(), "forebay_redelivered_total");
    let faults = Faults::new(&mut cluster, netns).run(schedule).await;
    // What is still on its way gets its time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = traffic.stop().await;
    // What a planted bug breaks need not be waited for.
    let limit = if bug.is_some() { Duration::from_secs(8) } else { background::END_LIMIT };
    let background = background.end(limit).await;
    if bug.is_none() {
        queue::is_empty_in_the_end(&cluster).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = leaks::held(processes(&cluster));
    let grown = leaks::grown(&before, &after);
    let counters = counters.stop().await;
    let history = History { requests, faults, one_broker: true };
    let extra = [
        ("pages of metrics compared", counters.pages.to_string()),
        ("asynchronous jobs accepted", background.accepted.to_string()),
        ("of these not ended as they should", background.wrong_jobs.len().to_string()),
        ("of these ended twice", background.ended_twice.len().to_string()),
        ("lines of a batch", background.lines.to_string()),
        ("of these missing, doubled or wrong", background.wrong_lines.len().to_string()),
        ("lost", (background.wrong_jobs.len() + background.wrong_lines.len() + history.hung().len()).to_string()),
    ];
    println!("\n{}", table::table(&history, &counters.last, &extra));
    Run { history, background, counters, grown, causeless_redeliveries }
}

fn processes(cluster: &Cluster) -> impl Iterator<Item = &Process> {
    let apis = (0..2).map(|index| cluster.api(index));
    let aggregators = (0..2).map(|index| cluster.aggregator(index));
    apis.chain(cluster.workers()).chain(aggregators)
}

#[tokio::test]
async fn everything_dies_and_nothing_that_was_accepted_is_lost() {
    let length = Duration::from_secs(setting("CHAOS_SECONDS").unwrap_or(60));
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let netns = Netns::create();
    let can_partition = netns.is_some();
    let workers = 2 + usize::from(can_partition);
    let topology = Topology { workers, apis: 2, aggregators: 2, brokers: 1, can_partition };
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={} can_partition={can_partition}", length.as_secs());
    // As many as keep the batch going for most of the run, beside everything else.
    let lines = 30 * length.as_secs() as usize;
    let run = run(&schedule::schedule(seed, length, topology), lines, netns.as_ref(), None).await;
    let problems = run.problems();
    assert!(problems.is_empty(), "CHAOS_SEED={seed}\n{}", problems.join("\n"));
}

#[tokio::test]
async fn a_worker_that_acknowledges_before_it_answers_is_found() {
    let kills = [(0.5, Kind::KillWorker, 0, 400), (3.0, Kind::KillWorker, 1, 400), (5.5, Kind::KillWorker, 0, 400)];
    finds(Bug::AckBeforeAnswer, &script(&kills), "of the accepted were answered").await;
}

#[tokio::test]
async fn a_counter_that_forgets_the_dead_is_found() {
    finds(Bug::CounterReset, &script(&[(0.5, Kind::KillWorker, 0, 5_000)]), "counters fell").await;
}

#[tokio::test]
async fn an_end_that_is_written_over_an_end_is_found() {
    let pauses =
        [(0.5, Kind::FreezeApi, 0, 6_500), (8.0, Kind::FreezeApi, 1, 6_500), (15.5, Kind::FreezeApi, 0, 6_500)];
    finds(Bug::NoDuplicateSuppression, &script(&pauses), "jobs ended twice").await;
}

#[tokio::test]
async fn a_reaper_that_takes_from_the_living_is_found() {
    finds(Bug::NakOfLiveJob, &[], "delivered again with nothing wrong").await;
}
