//! Results become answers (step ⑦): checked, scaled, packed and sent to the apis that wait.
//!
//! What is ready together for one api travels in one message. A result that must not be passed on (not a number) fails
//! its own job only. The acknowledgement is the api's: it comes when the answer has arrived, so an answer lost on the way
//! leaves its message in the queue.

use std::sync::Arc;

use async_nats::Client;
use forebay_shared::codec;
use forebay_shared::error::JobError;
use forebay_shared::ids::{BootId, JobId};
use forebay_shared::job::{EmbedParams, Output, Reply, ReplyBatch, ReplyGroup};
use forebay_shared::metrics::Outcome;
use forebay_shared::subjects;
use forebay_shared::telemetry::span::Span;
use tokio::sync::mpsc;

use crate::delivery::{Deliveries, Delivery};
use crate::layers::pooling::l2_normalize;
use crate::models::{Embeddings, TokenBatch};
use crate::output_check::{Anomaly, OutputCheck};
use crate::prepare::Work;
use crate::spans::{self, Pass};
use crate::telemetry::ModelCounters;

/// Answers beyond this are split over several messages.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Results taken in one turn.
const TURN: usize = 64;

/// One batch that the engine has finished.
pub(crate) struct Computed {
    pub(crate) jobs: Vec<Work>,
    pub(crate) embeddings: Embeddings,
    pub(crate) pass: Pass,
}

/// A job that ended without a result.
pub(crate) struct Failed {
    pub(crate) id: JobId,
    pub(crate) error: JobError,
    pub(crate) span: Span,
}

enum Done {
    Computed(Computed),
    Failed(Arc<Delivery>, Vec<Failed>),
}

/// Where driver and tokenisers put what is done. Never blocks: what can be in it is bounded by the intake's credit.
#[derive(Clone)]
pub(crate) struct ReplySender(mpsc::UnboundedSender<Done>);

/// The task's end of it.
pub(crate) struct ReplyReceiver(mpsc::UnboundedReceiver<Done>);

pub(crate) fn channel() -> (ReplySender, ReplyReceiver) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the credit of the intake; the device must not wait here")]
    let (sender, receiver) = mpsc::unbounded_channel();
    (ReplySender(sender), ReplyReceiver(receiver))
}

#[cfg(test)]
impl ReplyReceiver {
    /// Everything that is done so far, in order: the first number of each result, or why there is none.
    pub(crate) fn drain(&mut self) -> Vec<(JobId, Result<f32, JobError>)> {
        let mut all = Vec::new();
        while let Ok(done) = self.0.try_recv() {
            match done {
                Done::Computed(Computed { jobs, mut embeddings, .. }) => {
                    let answers = jobs.iter().enumerate();
                    all.extend(answers.map(|(row, work)| (work.id, Ok(embeddings.row_mut(row)[0]))));
                }
                Done::Failed(_, failed) => {
                    all.extend(failed.into_iter().map(|Failed { id, error, .. }| (id, Err(error))))
                }
            }
        }
        all
    }
}

impl ReplySender {
    pub(crate) fn computed(&self, computed: Computed) {
        // A receiver that is gone means that the process ends.
        let _gone = self.0.send(Done::Computed(computed));
    }

    /// Answers jobs of a delivery that could only go back once too often: the broker would keep their message and never
    /// deliver it again. Whoever sent them can send them anew.
    pub(crate) fn not_run(&self, delivery: Arc<Delivery>, jobs: impl Iterator<Item = JobId>) {
        let failed = jobs.map(|id| Failed { id, error: JobError::BrokerUnavailable, span: Span::none() }).collect();
        self.failed(delivery, failed);
    }

    pub(crate) fn failed(&self, delivery: Arc<Delivery>, failed: Vec<Failed>) {
        let _gone = self.0.send(Done::Failed(delivery, failed));
    }
}

/// The task that answers.
pub(crate) struct Replier {
    pub(crate) client: Client,
    pub(crate) normalize: bool,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) counters: Arc<ModelCounters>,
    pub(crate) check: OutputCheck,
    /// What the rows of the batch being checked were made from; kept for its memory.
    pub(crate) inputs: TokenBatch,
}

/// Answers on their way to one api.
struct Outgoing {
    api: BootId,
    /// Version that the api reads.
    wire: u8,
    groups: Vec<(Arc<Delivery>, Vec<Reply>)>,
    bytes: usize,
    /// Of its jobs, where they are recorded: they end when it is sent.
    spans: Vec<Span>,
}

impl Replier {
    /// Runs until every sender is gone and all answers are handed to the connection.
    pub(crate) async fn run(mut self, mut results: ReplyReceiver) {
        let mut turn = Vec::with_capacity(TURN);
        let mut outgoing: Vec<Outgoing> = Vec::new();
        while results.0.recv_many(&mut turn, TURN).await > 0 {
            for result in turn.drain(..) {
                match result {
                    Done::Computed(computed) => self.finish(computed, &mut outgoing),
                    Done::Failed(delivery, failed) => {
                        for Failed { id, error, span } in failed {
                            self.counters.jobs(Outcome::from(&error), 1);
                            push(&mut outgoing, &delivery, Reply { id, outcome: Err(error) }, span);
                        }
                    }
                }
                for full in outgoing.extract_if(.., |out| out.bytes >= MAX_MESSAGE_BYTES) {
                    self.send(full).await;
                }
            }
            for rest in outgoing.drain(..) {
                self.send(rest).await;
            }
        }
    }

