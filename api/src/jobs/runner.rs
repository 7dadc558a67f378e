//! Takes envelopes from the queue, as many as the model's workers can use, and sees each through.
//!
//! Each model has its own consumers, so that one whose workers are slow holds up no other: one for each tenant, who take
//! turns ([`turns`]), and one for what synchronous requests wait for. Credit is counted in rows: about two batches of each
//! live worker, divided by the apis that pull; what exceeds it stays in the queue, where any api can take it. Nothing is
//! pulled for a model that nobody serves.
//!
//! A delivery is kept by reporting progress while its attempt runs; it is acknowledged only when its job has ended. An
//! acknowledgement that comes too late can therefore do no harm, whoever holds the delivery by then.

mod turns;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{AckKind, Message};
use forebay_shared::async_jobs::Envelope;
use forebay_shared::ids::{JobId, ModelToken, TenantName};
use forebay_shared::streams::{Durable, ack_wait};
use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::Jobs;
use super::attempt::Verdict;
use turns::Turns;

/// How often the list of models is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long one pull request stands.
const PULL: Duration = Duration::from_secs(5);
/// Most messages asked for at once.
const PULL_MESSAGES: usize = 32;
/// Rows of a batch, for workers that do not say.
const BATCH_ROWS: usize = 8;
/// Rows of synchronous requests taken at once by one api.
const EXPRESS_ROWS: usize = 1_024;
/// Pause after the broker refused something.
const PAUSE: Duration = Duration::from_secs(1);
/// Deliveries after which a job without a record is believed not to exist: replicas of a bucket lag.
const MISSING_LOOKS: i64 = 3;
/// How long attempts get to give back what they hold.
const STOP_TIME: Duration = Duration::from_secs(2);

/// What has a credit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    /// Tenants take turns, each at its own consumer.
    Turns,
    /// One consumer for all that was accepted by apis which knew no turns: drained, while a fleet is upgraded.
    Older,
    Express,
}

pub(super) struct Runner {
    jobs: Arc<Jobs>,
    queue: Stream<Info>,
    /// True once everything is to be given back.
    stopping: watch::Sender<bool>,
    attempts: parking_lot::Mutex<JoinSet<()>>,
    /// Jobs and generations that are being run here.
    at_work: parking_lot::Mutex<HashSet<(JobId, u32)>>,
}

/// Rows being worked on, of one line.
#[derive(Default)]
struct Credit {
    rows: AtomicUsize,
    messages: AtomicUsize,
    freed: Notify,
}

/// A message's share of the credit.
struct Held {
    credit: Arc<Credit>,
    rows: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.credit.rows.fetch_sub(self.rows, Ordering::Relaxed);
        self.credit.messages.fetch_sub(1, Ordering::Relaxed);
        self.credit.freed.notify_one();
    }
}

/// One job's generation that this process works on.
struct AtWork<'a> {
    runner: &'a Runner,
    job: (JobId, u32),
}

impl<'a> AtWork<'a> {
    /// `None` if it does so already.
    fn begin(runner: &'a Runner, envelope: &Envelope) -> Option<Self> {
        let job = (envelope.job, envelope.generation);
        runner.at_work.lock().insert(job).then_some(Self { runner, job })
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.runner.at_work.lock().remove(&self.job);
    }
}

/// Resolves once everything is to be given back.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _gone = stopping.wait_for(|stopping| *stopping).await;
}

pub(super) fn start(jobs: Arc<Jobs>, queue: Stream<Info>) -> Arc<Runner> {
    let runner = Arc::new(Runner {
        jobs,
        queue,
        stopping: watch::Sender::new(false),
        attempts: Default::default(),
        at_work: Default::default(),
    });
    tokio::spawn(Arc::clone(&runner).follow_models());
    runner
}

impl Runner {
    /// One task per model and consumer, begun when a worker first serves the model; those of tenants come and go.
    async fn follow_models(self: Arc<Self>) {
        let mut pulling: HashMap<(ModelToken, Line), JoinHandle<()>> = HashMap::new();
        let mut taking: HashMap<(ModelToken, TenantName), JoinHandle<()>> = HashMap::new();
        let mut credits: HashMap<(ModelToken, Line), Arc<Credit>> = HashMap::new();
        let mut turns: HashMap<ModelToken, Arc<Turns>> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        let mut stopping = self.stopping.subscribe();
        while !*stopping.borrow_and_update() {
            taking.retain(|_, task| !task.is_finished());
            for token in self.jobs.registry.served_tokens() {
                for line in [Line::Older, Line::Express] {
                    let task = pulling.get(&(token.clone(), line));
                    if task.is_none_or(JoinHandle::is_finished) {
                        // Attempts of a pull that broke off still hold their share.
                        let credit = Arc::clone(credits.entry((token.clone(), line)).or_default());
                        let task = tokio::spawn(Arc::clone(&self).pull(token.clone(), line, credit));
                        pulling.insert((token.clone(), line), task);
                    }
                }
                let turns = turns.entry(token.clone()).or_default();
                let tenants = self.jobs.board.index.lock().tenants(&token);
                for tenant in tenants {
                    let task = taking.entry((token.clone(), tenant.clone()));
                    if matches!(task, Entry::Vacant(_)) && !self.jobs.shutdown.is_fired() {
                        let taker = Arc::clone(&self).take_turns(token.clone(), tenant, Arc::clone(turns));
                        task.insert_entry(tokio::spawn(taker));
                    }
                }
            }
            let _reaped = self.reap();
            tokio::select! {
                _ = look.tick() => {}
                () = self.jobs.board.unclaimed.notified() => {}
                _ = stopping.changed() => {}
            }
        }
        pulling.into_values().chain(taking.into_values()).for_each(|task| task.abort());
    }

