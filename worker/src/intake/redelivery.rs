//! A message that comes a second time: ask before repeating work.
//!
//! The first worker may have died, or only its answer was lost, or the client has left. The api that sent the jobs knows.
//! - wanted: to the [`crate::quarantine`], one by one and apart from others, because one of them may be what its worker died
//!   of; at once and together where nobody but this process was ever handed the message; not at all where the broker would
//!   not deliver it again if this worker died of it: its jobs are answered as not run;
//! - not wanted any more: acknowledged and dropped;
//! - nobody there: the api is gone, and with it whoever waited, or it is only reconnecting, as everybody is after the
//!   broker was away. So it is asked again later, and dropped when nobody was there up to delivery [`GONE_AFTER`], or when
//!   the jobs' time is over;
//! - no answer in time: give it back for a later try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Request, RequestErrorKind};
use forebay_shared::codec;
use forebay_shared::job::{Ask, AskAnswer, Job, Verdict};
use forebay_shared::metrics::SavedReason;
use forebay_shared::subjects;

use super::{Intake, TRY_AGAIN, estimate};
use crate::delivery::{Delivery, may_return};

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Number of the delivery from which on an api that is not there counts as gone. Deliveries are two seconds apart, and an
/// api reconnects within that.
const GONE_AFTER: u64 = 5;

/// An api that is not there is asked again after this, before its work is dropped: deliveries that were given back are
/// not two seconds apart.
const RECONNECT_PAUSE: Duration = Duration::from_millis(2_500);

/// How often a message was delivered, and to whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) delivered: u64,
    /// Nobody else was ever handed it: it cannot have ended anybody.
    pub(super) only_ours: bool,
}

/// How jobs of a redelivered message run that are still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At once, as if it were the first delivery.
    Together,
    /// One by one: one of them may be what its worker died of.
    Apart,
    /// Not at all: a worker that died of them now would leave a message behind that nobody is handed again.
    NotRun,
}

impl Attempt {
    fn way(self) -> Way {
        match (self.only_ours, may_return(self.delivered)) {
            (true, _) => Way::Together,
            (false, true) => Way::Apart,
            (false, false) => Way::NotRun,
        }
    }
}

/// What the api said.
enum Answer {
    Verdicts(Vec<Verdict>),
    Nobody,
    Silence,
}

impl Intake {
    pub(super) async fn on_redelivery(self: Arc<Self>, delivery: Arc<Delivery>, jobs: Vec<Job>, attempt: Attempt) {
        let delivered = attempt.delivered;
        let mut answer = self.ask(&delivery, &jobs).await;
        if matches!(answer, Answer::Nobody) && delivered >= GONE_AFTER && !self.is_over(&jobs) {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            answer = self.ask(&delivery, &jobs).await;
        }
        match answer {
            Answer::Verdicts(verdicts) => {
                let (mut wanted, mut dropped) = (Vec::with_capacity(jobs.len()), Vec::new());
                for (job, verdict) in jobs.into_iter().zip(verdicts) {
                    let reason = match verdict {
                        Verdict::Wanted => {
                            wanted.push(job);
                            continue;
                        }
                        Verdict::Done => SavedReason::Duplicate,
                        Verdict::Cancelled => SavedReason::Cancelled,
                    };
                    self.counters.saved(reason, estimate(std::slice::from_ref(&job)));
                    dropped.push(job);
                }
                self.counters.cancelled.inc_by(dropped.len() as u64);
                if wanted.is_empty() {
                    return self.settle(&delivery, &dropped, "+ACK").await;
                }
                self.release(delivery.lane, &dropped);
                self.deliveries.finished(&delivery, dropped.len());
                match attempt.way() {
                    Way::Together => self.preparer.prepare(delivery, wanted, None),
                    Way::Apart => {
                        // Suspects are counted there, so that ordinary work goes on beside them.
                        self.release(delivery.lane, &wanted);
                        self.quarantine.take(delivery, wanted, delivered).await;
                    }
                    Way::NotRun => self.not_run(delivery, &wanted, delivered),
                }
            }
            Answer::Nobody if delivered >= GONE_AFTER || self.is_over(&jobs) => {
                self.counters.cancelled.inc_by(jobs.len() as u64);
                self.counters.saved(SavedReason::Cancelled, estimate(&jobs));
                self.settle(&delivery, &jobs, "+ACK").await;
            }
            Answer::Nobody | Answer::Silence if !may_return(delivered) => self.not_run(delivery, &jobs, delivered),
            Answer::Nobody | Answer::Silence => self.settle(&delivery, &jobs, TRY_AGAIN).await,
        }
    }

    /// The last delivery that the broker makes must end in an answer, whatever becomes of this worker.
    fn not_run(&self, delivery: Arc<Delivery>, jobs: &[Job], delivered: u64) {
        self.release(delivery.lane, jobs);
        tracing::warn!(
            delivered,
            jobs = jobs.len(),
            "a message was delivered too often; its jobs are answered as not run"
        );
        self.results.not_run(delivery, jobs.iter().map(|job| job.id));
    }

    async fn ask(&self, delivery: &Delivery, jobs: &[Job]) -> Answer {
        let ask = Ask { jobs: jobs.iter().map(|job| job.id).collect() };
        let Ok(payload) = codec::encode(&ask) else { return Answer::Silence };
        let request = Request::new().payload(payload).timeout(Some(ASK_TIMEOUT));
        match self.link.client.send_request(subjects::ask(delivery.api), request).await {
            Ok(reply) => match codec::decode::<AskAnswer>(&reply.payload) {
                Ok(answer) if answer.verdicts.len() == jobs.len() => Answer::Verdicts(answer.verdicts),
                _ => Answer::Silence,
            },
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Answer::Nobody,
            Err(_) => Answer::Silence,
        }
    }

    /// Nobody can be waiting for any of them any more.
    fn is_over(&self, jobs: &[Job]) -> bool {
        let now_us = self.clock.now_us();
        jobs.iter().all(|job| job.deadline_us <= now_us)
    }

    /// Ends the delivery with `word`, unless it is not ours any more.
    async fn settle(&self, delivery: &Delivery, jobs: &[Job], word: &'static str) {
        self.release(delivery.lane, jobs);
        if self.link.is_up() && delivery.is_ours(self.link.epoch(), Instant::now()) {
            let _lost = self.link.client.publish(delivery.ack.clone(), word.into()).await;
        }
        self.deliveries.finished(delivery, jobs.len());
    }
}

#[cfg(test)]
mod tests {
    use forebay_shared::streams::MAX_DELIVER;

    use super::*;

    fn way(delivered: u64, only_ours: bool) -> Way {
        Attempt { delivered, only_ours }.way()
    }

    #[test]
    fn what_another_worker_had_runs_apart_as_long_as_its_message_can_come_back() {
        let last = MAX_DELIVER.unsigned_abs();
        assert_eq!((way(2, false), way(last - 2, false)), (Way::Apart, Way::Apart));
        assert_eq!((way(last - 1, false), way(last, false)), (Way::NotRun, Way::NotRun));
    }

    #[test]
    fn what_only_we_had_has_ended_nobody() {
        assert_eq!((way(2, true), way(MAX_DELIVER.unsigned_abs(), true)), (Way::Together, Way::Together));
    }
}
