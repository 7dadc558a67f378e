//! What happened to every request, and what was wrong meanwhile: the evidence, and the verdict on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::schedule::{Event, Kind, Role};

/// A little more than a deadline is not yet a hang.
const HANG_SLACK: Duration = Duration::from_secs(2);
/// How long after a broker is back its clients may still be looking for it: their back-off is up to 2 s.
const RECONNECT: Duration = Duration::from_millis(2_500);
/// How long after the only broker is back what was in flight may take: a delivery that nobody can give back is lent for 5 s.
const BACKLOG: Duration = Duration::from_secs(9);
/// A refusal at the door is said at once, or after the 2 s that an api waits for another broker.
const AT_THE_DOOR: Duration = Duration::from_secs(3);
/// How long after a fault refusals are still its consequence: with three brokers a leader is chosen in 5 to 8 s.
const AFTERMATH: Duration = Duration::from_secs(3);
const ELECTION: Duration = Duration::from_secs(10);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Right,
    Wrong(String),
    Status(u16, String),
    /// The connection broke, or could not be made.
    Broken(String),
}

#[derive(Debug, Clone)]
pub struct Request {
    pub api: usize,
    pub sent: Instant,
    pub took: Duration,
    pub timeout: Duration,
    pub ended: Ended,
}

/// A fault that was done, from its beginning until everything was as before.
#[derive(Debug, Clone)]
pub struct Done {
    pub event: Event,
    pub from: Instant,
    pub until: Instant,
}

#[derive(Debug, Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub faults: Vec<Done>,
    /// There is one broker: while it is away there is no quorum.
    pub one_broker: bool,
}

/// How a request is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judged {
    Right,
    /// Refused at the door with 503 while something was wrong: never accepted.
    Refused,
    /// Its api was killed, or there was no broker: nothing was promised beyond a clear end.
    Excused,
    /// Accepted, promised, and not answered.
    Failed,
}

impl History {
    pub fn judge(&self, request: &Request) -> Judged {
        match &request.ended {
            Ended::Right if request.took <= request.timeout => Judged::Right,
            _ if self.excuse(request).is_some() => Judged::Excused,
            Ended::Status(503, _) if request.took <= AT_THE_DOOR && self.cause(request).is_some() => Judged::Refused,
            _ => Judged::Failed,
        }
    }

    /// The fault because of which nothing was promised to a request but a clear end.
    fn excuse(&self, request: &Request) -> Option<&Done> {
        let end = request.sent + request.took;
        self.faults.iter().find(|fault| {
            let overlaps = |until: Instant| fault.from <= end && request.sent <= until;
            match (fault.event.kind, &request.ended) {
                // A frozen api is not dead: it answers when it goes on, in time.
                (Kind::KillApi, _) => fault.event.target == request.api && overlaps(fault.until),
                (Kind::KillBroker | Kind::FreezeBroker, Ended::Status(503, _)) => {
                    self.one_broker && overlaps(fault.until + RECONNECT)
                }
                (Kind::KillBroker | Kind::FreezeBroker, Ended::Status(504, _)) => {
                    let in_vain = request.sent + request.timeout < fault.until + BACKLOG;
                    self.one_broker && overlaps(fault.until + RECONNECT) && in_vain
                }
                _ => false,
            }
        })
    }

    /// The latest fault that had begun, and was over only a moment before the request ended.
    fn cause(&self, request: &Request) -> Option<&Done> {
        let end = request.sent + request.took;
        let after = |fault: &Done| match fault.event.kind.role() {
            Role::Broker if !self.one_broker => ELECTION,
            _ => AFTERMATH,
        };
        self.faults.iter().rev().find(|fault| fault.from <= end && end <= fault.until + after(fault))
    }

    pub fn count(&self, judged: Judged) -> usize {
        self.requests.iter().filter(|request| self.judge(request) == judged).count()
    }

    /// Answers with another request's content: never, whatever happens.
    pub fn wrong(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| matches!(request.ended, Ended::Wrong(_))).collect()
    }

    /// Requests that were left without an end by their deadline by an api that was there, whatever else was not.
    pub fn hung(&self) -> Vec<&Request> {
        let late = |request: &&Request| {
            let stopped: Duration = self.faults.iter().map(|fault| self.stood_still(fault, request)).sum();
            request.took > request.timeout + HANG_SLACK + stopped
        };
        self.requests.iter().filter(late).collect()
    }

    /// For how long this fault kept a request's api from saying anything.
    fn stood_still(&self, fault: &Done, request: &Request) -> Duration {
        if fault.event.kind != Kind::FreezeApi || fault.event.target != request.api {
            return Duration::ZERO;
        }
        let end = request.sent + request.took;
        fault.until.min(end).saturating_duration_since(fault.from.max(request.sent))
    }

    /// Of those accepted with everything there that is needed, the share answered right and in time.
    pub fn kept(&self) -> f64 {
        let (right, failed) = (self.count(Judged::Right), self.count(Judged::Failed));
        if right + failed == 0 { 0.0 } else { right as f64 / (right + failed) as f64 }
    }

    /// The longest time without a right answer.
    pub fn longest_outage(&self) -> Duration {
        let mut at: Vec<Instant> = self
            .requests
            .iter()
            .filter(|request| request.ended == Ended::Right)
            .map(|request| request.sent + request.took)
            .collect();
        at.sort_unstable();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Errors by the fault that is to blame: the one that excuses them, or else the latest.
    pub fn blamed(&self) -> BTreeMap<Option<Kind>, Blame> {
        let mut blamed: BTreeMap<Option<Kind>, Blame> = BTreeMap::new();
        for fault in &self.faults {
            let blame = blamed.entry(Some(fault.event.kind)).or_default();
            blame.faults += 1;
            blame.lasted += fault.until - fault.from;
        }
        for request in self.requests.iter().filter(|request| self.judge(request) != Judged::Right) {
            let guilty = self.excuse(request).or_else(|| self.cause(request));
            let blame = blamed.entry(guilty.map(|fault| fault.event.kind)).or_default();
            match self.judge(request) {
                Judged::Refused => blame.refused += 1,
                Judged::Excused => blame.excused += 1,
                _ => blame.failed += 1,
            }
            let end = request.sent + request.took;
            blame.seconds.insert(end.duration_since(self.start()).as_secs());
        }
        blamed
    }

    /// Of all that were sent, the share answered right and in time, whatever was down.
    pub fn answered(&self) -> f64 {
        self.count(Judged::Right) as f64 / self.requests.len().max(1) as f64
    }

    fn start(&self) -> Instant {
        self.requests.iter().map(|request| request.sent).min().unwrap_or_else(Instant::now)
    }
}

/// What one kind of fault led to.
#[derive(Debug, Default)]
pub struct Blame {
    pub faults: usize,
    pub lasted: Duration,
    pub refused: usize,
    pub excused: usize,
    pub failed: usize,
    /// Seconds of the run in which at least one request did not get its answer.
    pub seconds: std::collections::BTreeSet<u64>,
}
