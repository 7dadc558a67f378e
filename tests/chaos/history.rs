//! What happened to every request, and what was wrong meanwhile: the evidence, and the verdict on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::schedule::{Event, Kind};

/// A little more than a deadline is not yet a hang.
const HANG_SLACK: Duration = Duration::from_secs(2);
/// How long after a broker is back its clients may still be looking for it: their back-off is up to 2 s.
const RECONNECT: Duration = Duration::from_millis(2_500);
/// How long after its end a fault is blamed for an error.
const AFTERMATH: Duration = Duration::from_secs(8);

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
    /// Refused at the door with 503: never accepted.
    Refused,
    /// Its api was killed or frozen, or there was no broker: nothing was promised beyond a clear end.
    Excused,
    /// Accepted, promised, and not answered.
    Failed,
}

impl History {
    pub fn judge(&self, request: &Request) -> Judged {
        match &request.ended {
            Ended::Right if request.took <= request.timeout => Judged::Right,
            _ if self.is_excused(request) => Judged::Excused,
            Ended::Status(503, _) => Judged::Refused,
            _ => Judged::Failed,
        }
    }

    fn is_excused(&self, request: &Request) -> bool {
        let end = request.sent + request.took;
        self.faults.iter().any(|fault| {
            let overlaps = |until: Instant| fault.from <= end && request.sent <= until;
            match fault.event.kind {
                Kind::KillApi | Kind::FreezeApi => fault.event.target == request.api && overlaps(fault.until),
                Kind::KillBroker | Kind::FreezeBroker => self.one_broker && overlaps(fault.until + RECONNECT),
                _ => false,
            }
        })
    }

    pub fn count(&self, judged: Judged) -> usize {
        self.requests.iter().filter(|request| self.judge(request) == judged).count()
    }

    /// Answers with another request's content: never, whatever happens.
    pub fn wrong(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| matches!(request.ended, Ended::Wrong(_))).collect()
    }

    /// Requests that were left without an end by their deadline by an api that was there.
    pub fn hung(&self) -> Vec<&Request> {
        let late = |request: &&Request| request.took > request.timeout + HANG_SLACK;
        self.requests.iter().filter(late).filter(|request| !self.is_excused(request)).collect()
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

    /// Errors by the fault that is to blame: the latest that had begun and was over less than [`AFTERMATH`] before.
    pub fn blamed(&self) -> BTreeMap<Option<Kind>, Blame> {
        let mut blamed: BTreeMap<Option<Kind>, Blame> = BTreeMap::new();
        for fault in &self.faults {
            let blame = blamed.entry(Some(fault.event.kind)).or_default();
            blame.faults += 1;
            blame.lasted += fault.until - fault.from;
        }
        for request in self.requests.iter().filter(|request| self.judge(request) != Judged::Right) {
            let end = request.sent + request.took;
            let guilty = self.faults.iter().rev().find(|fault| fault.from <= end && end <= fault.until + AFTERMATH);
            let blame = blamed.entry(guilty.map(|fault| fault.event.kind)).or_default();
            match self.judge(request) {
                Judged::Refused => blame.refused += 1,
                Judged::Excused => blame.excused += 1,
                _ => blame.failed += 1,
            }
            blame.seconds.insert(end.duration_since(self.start()).as_secs());
        }
        blamed
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
