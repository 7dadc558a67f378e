//! What tests of the driver stand on: a real loop on a thread of its own, and a device that does as the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use forebay_sched::{BatchLimits, QueuedJob};
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::ids::{BootId, JobId, Lane, ModelName};
use forebay_shared::job::EmbedParams;
use forebay_shared::metrics::WorkerMetrics;
use forebay_shared::telemetry::span::Span;
use parking_lot::Mutex;

use super::{Driver, Lost, Parts};
use crate::delivery::{Deliveries, Taken};
use crate::fence::Fence;
use crate::gauge::Pulse;
use crate::models::{Embeddings, Encoder, EngineError, Flight, Pending, TokenBatch};
use crate::prepare::{Prepared, Work};
use crate::quarantine::Ticket;
use crate::reply::{self, ReplyReceiver};
use crate::telemetry::ModelCounters;
use crate::tokenize::buffers::TokenBuffers;

const LIMIT: Duration = Duration::from_secs(10);

/// A job, and its row's one number or why there is none.
pub(super) type Answer = (u32, Result<f32, JobError>);

/// What the device is asked for; it answers each batch when the test says so.
pub(super) struct Asked {
    /// First ids of the rows: numbers of the jobs.
    pub(super) rows: Vec<u32>,
    answer: Sender<Result<(), EngineError>>,
}

impl Asked {
    pub(super) fn land(self) {
        self.end(Ok(()));
    }

    pub(super) fn end(self, how: Result<(), EngineError>) {
        let _given_up = self.answer.send(how);
    }
}

/// An encoder whose batches are seen and ended by the test.
struct Scripted {
    depth: usize,
    asked: Sender<Asked>,
    /// Batches that were submitted and not waited for to the end; and most of them at once.
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct UnderWay {
    ids: Vec<u32>,
    answer: Receiver<Result<(), EngineError>>,
    under_way: Arc<AtomicUsize>,
}

impl Encoder for Scripted {
    fn encode(&mut self, batch: &TokenBatch) -> Result<Embeddings, EngineError> {
        self.submit(batch)?.wait()
    }

