//! Tells workers that nobody waits for some jobs any more (the client left, the deadline passed, the publish failed).
//!
//! Best effort and never in the way: what ended in one turn of the runtime travels in one message per model, so that a
//! thousand clients that leave together are not a thousand messages; a worker that misses it computes in vain, and its
//! answer frees the message from the queue. A worker that hears it answers `cancelled`, which frees the message too.

use std::time::{Duration, Instant};

use forebay_shared::broker::Link;
use forebay_shared::clock::BrokerClock;
use forebay_shared::codec;
use forebay_shared::ids::{BootId, JobId, ModelToken};
use forebay_shared::job::Cancel;
use forebay_shared::subjects;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

/// Ended requests that may wait for the next turn; beyond it they are not told.
const CAPACITY: usize = 8_192;
/// Most jobs named in one message: below 1 MB with a bundle each.
const MAX_JOBS: usize = 16_384;
/// Workers may run behind the api's clock by this.
const MARGIN: Duration = Duration::from_secs(2);

/// A published job that nobody waits for: the bundle it travels in, and its id.
pub(super) type Withdrawn = (u64, JobId);

/// Jobs of one model that ended together.
#[derive(Debug)]
struct Ended {
    token: ModelToken,
    deadline: Instant,
    jobs: Vec<Withdrawn>,
}

/// Where requests leave word when they end without an answer.
#[derive(Debug)]
pub(super) struct Canceller(mpsc::Sender<Ended>);

impl Canceller {
    /// Starts the task that tells; it ends with the canceller.
    pub(super) fn start(boot: BootId, link: Link, clock: BrokerClock) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        tokio::spawn(run(boot, link, clock, receiver));
        Self(sender)
    }

    /// Never waits.
    pub(super) fn tell(&self, token: &ModelToken, deadline: Instant, jobs: Vec<Withdrawn>) {
        if !jobs.is_empty() {
            // Full: so many leave at once that the workers will find out by themselves.
            let _told_or_not = self.0.try_send(Ended { token: token.clone(), deadline, jobs });
        }
    }
}

async fn run(boot: BootId, link: Link, clock: BrokerClock, mut ended: mpsc::Receiver<Ended>) {
    let mut turn = Vec::with_capacity(64);
    while ended.recv_many(&mut turn, CAPACITY).await > 0 {
        // Requests whose connections broke in the same turn join.
        tokio::task::yield_now().await;
        while let Ok(more) = ended.try_recv() {
            turn.push(more);
        }
        if !link.is_up() {
            // Said after the reconnect it would be old news; redelivered jobs are asked for anyway.
            turn.clear();
            continue;
        }
        for (token, until, bundles) in grouped(turn.drain(..)) {
            let cancel = Cancel { api: boot, until_us: clock.at(until + MARGIN), bundles };
            match codec::encode(&cancel) {
                Ok(payload) => {
                    let _lost = link.client.publish(subjects::cancel(&token), payload).await;
                }
                Err(error) => tracing::error!(%error, "could not encode a cancellation"),
            }
        }
    }
}

type Message = (ModelToken, Instant, Vec<(u64, Vec<JobId>)>);

/// One message per model, or more where it would grow too large; each with the last deadline of its jobs.
fn grouped(ended: impl Iterator<Item = Ended>) -> Vec<Message> {
    #[derive(Default)]
    struct Group {
        until: Option<Instant>,
        bundles: FxHashMap<u64, Vec<JobId>>,
        jobs: usize,
    }
    let (mut open, mut full): (FxHashMap<ModelToken, Group>, Vec<Message>) = Default::default();
    for Ended { token, deadline, jobs } in ended {
        for (bundle, job) in jobs {
            let group = open.entry(token.clone()).or_default();
            group.until = group.until.max(Some(deadline));
            group.bundles.entry(bundle).or_default().push(job);
            group.jobs += 1;
            if group.jobs == MAX_JOBS
                && let Group { until: Some(until), bundles, .. } = std::mem::take(group)
            {
                full.push((token.clone(), until, bundles.into_iter().collect()));
            }
        }
    }
    full.extend(
        open.into_iter()
            .filter_map(|(token, group)| Some((token, group.until?, group.bundles.into_iter().collect::<Vec<_>>()))),
    );
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(token: &str, deadline: Instant, jobs: &[(u64, u16)]) -> Ended {
        let id = |n: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&n.to_le_bytes());
            JobId::from_bytes(bytes)
        };
        Ended { token: token.into(), deadline, jobs: jobs.iter().map(|(bundle, n)| (*bundle, id(*n))).collect() }
    }

    #[test]
    fn what_ends_in_one_turn_is_one_message_per_model_with_the_last_deadline() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let turn = [ended("a", now, &[(1, 1)]), ended("b", now, &[(2, 2)]), ended("a", later, &[(1, 3), (4, 4)])];
        let mut messages = grouped(turn.into_iter());
        messages.sort_by_key(|(token, ..)| token.to_string());
        assert_eq!(messages.len(), 2);
        let (token, until, mut bundles) = messages.swap_remove(0);
        bundles.sort();
        assert_eq!((token.as_str(), until), ("a", later));
        assert_eq!(bundles.iter().map(|(number, jobs)| (*number, jobs.len())).collect::<Vec<_>>(), [(1, 2), (4, 1)]);
    }

    #[test]
    fn a_message_does_not_outgrow_what_the_broker_takes() {
        let jobs: Vec<(u64, u16)> = (0..u16::MAX).map(|n| (u64::from(n), n)).collect();
        let messages = grouped([ended("a", Instant::now(), &jobs)].into_iter());
        let counts: Vec<usize> = messages.iter().map(|(_, _, bundles)| bundles.len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), usize::from(u16::MAX));
        assert!(counts.iter().all(|count| *count <= MAX_JOBS), "{counts:?}");
        for (_, _, bundles) in messages {
            let cancel = Cancel { api: BootId::from_bytes([1; 16]), until_us: 1, bundles };
            assert!(codec::encode(&cancel).unwrap().len() < 1_000_000);
        }
    }
}
