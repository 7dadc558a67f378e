//! Deliveries that a dead or frozen worker never read: the broker has sent them, they wait in its socket, and nobody has
//! announced them. They are what the broker waits for an acknowledgement of and nobody holds.
//!
//! In two steps, so that what was just delivered to the living is not taken for lost: first the broker says how far it has
//! delivered; [`SETTLING`] later everybody has announced what he got up to there, and only what is still unaccounted for
//! and unacknowledged is given back. Found messages are read one by one, which is fine for the few that a worker's open
//! requests can have drawn.

use std::time::{Duration, Instant};

use async_nats::Client;
use forebay_shared::ack::AckSubject;
use forebay_shared::ids::{Lane, ModelToken};
use forebay_shared::{streams, subjects};
use serde::Deserialize;
use serde_json::json;

/// A living worker has announced what it was sent this long ago.
pub(super) const SETTLING: Duration = Duration::from_millis(100);
/// Most messages given back in one go: more than the requests of a worker can have drawn.
const MOST: usize = 64;

/// How far a lane's consumer has come.
#[derive(Debug)]
pub(super) struct Reach {
    lane: Lane,
    /// Everything up to here was acknowledged.
    floor: u64,
    /// Everything up to here was delivered at least once.
    delivered: u64,
    consumer_seq: u64,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    delivered: Sequences,
    ack_floor: Sequences,
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Sequences {
    consumer_seq: u64,
    stream_seq: u64,
}

/// The reach of every lane in which the broker waits for an acknowledgement.
pub(super) async fn reach(client: &Client, token: &ModelToken) -> Vec<Reach> {
    let mut reaches = Vec::new();
    for lane in Lane::ALL {
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{}", streams::jobs_stream(token), lane.as_str());
        let Ok(reply) = client.request(subject, "".into()).await else { continue };
        let Ok(info) = serde_json::from_slice::<ConsumerInfo>(&reply.payload) else { continue };
        if info.num_ack_pending > 0 {
            let (floor, delivered) = (info.ack_floor.stream_seq, info.delivered.stream_seq);
            reaches.push(Reach { lane, floor, delivered, consumer_seq: info.delivered.consumer_seq });
        }
    }
    reaches
}

#[derive(Deserialize)]
struct Found {
    message: Option<FoundMessage>,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
}

/// Something that nobody holds, as far as was known when it was looked for.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) stream_seq: u64,
    /// On which to give it back.
    pub(super) ack: String,
}

/// What lies within the reaches and is in nobody's hands. `held`: what is, in ascending order. Stops at `until`. Whoever gives
/// it back looks again before: a living worker may have announced it meanwhile.
pub(super) async fn orphans(
    client: &Client,
    token: &ModelToken,
    reaches: &[Reach],
    held: &[u64],
    until: Instant,
) -> Vec<Orphan> {
    let stream = streams::jobs_stream(token);
    let mut orphans = Vec::new();
    for Reach { lane, floor, delivered, consumer_seq } in reaches {
        let mut next = not_held(floor + 1, held);
        while next <= *delivered && orphans.len() < MOST && Instant::now() < until {
            let Some(found) = first_from(client, &stream, token, *lane, next).await else { break };
            if found > *delivered {
                break;
            }
            if held.binary_search(&found).is_err() {
                let (stream, consumer) = (stream.as_str(), lane.as_str());
                let ack = AckSubject {
                    stream,
                    consumer,
                    delivered: 1,
                    stream_seq: found,
                    consumer_seq: *consumer_seq,
                    pending: 0,
                };
                orphans.push(Orphan { stream_seq: found, ack: ack.rebuilt() });
            }
            next = not_held(found + 1, held);
        }
    }
    orphans
}

/// On which to give back what is still in nobody's hands, by what the living have said since it was looked for; nothing once
/// it is too late: the rest is left to `ack_wait`.
pub(super) fn still_lost(orphans: Vec<Orphan>, held: &[u64], now: Instant, until: Instant) -> Vec<String> {
    if now >= until {
        return Vec::new();
    }
    let lost = orphans.into_iter().filter(|orphan| held.binary_search(&orphan.stream_seq).is_err());
    lost.map(|orphan| orphan.ack).collect()
}

/// The first sequence from `from` on that is not in `held`.
fn not_held(from: u64, held: &[u64]) -> u64 {
    let begin = held.partition_point(|sequence| *sequence < from);
    let run = held[begin..].iter().zip(from..).take_while(|(held, expected)| **held == *expected).count();
    from + run as u64
}

/// The first message of the lane from `sequence` on that is still in the stream.
async fn first_from(client: &Client, stream: &str, token: &ModelToken, lane: Lane, sequence: u64) -> Option<u64> {
    let question = json!({ "seq": sequence, "next_by_subj": subjects::jobs_lane(token, lane) }).to_string();
    let reply = client.request(format!("$JS.API.STREAM.MSG.GET.{stream}"), question.into()).await.ok()?;
    let found: Found = serde_json::from_slice(&reply.payload).ok()?;
    found.message.map(|message| message.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans() -> Vec<Orphan> {
        [5, 8].map(|stream_seq| Orphan { stream_seq, ack: format!("ack-{stream_seq}") }).into()
    }

    #[test]
    fn what_a_living_worker_has_announced_meanwhile_is_left_to_it() {
        let now = Instant::now();
        let until = now + Duration::from_millis(1);
        assert_eq!(still_lost(orphans(), &[1, 5, 9], now, until), ["ack-8"]);
        assert_eq!(still_lost(orphans(), &[], now, until), ["ack-5", "ack-8"]);
    }

    #[test]
    fn what_was_found_too_late_is_left_to_ack_wait() {
        let until = Instant::now();
        assert!(still_lost(orphans(), &[], until, until).is_empty());
    }

    #[test]
    fn what_is_held_is_stepped_over() {
        assert_eq!(not_held(1, &[]), 1);
        assert_eq!(not_held(5, &[1, 5, 6, 8]), 7);
        assert_eq!(not_held(2, &[1, 5]), 2);
    }
}
