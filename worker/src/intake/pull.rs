//! Pull requests on the lanes' consumers (step ④), without a client-side buffer.
//!
//! One inbox subscription takes the messages of all lanes; a request's number is the last token of its inbox, so that the
//! end of an earlier request is not taken for the end of the present one.
//!
//! ```text
//!            ask                 last message | status (timed out, refused) | expiry passed | connection made anew
//! Closed ──────────▶ Open(n) ───────────────────────────────────────────────────────────────────────────────────▶ Closed
//! ```

use std::time::{Duration, Instant};

use async_nats::{Client, PublishError};
use forebay_shared::ids::{BootId, Lane, ModelToken};
use forebay_shared::{streams, subjects};

/// How long the broker keeps a request open. A request that was lost is noticed this much later.
const EXPIRES: Duration = Duration::from_secs(10);
/// Grace after [`EXPIRES`] before a request without any answer counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A broker that has a message answers a request sooner than this.
const UNANSWERED_AFTER: Duration = Duration::from_millis(20);

/// The open request of one lane, if any.
#[derive(Debug)]
pub(crate) struct LanePull {
    lane: Lane,
    subject: String,
    inbox: String,
    number: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    messages_left: u32,
    until: Instant,
    /// When it was asked, or last delivered something.
    last_sign: Instant,
}

impl LanePull {
    /// `inbox`: prefix under which the worker listens.
    pub(crate) fn new(token: &ModelToken, lane: Lane, inbox: &str) -> Self {
        let stream = streams::jobs_stream(token);
        Self {
            lane,
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", lane.as_str()),
            inbox: format!("{inbox}.{}", lane.as_str()),
            number: 0,
            open: None,
        }
    }

    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| now < open.until + LOST_AFTER)
    }

    /// Open for a while without an answer: nothing waits in this lane of the queue.
    pub(crate) fn is_unanswered(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| now.saturating_duration_since(open.last_sign) > UNANSWERED_AFTER)
    }

    /// When an open request counts as lost.
    pub(crate) fn lost_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until + LOST_AFTER)
    }

    /// Asks for `messages`.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub(crate) async fn ask(&mut self, client: &Client, messages: u32, now: Instant) -> Result<(), PublishError> {
        self.number += 1;
        self.open = Some(Open { messages_left: messages, until: now + EXPIRES, last_sign: now });
        let request = format!(r#"{{"batch":{messages},"expires":{}}}"#, EXPIRES.as_nanos());
        client.publish_with_reply(self.subject.clone(), format!("{}.{}", self.inbox, self.number), request.into()).await
    }

    /// One message has arrived. Deliveries do not say which request they answer: a straggler of an earlier one closes
    /// this one early, and the credit allows for a message more.
    pub(crate) fn delivered(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.last_sign = now;
            open.messages_left = open.messages_left.saturating_sub(1);
            if open.messages_left == 0 {
                self.open = None;
            }
        }
    }

    /// The broker ended request `number`.
    pub(crate) fn ended(&mut self, number: u64) {
        if number == self.number {
            self.open = None;
        }
    }

    /// Whatever was open is void: the connection was made anew.
    pub(crate) fn forget(&mut self) {
        self.open = None;
    }
}

/// Subject and reply subject of the question whose answer opens the fence again. Any answer that comes over this
/// connection and subscription will do. Nobody listens where a worker would be asked, so the broker that we are connected
/// to says at once that nobody does, also while no stream has a leader.
pub(crate) fn fence_question(boot: BootId, inbox: &str, number: u64) -> (String, String) {
    (subjects::ask(boot), format!("{inbox}.fence.{number}"))
}

/// Number of the question that a message under our inbox answers, if it answers one.
pub(crate) fn parse_echo(subject: &str, inbox: &str) -> Option<u64> {
    subject.strip_prefix(inbox)?.strip_prefix(".fence.")?.parse().ok()
}

/// Lane and request number of a subject under the worker's inbox.
pub(crate) fn parse_inbox(subject: &str, inbox: &str) -> Option<(Lane, u64)> {
    let (lane, number) = subject.strip_prefix(inbox)?.strip_prefix('.')?.split_once('.')?;
    Some((lane.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_matched_to_its_request() {
        assert_eq!(parse_inbox("_INBOX.b.pull.jobs.normal.7", "_INBOX.b.pull.jobs"), Some((Lane::Normal, 7)));
        assert_eq!(parse_inbox("_INBOX.b.pull.jobs.urgent.7", "_INBOX.b.pull.jobs"), None);
        assert_eq!(parse_inbox("_INBOX.c.pull.jobs.low.7", "_INBOX.b.pull.jobs"), None);
        let (_, reply) = fence_question(BootId::from_bytes([1; 16]), "_INBOX.b.pull.jobs", 3);
        assert_eq!(parse_echo(&reply, "_INBOX.b.pull.jobs"), Some(3));
        assert_eq!(parse_echo("_INBOX.b.pull.jobs.low.3", "_INBOX.b.pull.jobs"), None);
    }

    fn opened(number: u64, messages: u32) -> LanePull {
        let mut pull = LanePull::new(&ModelToken::from("m-0123456789"), Lane::Normal, "_INBOX.b");
        pull.number = number;
        pull.open = Some(Open { messages_left: messages, until: Instant::now() + EXPIRES, last_sign: Instant::now() });
        pull
    }

    #[test]
    fn a_request_closes_with_its_last_message() {
        let mut pull = opened(3, 2);
        pull.delivered(Instant::now());
        assert!(pull.is_open(Instant::now()));
        pull.delivered(Instant::now());
        assert!(!pull.is_open(Instant::now()));
    }

    #[test]
    fn the_end_of_an_earlier_request_changes_nothing() {
        let mut pull = opened(3, 1);
        pull.ended(2);
        assert!(pull.is_open(Instant::now()));
    }

    #[test]
    fn a_request_without_any_answer_counts_as_lost() {
        let pull = opened(3, 1);
        assert!(!pull.is_open(Instant::now() + EXPIRES + LOST_AFTER));
    }
}
