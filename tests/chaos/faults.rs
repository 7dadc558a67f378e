//! Does what the schedule says to a running system, and undoes it in time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use forebay_shared::codec;
use forebay_shared::ids::{BootId, JobId, Lane, TenantName};
use forebay_shared::job::{Bundle, EmbedParams, Input, Job, Task};
use forebay_shared::model::ModelRecord;
use forebay_shared::subjects;
use futures::future::join_all;
use tokio::task::JoinSet;

use super::history::Done;
use super::schedule::{Event, Kind};
use crate::support::netns::Netns;
use crate::support::{Cluster, Process, client};

/// Everything that was disturbed is back by then, or the run has failed.
const BACK_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// The queue's limit in the run; messages that fill it are gone this much later.
pub const QUEUE_MAX_MESSAGES: usize = 2_000;
const FILLER_TTL: Duration = Duration::from_secs(2);

/// A fault that is going on.
struct Active {
    event: Event,
    from: Instant,
    /// A worker that joined for it.
    guest: Option<usize>,
}

pub struct Faults<'a> {
    pub cluster: &'a mut Cluster,
    pub netns: Option<&'a Netns>,
    done: Vec<Done>,
    /// Processes that were started again and do not do their work yet.
    coming_back: JoinSet<Done>,
}

impl<'a> Faults<'a> {
    pub fn new(cluster: &'a mut Cluster, netns: Option<&'a Netns>) -> Self {
        Self { cluster, netns, done: Vec::new(), coming_back: JoinSet::new() }
    }

    /// Runs the schedule; everything is as before when it returns.
    pub async fn run(mut self, schedule: &[Event]) -> Vec<Done> {
        let begin = Instant::now();
        let mut active: Vec<Active> = Vec::new();
        let mut coming = schedule.iter().copied().peekable();
        loop {
            let ends = active.iter().enumerate().map(|(i, active)| (active.from + active.event.lasts, Some(i)));
            let starts = coming.peek().map(|event| (begin + event.at, None));
            let Some((at, which)) = ends.chain(starts).min_by_key(|(at, _)| *at) else { break };
            tokio::time::sleep_until(at.into()).await;
            match which {
                Some(index) => {
                    let over = active.swap_remove(index);
                    self.end(over).await;
                }
                None => active.extend(coming.next().map(|event| (event, Instant::now())).map(|(event, from)| Active {
                    event,
                    from,
                    guest: None,
                })),
            }
            if which.is_none()
                && let Some(begun) = active.last_mut()
            {
                println!(
                    "{:>7.1} s  {} {}",
                    begin.elapsed().as_secs_f64(),
                    begun.event.kind.name(),
                    begun.event.target
                );
                begun.guest = self.begin(begun.event).await;
            }
        }
        while let Some(back) = self.coming_back.join_next().await {
            self.done.push(back.expect("everything comes back"));
        }
        self.done.sort_by_key(|done| done.from);
        self.done
    }

    async fn begin(&mut self, event: Event) -> Option<usize> {
        match event.kind {
            Kind::KillWorker | Kind::KillApi | Kind::KillAggregator | Kind::KillBroker => self.target(event).kill9(),
            Kind::FreezeWorker | Kind::FreezeApi | Kind::FreezeAggregator | Kind::FreezeBroker => {
                self.target(event).freeze();
            }
            Kind::SlowWorker => {
                self.cluster.add_worker_with(&[("FOREBAY_SIMULATED_BASE", "200ms")]);
                return Some(self.cluster.workers().len() - 1);
            }
            Kind::SkewedClock => {
                self.cluster.add_worker_with(&[("FOREBAY_CLOCK_SKEW_SECONDS", "3600")]);
                return Some(self.cluster.workers().len() - 1);
            }
            Kind::FullStream => fill(self.cluster).await,
            Kind::Partition => self.netns.expect("only drawn where there is one").cut(),
        }
        None
    }

