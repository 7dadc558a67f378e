//! A message that comes a second time: ask before repeating work.
//!
//! The first worker may have died, or only its answer was lost, or the client has left. The api that sent the jobs knows.
//! - wanted: run, apart from others;
//! - nobody there: the api is gone and with it whoever waited: acknowledge and drop;
//! - no answer in time: give it back for a later try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Request, RequestErrorKind};
use forebay_shared::codec;
use forebay_shared::job::{Ask, AskAnswer, Job, Verdict};
use forebay_shared::subjects;

use super::{Intake, TRY_AGAIN};
use crate::delivery::Delivery;

const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What the api said.
enum Answer {
    Verdicts(Vec<Verdict>),
    Nobody,
    Silence,
}

impl Intake {
    pub(super) async fn on_redelivery(self: Arc<Self>, delivery: Arc<Delivery>, jobs: Vec<Job>) {
        match self.ask(&delivery, &jobs).await {
            Answer::Verdicts(verdicts) => {
                let before = jobs.len();
                let wanted: Vec<Job> = jobs
                    .into_iter()
                    .zip(verdicts)
                    .filter(|(_, verdict)| *verdict == Verdict::Wanted)
                    .map(|(job, _)| job)
                    .collect();
                let dropped = before - wanted.len();
                self.counters.cancelled.inc_by(dropped as u64);
                if wanted.is_empty() {
                    return self.settle(&delivery, before, "+ACK").await;
                }
                self.deliveries.finished(&delivery, dropped);
                self.hand_over(delivery, wanted, true);
            }
            Answer::Nobody => {
                self.counters.cancelled.inc_by(jobs.len() as u64);
                self.settle(&delivery, jobs.len(), "+ACK").await;
            }
            Answer::Silence => self.settle(&delivery, jobs.len(), TRY_AGAIN).await,
        }
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

    /// Ends the delivery with `word`, unless it is not ours any more.
    async fn settle(&self, delivery: &Delivery, jobs: usize, word: &'static str) {
        if delivery.is_ours(self.link.epoch(), Instant::now()) {
            let _lost = self.link.client.publish(delivery.ack.clone(), word.into()).await;
        }
        self.deliveries.finished(delivery, jobs);
    }
}