    fn reap(&self) -> usize {
        let mut attempts = self.attempts.lock();
        let mut ended = 0;
        while attempts.try_join_next().is_some() {
            ended += 1;
        }
        ended
    }

    async fn pull(self: Arc<Self>, token: ModelToken, line: Line, credit: Arc<Credit>) {
        let consumer = match self.consumer(&token, line).await {
            Ok(consumer) => consumer,
            Err(error) => {
                tracing::warn!(%error, model = %token, "cannot take asynchronous jobs of this model");
                return tokio::time::sleep(PAUSE).await;
            }
        };
        loop {
            if line == Line::Older && self.jobs.shutdown.is_fired() {
                return;
            }
            let Some(messages) = self.wanted(&token, line, &credit) else {
                tokio::select! {
                    () = credit.freed.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            };
            let batch = consumer.batch().max_messages(messages).expires(PULL).messages();
            let taken = async { self.take(batch.await?, line, &credit).await };
            if let Err(error) = taken.await {
                tracing::debug!(%error, model = %token, "cannot pull asynchronous jobs");
                // Begun again by `follow_models`, which makes sure that the consumer is there.
                return tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn consumer(&self, token: &ModelToken, line: Line) -> anyhow::Result<Consumer<pull::Config>> {
        let durable = match line {
            Line::Express => Durable::Express(token.clone()),
            Line::Older | Line::Turns => Durable::Async(token.clone()),
        };
        self.open(&durable).await
    }

    async fn open(&self, durable: &Durable) -> anyhow::Result<Consumer<pull::Config>> {
        Ok(self.jobs.stores.consumer(&self.queue, durable).await?)
    }

    /// How many messages to ask for, if any: what the credit leaves, by the rows that messages have had so far.
    fn wanted(&self, token: &ModelToken, line: Line, credit: &Credit) -> Option<usize> {
        let registry = &self.jobs.registry;
        let workers = registry.live_workers(token);
        if workers == 0 || !self.jobs.link.is_up() {
            return None;
        }
        let rows = match line {
            Line::Turns | Line::Older => {
                let batches = registry.batch_rows(token).max(workers * BATCH_ROWS);
                (2 * batches).div_ceil(registry.peers().live())
            }
            Line::Express => EXPRESS_ROWS,
        };
        let (held, messages) = (credit.rows.load(Ordering::Relaxed), credit.messages.load(Ordering::Relaxed));
        let left = rows.checked_sub(held).filter(|left| *left > 0)?;
        let rows_each = held.checked_div(messages).unwrap_or(1).max(1);
        Some((left / rows_each).clamp(1, PULL_MESSAGES))
    }

    /// Begins everything that a pull brings; returns how many that were.
    async fn take(self: &Arc<Self>, mut batch: pull::Batch, line: Line, credit: &Arc<Credit>) -> anyhow::Result<usize> {
        let mut taken = 0;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
            let work = super::attempt::read(&message.payload);
            let rows = work.as_ref().map_or(1, |envelope| envelope.rows.len());
            credit.rows.fetch_add(rows, Ordering::Relaxed);
            credit.messages.fetch_add(1, Ordering::Relaxed);
            let held = Held { credit: Arc::clone(credit), rows };
            let runner = Arc::clone(self);
            self.attempts.lock().spawn(async move {
                runner.see_through(message, work, line).await;
                drop(held);
            });
            taken += 1;
        }
        Ok(taken)
    }

    /// Keeps the delivery while the attempt runs, and says what became of it.
    async fn see_through(&self, message: Message, work: Result<Envelope, Verdict>, line: Line) {
        let mut stopping = self.stopping.subscribe();
        let every = ack_wait(self.jobs.stores.args().durability) / 3;
        let mut progress = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let verdict = match work {
            Err(verdict) => verdict,
            Ok(envelope) => {
                // Handed to this process once more while the first attempt runs: that one speaks for both.
                let Some(_at_work) = AtWork::begin(self, &envelope) else { return };
                let mut attempt = std::pin::pin!(self.jobs.attempt(envelope, line == Line::Express));
                loop {
                    tokio::select! {
                        verdict = &mut attempt => break verdict,
                        _ = progress.tick() => {
                            if let Err(error) = message.ack_with(AckKind::Progress).await {
                                tracing::debug!(%error, "cannot report progress");
                            }
                        }
                        () = stopped(&mut stopping) => break Verdict::Later(Duration::ZERO),
                    }
                }
            }
        };
        let answer = match verdict {
            Verdict::Ended => AckKind::Ack,
            Verdict::Missing if message.info().is_ok_and(|info| info.delivered >= MISSING_LOOKS) => AckKind::Ack,
            Verdict::Missing => AckKind::Nak(Some(PAUSE)),
            Verdict::Later(Duration::ZERO) => AckKind::Nak(None),
            Verdict::Later(delay) => AckKind::Nak(Some(delay)),
        };
        // Lost, it is delivered again, to somebody who reads in the record that the job has ended.
        if let Err(error) = message.ack_with(answer).await {
            tracing::debug!(%error, "cannot answer for a delivery");
        }
    }

    /// Gives back what is running.
    pub(super) async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut attempts = std::mem::take(&mut *self.attempts.lock());
        let given_back = tokio::time::timeout(STOP_TIME, async { while attempts.join_next().await.is_some() {} });
        if given_back.await.is_err() {
            tracing::debug!("some asynchronous jobs were not given back in time; they return by themselves");
        }
        self.jobs.link.flush().await;
    }
}
