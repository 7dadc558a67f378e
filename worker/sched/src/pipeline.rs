//! When the next batch is handed to a device that has one already (between steps 5 and 6 of the data path).
//!
//! ```text
//!        submitted           submitted               depth under way
//! idle ─────────────▶ one ─────────────▶ … ────────▶ full
//!   ▲                  │ ▲                │            │
//!   └──────landed──────┘ └─────landed─────┴───landed───┘
//!
//! wanted:  idle  any batch
//!          one … a full batch; any batch, once the device is expected to be idle soon
//!          full  nothing; nothing either while one under way must be alone
//! ```
//! A device that works by itself should find the next batch when it has finished one, and a batch should have time to
//! grow. A batch that cannot grow therefore goes at once. One that can waits until all that is under way is expected to
//! have landed, less a **lead**: the time in which the host hands a batch over, and a margin. The expectation is
//! [`crate::pace`]'s; before the first landing there is none, so the second batch waits for a full one or that landing.
//!
//! Invariants, each held by a property test:
//! * never more than `depth` under way, and nothing beside a batch that must be alone;
//! * with nothing under way any batch is wanted;
//! * batches land in the order in which they were submitted, each once, and each was on the device from its submission or
//!   the landing before it, whichever was later: the device is serial, so these times never overlap;
//! * between [`Pipeline::next_change`] and the instant before the next submission or landing, `wanted` changes only there.
//!
//! It is told the time and takes it as it comes: an instant before an earlier one counts as no time passed. It does not
//! know what waits, and cannot tell whether a batch is full: that is the batcher's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pace::Pace;

/// What the device should get now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    /// A batch that cannot grow: [`crate::Batcher::poll_full`].
    Full,
    /// Whatever is due: [`crate::Batcher::poll`].
    Any,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    tokens: usize,
    alone: bool,
    submitted: Instant,
}

/// The batches of one device that were submitted and have not landed.
#[derive(Debug, Clone)]
pub struct Pipeline {
    depth: usize,
    margin: Duration,
    under_way: VecDeque<UnderWay>,
    last_landing: Option<Instant>,
    pace: Pace,
}

impl Pipeline {
    /// `margin`: how long before the device is expected to be idle the host begins to hand over the next batch, beside the
    /// time that takes. A depth of zero counts as one.
    pub fn new(depth: usize, margin: Duration) -> Self {
        Self {
            depth: depth.max(1),
            margin,
            under_way: VecDeque::with_capacity(depth),
            last_landing: None,
            pace: Pace::default(),
        }
    }

    pub fn wanted(&self, now: Instant) -> Wanted {
        if self.under_way.is_empty() {
            return Wanted::Any;
        }
        if self.is_full() {
            return Wanted::Nothing;
        }
        match self.next_change() {
            Some(at) if at <= now => Wanted::Any,
            _ => Wanted::Full,
        }
    }

    /// When `Full` turns into `Any` by time alone; an instant that has passed means that it has. `None` if time changes
    /// nothing.
    pub fn next_change(&self) -> Option<Instant> {
        if self.is_full() {
            return None;
        }
        let began = self.oldest_began()?;
        let idle = self
            .under_way
            .iter()
            .try_fold(began, |at, batch| at.max(batch.submitted).checked_add(self.pace.predict(batch.tokens)?))?;
        Some(idle.checked_sub(self.margin + self.pace.host()).unwrap_or(began))
    }

    /// A batch of `tokens` was handed over, from `at` on for the time of `host`. `alone`: nothing may be submitted beside it.
    pub fn submitted(&mut self, tokens: usize, alone: bool, at: Instant, host: Duration) {
        debug_assert!(self.under_way.len() < self.depth, "submitted more than the device takes");
        let submitted = self.under_way.back().map_or(at, |last| at.max(last.submitted));
        self.under_way.push_back(UnderWay { tokens, alone, submitted });
        self.pace.learn_host(host);
    }

    /// The oldest batch has landed at `at`; `computed` if it has a result. Nothing happens if none is under way.
    pub fn landed(&mut self, at: Instant, computed: bool) {
        let Some(batch) = self.under_way.pop_front() else { return };
        let began = began(batch.submitted, self.last_landing);
        let at = at.max(began);
        self.last_landing = Some(at);
        if computed {
            self.pace.learn(batch.tokens, at - began);
        }
    }

    fn is_full(&self) -> bool {
        self.under_way.len() >= self.depth || self.under_way.iter().any(|batch| batch.alone)
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Since when the device works on the batch that lands next.
    pub fn oldest_began(&self) -> Option<Instant> {
        self.under_way.front().map(|batch| began(batch.submitted, self.last_landing))
    }
}

/// When a serial device began a batch: when it was submitted, or when the one before landed.
pub fn began(submitted: Instant, landing_before: Option<Instant>) -> Instant {
    landing_before.map_or(submitted, |before| before.max(submitted))
}
