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
use leaks::Leaks;
use schedule::{Event, Kind, Topology};
use support::netns::Netns;
use support::{Cluster, ClusterOptions, eventually, queue};
use traffic::Traffic;

/// Requests per second, and what a batch takes.
const USUAL: (f64, &str) = (150.0, "8ms");
/// Work is on its way at every moment.
const SLOW: (f64, &str) = (30.0, "400ms");
/// Of each role so many are disturbed, and one more never is: it has to serve all the time, and is the one in which a leak
/// would show.
const DISTURBED: usize = 2;
/// Of what was accepted with a worker, an api and a broker there.
const KEPT: f64 = 0.999;
/// Of all requests, whatever was down: the only broker may be killed every few seconds, but not be away for most of a run.
const ANSWERED: f64 = 0.5;
const LONG: Duration = Duration::from_secs(30);
/// What every request is given: enough for a broker that is away for 1.5 s and the 9 s that deliveries may take to come back;
/// three brokers choose a leader in 5 to 8 s, and lend a delivery for 15 s.
const TIMEOUT: Duration = Duration::from_secs(15);
const REPLICATED_TIMEOUT: Duration = Duration::from_secs(40);

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
    let system = System { brokers: 1, netns: None, bug: Some(bug) };
    let problems = run(schedule, 50, system).await.problems();
    println!("{}: {problems:?}", bug.name());
    assert!(problems.iter().any(|problem| problem.contains(named)), "{} was not found: {problems:?}", bug.name());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number")))
}

fn options(base: &str, brokers: usize, bug: Option<Bug>) -> ClusterOptions {
    let mut env = vec![
        ("FOREBAY_SIMULATED_BASE", base.to_owned()),
        ("FOREBAY_BATCH_MAX_ROWS", "16".to_owned()),
        ("FOREBAY_QUEUE_MAX_MESSAGES", QUEUE_MAX_MESSAGES.to_string()),
    ];
    env.extend(bug.map(|bug| ("FOREBAY_PLANTED_BUG", bug.name().to_owned())));
    if brokers > 1 {
        env.push(("FOREBAY_DURABILITY", "replicated".to_owned()));
    }
    ClusterOptions {
        brokers,
        apis: DISTURBED + 1,
        workers: DISTURBED,
        aggregators: DISTURBED + 1,
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
    leaks: leaks::Found,
    /// Processes that were not disturbed.
    witnesses: [String; 3],
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
        expect(background.unseen.is_empty(), format!("jobs whose end was not seen: {:?}", background.unseen));
        let strange = &background.strange;
        expect(strange.len() <= 1, format!("more jobs than were asked for, under one key: {strange:?}"));
        expect(background.ended_twice.is_empty(), format!("jobs ended twice: {:?}", background.ended_twice));
        expect(background.wrong_lines.is_empty(), format!("lines of the batch: {:?}", background.wrong_lines));
        let answered = history.answered();
        expect(answered >= ANSWERED, format!("only {answered:.2} of all requests were answered"));
        expect(self.leaks.grown.is_empty(), format!("processes grew: {:?}", self.leaks.grown));
        let watched = |name: &&String| self.leaks.judged.contains(*name);
        let unwatched: Vec<&String> = self.witnesses.iter().filter(|name| !watched(name)).collect();
        expect(unwatched.is_empty(), format!("nobody looked at the memory of {unwatched:?}"));
        expect(
            self.causeless_redeliveries == 0.0,
            format!("{} jobs were delivered again with nothing wrong", self.causeless_redeliveries),
        );
        problems
    }
}

/// What is disturbed.
#[derive(Clone, Copy)]
struct System<'a> {
    /// One, or three that are one queue.
    brokers: usize,
    /// Where one more worker lives.
    netns: Option<&'a Netns>,
    bug: Option<Bug>,
}

async fn run(schedule: &[Event], lines: usize, System { brokers, netns, bug }: System<'_>) -> Run {
    let needs_work_in_flight = matches!(bug, Some(Bug::NoDuplicateSuppression | Bug::AckBeforeAnswer));
    let (per_second, base) = if needs_work_in_flight { SLOW } else { USUAL };
    let mut cluster = Cluster::start(options(base, brokers, bug)).await;
    if let Some(netns) = netns {
        cluster.add_worker_in(netns);
    }
    cluster.add_worker();
    cluster.ready().await;
    let witnesses = [
        cluster.api(DISTURBED).name().to_owned(),
        cluster.aggregator(DISTURBED).name().to_owned(),
        cluster.workers().last().expect("it was just added").name().to_owned(),
    ];
    let aggregators = (0..=DISTURBED).map(|index| cluster.aggregator(index).addr()).collect();
    let counters = Counters::watch(aggregators);
    let timeout = if brokers > 1 { REPLICATED_TIMEOUT } else { TIMEOUT };
    let traffic = Traffic::start(cluster.api_addrs(), cluster.model_name(), per_second, timeout);
    let background = Background::start(&cluster, lines).await;
    eventually("work flows", LONG, || async { traffic.right() > 20 }).await;
    let leaks = Leaks::watch();
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
    let leaks = leaks.stop();
    let counters = counters.stop().await;
    let history = History { requests, faults, one_broker: brokers == 1 };
    let extra = [
        ("pages of metrics compared", counters.pages.to_string()),
        ("processes whose memory and connections were compared", leaks.judged.len().to_string()),
        ("of these grown", leaks.grown.len().to_string()),
        ("most memory of one process", format!("{:.0} MiB", leaks.most_memory_mib)),
        ("asynchronous jobs accepted", background.accepted.to_string()),
        ("of these not ended as they should", background.wrong_jobs.len().to_string()),
        ("of these ended twice", background.ended_twice.len().to_string()),
        ("lines of a batch", background.lines.to_string()),
        ("of these missing, doubled or wrong", background.wrong_lines.len().to_string()),
        ("lost", (background.wrong_jobs.len() + background.wrong_lines.len() + history.hung().len()).to_string()),
    ];
    println!("\n{}", table::table(&history, &counters.last, &extra));
    Run { history, background, counters, leaks, witnesses, causeless_redeliveries }
}

/// A random schedule for `length` against a healthy system, and the verdict.
async fn everything_dies(brokers: usize, length: Duration) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let netns = Netns::create();
    let can_partition = netns.is_some();
    let workers = DISTURBED + usize::from(can_partition);
    let topology = Topology { workers, apis: DISTURBED, aggregators: DISTURBED, brokers, can_partition };
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={} brokers={brokers} can_partition={can_partition}", length.as_secs());
    // As many as keep the batch going for most of the run, beside everything else.
    let lines = 30 * length.as_secs() as usize;
    let system = System { brokers, netns: netns.as_ref(), bug: None };
    let run = run(&schedule::schedule(seed, length, topology), lines, system).await;
    let problems = run.problems();
    assert!(problems.is_empty(), "CHAOS_SEED={seed}\n{}", problems.join("\n"));
}

#[tokio::test]
async fn everything_dies_and_nothing_that_was_accepted_is_lost() {
    everything_dies(1, Duration::from_secs(setting("CHAOS_SECONDS").unwrap_or(60))).await;
}

/// `make chaos-replicated`.
#[tokio::test]
#[ignore = "ten minutes; `make test` disturbs three brokers in the tests of replication"]
async fn everything_dies_around_three_brokers_and_nothing_that_was_accepted_is_lost() {
    everything_dies(3, Duration::from_secs(setting("CHAOS_SECONDS").unwrap_or(600))).await;
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