    async fn end(&mut self, active: Active) {
        let Active { event, from, guest } = active;
        match event.kind {
            Kind::KillWorker | Kind::KillApi | Kind::KillAggregator | Kind::KillBroker => {
                let process = self.target(event);
                process.restart();
                // Not waited for here: it may need what is still away, and whose return is the next thing to do.
                let (name, (addr, path)) = (process.name().to_owned(), process.probe());
                self.coming_back.spawn(async move {
                    back(&name, addr, path).await;
                    Done { event, from, until: Instant::now() }
                });
                return;
            }
            Kind::FreezeWorker | Kind::FreezeApi | Kind::FreezeAggregator | Kind::FreezeBroker => {
                self.target(event).thaw();
            }
            Kind::SlowWorker => self.cluster.worker(guest.expect("it joined")).kill9(),
            Kind::SkewedClock => {
                let page = client::get(self.cluster.worker(guest.expect("it joined")).addr(), "/metrics").await;
                let offset = page.ok().and_then(|page| {
                    let page = page.text();
                    let value = page.lines().find_map(|line| line.strip_prefix("forebay_worker_clock_offset_seconds "));
                    value?.parse::<f64>().ok()
                });
                // It may not have got as far, on a busy machine or without a broker.
                assert!(
                    offset.is_none_or(|offset| offset == 0.0 || offset > 3_000.0),
                    "the clock is right: {offset:?}"
                );
                let status = self.cluster.worker(guest.expect("it joined")).terminate(STOP_LIMIT).await;
                assert!(status.success(), "a worker with a skewed clock drains like any other: {status}");
            }
            Kind::FullStream => {}
            Kind::Partition => self.netns.expect("only drawn where there is one").mend(),
        }
        self.done.push(Done { event, from, until: Instant::now() });
    }

    fn target(&self, event: Event) -> &Process {
        match event.kind {
            Kind::KillApi | Kind::FreezeApi => self.cluster.api(event.target),
            Kind::KillAggregator | Kind::FreezeAggregator => self.cluster.aggregator(event.target),
            Kind::KillBroker | Kind::FreezeBroker => &self.cluster.brokers()[event.target],
            _ => self.cluster.worker(event.target),
        }
    }
}

async fn back(name: &str, addr: SocketAddr, path: &str) {
    let end = Instant::now() + BACK_LIMIT;
    while !client::get(addr, path).await.is_ok_and(|answer| answer.status == 200) {
        assert!(Instant::now() < end, "{name} is not back after {BACK_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fills the model's queue up to its limit with jobs of an api that is not there; they expire by themselves.
async fn fill(cluster: &Cluster) {
    // With the broker away at this moment there is nothing to fill.
    let connecting = tokio::time::timeout(Duration::from_secs(2), async_nats::connect(cluster.broker_url()));
    let Ok(Ok(client)) = connecting.await else { return };
    let js = async_nats::jetstream::new(client);
    let Ok(models) = js.get_key_value(forebay_shared::streams::MODELS_BUCKET).await else { return };
    let key = forebay_shared::model::record_key(&cluster.model_name().into());
    let Ok(Some(record)) = models.get(key).await else { return };
    let record: ModelRecord = serde_json::from_slice(&record).expect("the model's record can be read");
    let deadline_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64
        + FILLER_TTL.as_micros() as u64;
    let api = BootId::random();
    let publish = |number: u64| {
        let job = Job {
            id: JobId::random(),
            generation: 0,
            tenant: TenantName::default(),
            enqueued_us: deadline_us,
            deadline_us,
            trace: None,
            task: Task::Embed(EmbedParams::default()),
            input: Input::Text("filler".into()),
        };
        let payload = codec::encode(&Bundle { api, number, jobs: vec![job] }).expect("a bundle can be encoded");
        let message = PublishMessage::build().payload(payload).ttl(FILLER_TTL);
        let (js, subject) = (js.clone(), subjects::jobs(&record.token, Lane::Low, 1));
        async move { js.send_publish(subject, message).await?.await }
    };
    let mut refused = 0;
    for turn in 0..=(QUEUE_MAX_MESSAGES as u64 / 250) {
        let sent = join_all((0..250).map(|i| publish(turn * 250 + i))).await;
        refused += sent.iter().filter(|result| result.is_err()).count();
    }
    println!("           the queue refused {refused} of the messages that filled it");
}