    /// Checks a batch's rows and turns them into answers.
    fn finish(&mut self, computed: Computed, outgoing: &mut Vec<Outgoing>) {
        let Computed { mut jobs, mut embeddings, pass } = computed;
        spans::pass(self.counters.model(), &mut jobs, pass, false);
        let tokens: usize = jobs.iter().map(|work| work.ids.len()).sum();
        let us_per_token = pass.took.as_micros() as f64 / tokens.max(1) as f64;
        self.inputs.clear();
        for work in &jobs {
            self.inputs.push(&work.ids);
        }
        let mut anomalies = self.check.check(&self.inputs, &embeddings).to_vec().into_iter().peekable();
        let mut answered = 0;
        for (index, work) in jobs.into_iter().enumerate() {
            let anomaly = anomalies.next_if(|(row, _)| *row == index).map(|(_, anomaly)| anomaly);
            if let Some(anomaly) = anomaly {
                self.counters.anomaly(anomaly.into(), 1);
            }
            let outcome = match anomaly {
                Some(anomaly) if anomaly.fails_row() => {
                    let trace_id = work.trace.map(|trace| trace.trace_id());
                    tracing::error!(job = %work.id, trace_id, "the model answered with a value that is not a number");
                    self.counters.jobs(Outcome::Failed, 1);
                    Err(JobError::BadOutput { kind: anomaly.as_str().to_owned() })
                }
                _ => {
                    answered += 1;
                    let vector = self.vector(embeddings.row_mut(index), work.params);
                    let device_us = (us_per_token * work.ids.len() as f64).round() as u32;
                    Ok(Output { tokens: work.ids.len() as u32, device_us, vector })
                }
            };
            push(outgoing, &work.delivery, Reply { id: work.id, outcome }, work.span);
        }
        self.counters.jobs(Outcome::Ok, answered);
    }

    /// The row as asked for: cut, scaled, little endian.
    fn vector(&self, row: &mut [f32], params: EmbedParams) -> Vec<u8> {
        let kept = params.dimensions.map_or(row.len(), |dimensions| row.len().min(dimensions as usize));
        let row = &mut row[..kept];
        if params.normalize.unwrap_or(self.normalize) {
            l2_normalize(row);
        }
        row.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    async fn send(&self, outgoing: Outgoing) {
        let mut done = Vec::with_capacity(outgoing.groups.len());
        let mut groups = Vec::with_capacity(outgoing.groups.len());
        for (delivery, replies) in outgoing.groups {
            done.push((Arc::clone(&delivery), replies.len()));
            groups.push(ReplyGroup { bundle: delivery.bundle, ack: delivery.ack.clone(), replies });
        }
        match codec::encode_for(&ReplyBatch { groups }, outgoing.wire) {
            // If this is lost, nobody acknowledges: the queue delivers again and the api is asked.
            Ok(payload) => drop(self.client.publish(subjects::replies(outgoing.api), payload).await),
            Err(error) => tracing::error!(%error, "could not encode answers"),
        }
        drop(outgoing.spans);
        for (delivery, jobs) in done {
            self.deliveries.finished(&delivery, jobs);
        }
    }
}

/// Adds one answer to what goes to its api.
fn push(outgoing: &mut Vec<Outgoing>, delivery: &Arc<Delivery>, reply: Reply, mut span: Span) {
    let bytes = reply.outcome.as_ref().map_or(64, |output| output.vector.len() + 32);
    let (api, wire) = (delivery.api, delivery.wire);
    let fits = |out: &Outgoing| out.api == api && out.wire == wire && out.bytes < MAX_MESSAGE_BYTES;
    let position = outgoing.iter().position(fits);
    let position = position.unwrap_or_else(|| {
        outgoing.push(Outgoing { api, wire, groups: Vec::new(), bytes: 0, spans: Vec::new() });
        outgoing.len() - 1
    });
    let out = &mut outgoing[position];
    out.bytes += bytes;
    if span.is_recorded() {
        span.conclude(reply.outcome.as_ref().map_or_else(Outcome::from, |_| Outcome::Ok));
        out.spans.push(span);
    }
    // Jobs of a bundle mostly stand together in a batch, so the group sought is mostly the last.
    match out.groups.iter_mut().rev().find(|(of, _)| Arc::ptr_eq(of, delivery)) {
        Some((_, replies)) => replies.push(reply),
        None => out.groups.push((Arc::clone(delivery), vec![reply])),
    }
}

impl From<Anomaly> for forebay_shared::metrics::Anomaly {
    fn from(anomaly: Anomaly) -> Self {
        match anomaly {
            Anomaly::Nan => Self::Nan,
            Anomaly::AllZero => Self::AllZero,
            Anomaly::Constant => Self::Constant,
            Anomaly::Repeated => Self::Repeated,
        }
    }
}
