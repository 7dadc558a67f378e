//! Takes envelopes from the queue, as many as the model's workers can use, and sees each through.
//!
//! One consumer per model, so that a model whose workers are slow holds up no other, and one more for what synchronous
//! requests wait for. The credit of a consumer is counted in rows: about two batches of each live worker, divided by the
//! apis that pull; what exceeds it stays in the queue, where any api can take it. Nothing is pulled for a model that
//! nobody serves.
//!
//! A delivery is kept by reporting progress while its attempt runs; it is acknowledged only when its job has ended. An
//! acknowledgement that comes too late can therefore do no harm, whoever holds the delivery by then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{AckKind, Message};
use forebay_shared::async_jobs::Envelope;
use forebay_shared::ids::{JobId, ModelToken};
use forebay_shared::streams::{Durable, ack_wait};
use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::Jobs;
use super::attempt::Verdict;

/// How often the list of models is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long one pull request stands.
const PULL: Duration = Duration::from_secs(5);
/// Most messages asked for at once.
const PULL_MESSAGES: usize = 32;
/// Rows of a batch, for workers that do not say.
const BATCH_ROWS: usize = 8;
/// Rows of synchronous requests taken at once by one api: as without a key, the table of jobs in flight is the bound.
const EXPRESS_ROWS: usize = 1_024;
/// Pause after the broker refused something.
const PAUSE: Duration = Duration::from_secs(1);
/// Deliveries after which a job without a record is believed not to exist: replicas of a bucket lag.
const MISSING_LOOKS: i64 = 3;
/// How long attempts get to give back what they hold.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Which of a model's two consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Ordinary,
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

/// Rows being worked on, of one consumer.
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
    /// One task per model and line, begun when a worker first serves the model.
    async fn follow_models(self: Arc<Self>) {
        let mut pulling: HashMap<(ModelToken, Line), tokio::task::JoinHandle<()>> = HashMap::new();
        let mut credits: HashMap<(ModelToken, Line), Arc<Credit>> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        let mut stopping = self.stopping.subscribe();
        while !*stopping.borrow_and_update() {
            for token in self.jobs.registry.served_tokens() {
                for line in [Line::Ordinary, Line::Express] {
                    let task = pulling.get(&(token.clone(), line));
                    if task.is_none_or(tokio::task::JoinHandle::is_finished) {
                        // Attempts of a pull that broke off still hold their share.
                        let credit = Arc::clone(credits.entry((token.clone(), line)).or_default());
                        let task = tokio::spawn(Arc::clone(&self).pull(token.clone(), line, credit));
                        pulling.insert((token.clone(), line), task);
                    }
                }
            }
            let _reaped = self.reap();
            tokio::select! {
                _ = look.tick() => {}
                _ = stopping.changed() => {}
            }
        }
        pulling.into_values().for_each(|task| task.abort());
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
            if line == Line::Ordinary && self.jobs.shutdown.is_fired() {
                return;
            }
            let Some(messages) = self.wanted(&token, line, &credit) else {
                tokio::select! {
                    () = credit.freed.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            };
            if let Err(error) = self.take(&consumer, messages, &credit).await {
                tracing::debug!(%error, model = %token, "cannot pull asynchronous jobs");
                // Begun again by `follow_models`, which makes sure that the consumer is there.
                return tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn consumer(&self, token: &ModelToken, line: Line) -> anyhow::Result<Consumer<pull::Config>> {
        let durable = match line {
            Line::Ordinary => Durable::Async(token.clone()),
            Line::Express => Durable::Express(token.clone()),
        };
        Ok(self.jobs.stores.consumer(&self.queue, &durable).await?)
    }

    /// How many messages to ask for, if any: what the credit leaves, by the rows that messages have had so far.
    fn wanted(&self, token: &ModelToken, line: Line, credit: &Credit) -> Option<usize> {
        let registry = &self.jobs.registry;
        let workers = registry.live_workers(token);
        if workers == 0 || !self.jobs.link.is_up() {
            return None;
        }
        let rows = match line {
            Line::Ordinary => {
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

    async fn take(
        self: &Arc<Self>,
        consumer: &Consumer<pull::Config>,
        messages: usize,
        credit: &Arc<Credit>,
    ) -> anyhow::Result<()> {
        let mut batch = consumer.batch().max_messages(messages).expires(PULL).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
            let work = super::attempt::read(&message.payload);
            let rows = work.as_ref().map_or(1, |envelope| envelope.rows.len());
            credit.rows.fetch_add(rows, Ordering::Relaxed);
            credit.messages.fetch_add(1, Ordering::Relaxed);
            let held = Held { credit: Arc::clone(credit), rows };
            let runner = Arc::clone(self);
            self.attempts.lock().spawn(async move {
                runner.see_through(message, work).await;
                drop(held);
            });
        }
        Ok(())
    }

    /// Keeps the delivery while the attempt runs, and says what became of it.
    async fn see_through(&self, message: Message, work: Result<Envelope, Verdict>) {
        let mut stopping = self.stopping.subscribe();
        let every = ack_wait(self.jobs.stores.args().durability) / 3;
        let mut progress = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let verdict = match work {
            Err(verdict) => verdict,
            Ok(envelope) => {
                // Handed to this process once more while the first attempt runs: that one speaks for both.
                let Some(_at_work) = AtWork::begin(self, &envelope) else { return };
                let mut attempt = std::pin::pin!(self.jobs.attempt(envelope));
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