    fn submit(&mut self, batch: &TokenBatch) -> Result<Flight, EngineError> {
        let ids: Vec<u32> = batch.iter().map(|row| row[0]).collect();
        let (answer, landing) = crossbeam_channel::bounded(1);
        self.most.fetch_max(self.under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let pending = UnderWay { ids: ids.clone(), answer: landing, under_way: Arc::clone(&self.under_way) };
        self.asked.send(Asked { rows: ids, answer }).map_err(|_| EngineError::Compute("no test".to_owned()))?;
        if self.depth == 1 {
            Box::new(pending).wait().map(Flight::Landed)
        } else {
            Ok(Flight::Pending(Box::new(pending)))
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn runs_inline(&self) -> bool {
        false
    }
}

impl Pending for UnderWay {
    fn wait(self: Box<Self>) -> Result<Embeddings, EngineError> {
        let how = self.answer.recv().unwrap_or_else(|_| panic!("a kernel that panics"));
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        how?;
        let mut out = Embeddings::zeros(self.ids.len(), 1);
        for (row, id) in self.ids.iter().enumerate() {
            out.row_mut(row)[0] = *id as f32;
        }
        Ok(out)
    }
}

/// A driver at work.
pub(super) struct Bench {
    arrivals: Option<Sender<Prepared>>,
    asked: Receiver<Asked>,
    answers: ReplyReceiver,
    driver: JoinHandle<Result<(), Lost>>,
    most: Arc<AtomicUsize>,
    deliveries: Deliveries,
    buffers: TokenBuffers,
    pub(super) pulse: Arc<Pulse>,
    pub(super) metrics: WorkerMetrics,
}

impl Bench {
    /// Batches of at most 4 rows and 100 tokens.
    pub(super) fn start(depth: usize) -> Self {
        let (asking, asked) = crossbeam_channel::unbounded();
        let (arrivals_in, arrivals) = crossbeam_channel::unbounded();
        let (replies, answers) = reply::channel();
        let (metrics, most, pulse) = (WorkerMetrics::new(), Arc::default(), Arc::<Pulse>::default());
        let fence = || Arc::new(Mutex::new(Fence::new(1, Instant::now())));
        let waiting = Arc::<crate::gauge::Waiting>::default();
        waiting.add(Lane::Normal, 1_000, 1_000);
        let encoder = Scripted { depth, asked: asking, under_way: Arc::default(), most: Arc::clone(&most) };
        let driver = Driver::new(Parts {
            encoder: Box::new(encoder),
            limits: BatchLimits { max_tokens: 100, max_rows: 4, ..BatchLimits::default() },
            longest_tokens: 40,
            arrivals,
            replies,
            deliveries: Arc::new(Deliveries::new(LIMIT, fence())),
            cancellations: Arc::default(),
            waiting,
            pulse: Arc::clone(&pulse),
            clock: BrokerClock::from_wall_clock(),
            counters: Arc::new(ModelCounters::new(&metrics, &ModelName::from("m"), "cpu")),
        });
        let driver = driver.unwrap();
        Self {
            arrivals: Some(arrivals_in),
            asked,
            answers,
            driver: std::thread::spawn(move || driver.run()),
            most,
            deliveries: Deliveries::new(LIMIT, fence()),
            buffers: TokenBuffers::new(1),
            pulse,
            metrics,
        }
    }

    /// Sends jobs of `tokens` each, as one bundle.
    pub(super) fn send(&self, jobs: impl IntoIterator<Item = u32>, tokens: usize) {
        self.push(jobs.into_iter().map(|job| self.job(job, tokens, None)).collect());
    }

    pub(super) fn send_suspect(&self, job: u32, ticket: Ticket) {
        self.push(vec![self.job(job, 10, Some(ticket))]);
    }

    fn push(&self, jobs: Prepared) {
        self.arrivals.as_ref().expect("not closed").send(jobs).unwrap();
    }

    fn job(&self, number: u32, tokens: usize, ticket: Option<Ticket>) -> QueuedJob<Work> {
        let (now, taken) = (Instant::now(), taken(number));
        let delivery = self.deliveries.take(taken, now);
        let mut ids = self.buffers.take();
        ids.resize(tokens, number);
        QueuedJob {
            tokens,
            lane: forebay_sched::Lane::Normal,
            queued_at: now,
            deadline: now + 10 * LIMIT,
            isolated: ticket.is_some(),
            payload: Work {
                id: job_id(number),
                delivery,
                params: EmbedParams::default(),
                trace: None,
                span: Span::none(),
                enqueued_us: 0,
                ids,
                estimated_tokens: 1,
                ticket,
            },
        }
    }

    /// The next batch that the device gets.
    pub(super) fn asked(&self) -> Asked {
        self.asked.recv_timeout(LIMIT).expect("the device is asked")
    }

    /// The device gets nothing for a while.
    pub(super) fn not_asked(&self) {
        let asked = self.asked.recv_timeout(Duration::from_millis(60));
        assert!(asked.is_err(), "asked for {:?}", asked.map(|asked| asked.rows));
    }

    /// The device computes everything it is asked for, as long as `how` says so.
    pub(super) fn serve(&self, until: usize, mut how: impl FnMut(&[u32]) -> Result<(), EngineError>) -> Vec<Vec<u32>> {
        let (mut tried, mut done) = (Vec::new(), 0);
        while done < until {
            let asked = self.asked();
            tried.push(asked.rows.clone());
            let result = how(&asked.rows);
            // A row alone that fails for good counts as done by the caller's own `until`.
            done += if result.is_ok() { asked.rows.len() } else { 0 };
            asked.end(result);
        }
        tried
    }

    /// Most batches that were under way at once.
    pub(super) fn most_under_way(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Nothing arrives any more: waits for the driver's end. Returns the answers by order of their leaving.
    pub(super) fn end(mut self) -> (Vec<Answer>, Result<(), Lost>) {
        self.arrivals = None;
        let end = Instant::now() + LIMIT;
        while !self.driver.is_finished() {
            assert!(Instant::now() < end, "the driver does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        let ended = self.driver.join().expect("the driver does not panic");
        let answers = self.answers.drain().into_iter();
        (answers.map(|(id, answer)| (number(id), answer)).collect(), ended)
    }
}

fn taken(number: u32) -> Taken {
    Taken {
        api: BootId::from_bytes([1; 16]),
        bundle: u64::from(number),
        ack: format!("ack-{number}"),
        lane: Lane::Normal,
        wire: 2,
        delivered: 1,
        consumer_seq: u64::from(number),
        epoch: 1,
        jobs: 1,
    }
}

fn job_id(number: u32) -> JobId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_le_bytes());
    JobId::from_bytes(id)
}

fn number(id: JobId) -> u32 {
    let bytes: &[u8] = id.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
