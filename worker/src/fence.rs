//! Whether what this process reads and says is about the present. Pure; told the time.
//!
//! A process can be stopped for any time between two instructions: by its machine, a debugger, a signal. When it goes on,
//! its socket holds deliveries that were lent long ago, and what it holds may have gone to others: a reaper takes a frozen
//! worker off the broker and gives its work back. The same is left behind by a connection that was lost. Hence:
//!
//! ```text
//!       nobody looked for longer than GAP | the connection was made anew
//! Open ─────────────────────────────────────────────────────────────────▶ Closed(n) ── echo n ──▶ Open
//! ```
//!
//! While it is closed, nothing is acknowledged, given back or reported, and no work is asked for. The echo is the answer
//! to a question to the broker: all that was read before it was sent before it.
//! - After a **gap** on the same connection, what was read before the echo is parked. If the echo comes, the connection
//!   was never cut, so nobody gave our work away: what is parked is dated by the last look before the gap, and taken
//!   unless its lease is over by that date.
//! - After a **new connection**, what was read before the echo came over the old one: it is dropped.

use std::time::{Duration, Instant};

/// Longer than this without a look means that the process did not run.
pub(crate) const GAP: Duration = Duration::from_secs(1);
/// How often somebody looks.
pub(crate) const LOOK: Duration = Duration::from_millis(250);
/// A question without an answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Fence {
    epoch: u64,
    looked: Instant,
    /// The look before: what is read now has come since then.
    looked_before: Instant,
    /// Of the last question.
    number: u64,
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Closed {
    /// The last look before the gap; `None`: the connection is another.
    since: Option<Instant>,
    asked: Option<Instant>,
}

/// What to do with a delivery that was just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is lent since this instant at the earliest.
    Take(Instant),
    /// Keep it until the fence opens.
    Park,
    Drop,
}

impl Fence {
    pub(crate) fn new(epoch: u64, now: Instant) -> Self {
        Self { epoch, looked: now, looked_before: now, number: 0, closed: None }
    }

    /// Looks at the clock and at the connection.
    pub(crate) fn look(&mut self, epoch: u64, now: Instant) {
        let gap = now.saturating_duration_since(self.looked) > GAP;
        if epoch != self.epoch {
            self.close(None);
        } else if gap {
            // A second gap does not make the first one shorter, nor the connection the old one.
            let since = self.closed.as_ref().map_or(Some(self.looked), |closed| closed.since);
            self.close(since);
        }
        self.epoch = epoch;
        (self.looked_before, self.looked) = (self.looked, now);
    }

    fn close(&mut self, since: Option<Instant>) {
        self.number += 1;
        self.closed = Some(Closed { since, asked: None });
    }

    /// Nothing has happened since the last look that would make our word a stale one.
    pub(crate) fn is_open(&self, epoch: u64, now: Instant) -> bool {
        self.closed.is_none() && self.epoch == epoch && now.saturating_duration_since(self.looked) <= GAP
    }

    /// The number of the question to put to the broker now, if one is due.
    pub(crate) fn question(&mut self, now: Instant) -> Option<u64> {
        let closed = self.closed.as_mut()?;
        let due = closed.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN);
        due.then(|| {
            closed.asked = Some(now);
            self.number
        })
    }

    /// The answer to question `number` was read. Opens the fence if it is the one waited for, and says since when what is
    /// parked has been lent.
    pub(crate) fn echoed(&mut self, number: u64) -> Option<Instant> {
        if number != self.number {
            return None;
        }
        self.closed.take()?.since
    }

    /// Judges a delivery that was read after the last look.
    pub(crate) fn admit(&self) -> Admission {
        match &self.closed {
            None => Admission::Take(self.looked_before),
            Some(Closed { since: Some(_), .. }) => Admission::Park,
            Some(Closed { since: None, .. }) => Admission::Drop,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(origin: Instant, ms: u64) -> Instant {
        origin + Duration::from_millis(ms)
    }

    #[test]
    fn ordinary_turns_leave_it_open_and_date_what_they_read_by_the_turn_before() {
        let t = Instant::now();
        let mut fence = Fence::new(1, t);
        fence.look(1, at(t, 250));
        fence.look(1, at(t, 500));
        assert_eq!(fence.admit(), Admission::Take(at(t, 250)));
        assert!(fence.is_open(1, at(t, 1_400)));
        assert!(!fence.is_open(1, at(t, 1_600)), "whoever asks first after a gap is told, look or no look");
        assert_eq!(fence.question(at(t, 500)), None);
    }

    #[test]
    fn after_a_gap_what_is_read_waits_for_the_echo_and_is_dated_before_the_gap() {
        let t = Instant::now();
        let mut fence = Fence::new(1, t);
        fence.look(1, at(t, 3_000));
        assert_eq!(fence.admit(), Admission::Park);
        assert_eq!(fence.question(at(t, 3_000)), Some(1));
        assert_eq!(fence.question(at(t, 3_100)), None);
        assert_eq!(fence.question(at(t, 3_500)), Some(1), "asked again");
        assert_eq!(fence.echoed(1), Some(t));
        assert!(fence.is_open(1, at(t, 3_000)));
    }

    #[test]
    fn after_a_new_connection_what_is_read_is_dropped_also_when_a_gap_came_first() {
        let t = Instant::now();
        let mut fence = Fence::new(1, t);
        fence.look(1, at(t, 3_000));
        assert_eq!(fence.question(at(t, 3_000)), Some(1));
        fence.look(2, at(t, 3_010));
        assert_eq!(fence.admit(), Admission::Drop);
        fence.look(2, at(t, 9_000));
        assert_eq!(fence.admit(), Admission::Drop, "another gap does not bring the old connection back");
        assert_eq!((fence.echoed(1), fence.is_closed()), (None, true), "the answer to an older question opens nothing");
        assert_eq!(fence.echoed(3), None);
        assert!(fence.is_open(2, at(t, 9_000)));
    }

    proptest! {
        /// Whatever happens in whatever order, nothing is said or taken between a gap or a new connection and its echo.
        #[test]
        fn it_is_never_open_before_the_echo_of_the_last_disturbance(
            steps in prop::collection::vec((0u64..2_500, any::<bool>(), any::<bool>()), 1..40),
        ) {
            let t = Instant::now();
            let (mut fence, mut now_ms, mut epoch, mut disturbed) = (Fence::new(0, t), 0, 0, false);
            for (pause_ms, renewed, echo) in steps {
                now_ms += pause_ms;
                epoch += u64::from(renewed);
                disturbed |= renewed || pause_ms > 1_000;
                let now = at(t, now_ms);
                prop_assert!(!disturbed || !fence.is_open(epoch, now));
                fence.look(epoch, now);
                prop_assert_eq!(!disturbed, fence.is_open(epoch, now));
                prop_assert_eq!(disturbed, !matches!(fence.admit(), Admission::Take(_)));
                if echo && disturbed {
                    fence.echoed(fence.number);
                    disturbed = false;
                }
            }
        }
    }
}
