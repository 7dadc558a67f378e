//! The limits of a batch, validated once when the worker starts.

use std::fmt;
use std::time::Duration;

use crate::Lane;

/// What a batch may hold and what a job may be made to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most tokens in one forward pass.
    pub max_tokens: usize,
    /// Most rows in one forward pass.
    pub max_rows: usize,
    /// Longest time a job may wait for company while the device is free. Zero: never.
    pub max_delay: Duration,
    /// What is kept for running: waiting for company ends this long before a job's deadline. Only matters where
    /// `max_delay` is above zero.
    pub deadline_margin: Duration,
    /// In how many batches younger jobs of its lane may leave before a job does. Zero: strict order.
    pub max_overtakes: u32,
    /// How lanes share the device while more waits than one batch holds.
    pub lane_weights: LaneWeights,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            max_tokens: 16_384,
            max_rows: 256,
            max_delay: Duration::ZERO,
            deadline_margin: Duration::from_millis(10),
            max_overtakes: 4,
            lane_weights: LaneWeights::default(),
        }
    }
}

/// Shares of the lanes. A lane gets at least `weight / sum of the weights of the lanes that wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneWeights {
    pub high: u8,
    pub normal: u8,
    pub low: u8,
}

impl Default for LaneWeights {
    fn default() -> Self {
        Self { high: 8, normal: 3, low: 1 }
    }
}

impl LaneWeights {
    pub const fn of(self, lane: Lane) -> u8 {
        match lane {
            Lane::High => self.high,
            Lane::Normal => self.normal,
            Lane::Low => self.low,
        }
    }

    fn sum(self) -> u32 {
        Lane::ALL.iter().map(|&lane| u32::from(self.of(lane))).sum()
    }
}

impl BatchLimits {
    /// How many jobs that do not fit are looked past, in each lane and batch. Keeps the cost of a batch near its
    /// rows when thousands of long jobs wait.
    pub const LOOK_AHEAD: usize = 64;

    /// Checks the limits against the model that they are for.
    ///
    /// # Errors
    /// The first [`LimitsError`] found: a limit under which some job could never run.
    pub fn validate(&self, longest_input_tokens: usize) -> Result<(), LimitsError> {
        if self.max_rows == 0 {
            return Err(LimitsError::NoRows);
        }
        if self.max_tokens == 0 || self.max_tokens < longest_input_tokens {
            return Err(LimitsError::TooFewTokens { max_tokens: self.max_tokens, longest_input_tokens });
        }
        if !self.max_delay.is_zero() && self.deadline_margin.is_zero() {
            return Err(LimitsError::NoDeadlineMargin);
        }
        match Lane::ALL.into_iter().find(|&lane| self.lane_weights.of(lane) == 0) {
            Some(lane) => Err(LimitsError::NoWeight { lane }),
            None => Ok(()),
        }
    }

    /// Most batches in a row without a job of `lane` while it has any waiting, unless jobs are taken back or
    /// expire: `2 × ⌈sum of weights / weight⌉ + 8`.
    ///
    /// A lane is never more than one full batch ahead of its share, so until its turn comes the others are charged
    /// at most `(sum − weight) / weight` full batches and one job each. Two batches that leave work behind are
    /// together charged a full one, as what did not fit the first opens the second. The rest are batches in which a
    /// lane whose turn it is finds no room, ties included.
    pub fn starvation_bound(&self, lane: Lane) -> u32 {
        2 * self.lane_weights.sum().div_ceil(u32::from(self.lane_weights.of(lane)).max(1)) + 8
    }

    /// What a row counts against its lane's share: its tokens, and at least its part of a batch full of rows, so
    /// that many tiny jobs are not taken for free.
    pub(crate) fn charge(&self, tokens: usize) -> usize {
        tokens.max(self.max_tokens.div_ceil(self.max_rows))
    }

    /// Raises to one every limit whose zero would keep a job for ever. For limits that nobody validated.
    pub(crate) fn raised(mut self) -> Self {
        self.max_tokens = self.max_tokens.max(1);
        self.max_rows = self.max_rows.max(1);
        self.deadline_margin = self.deadline_margin.max(Duration::from_nanos(1));
        let weights = &mut self.lane_weights;
        for weight in [&mut weights.high, &mut weights.normal, &mut weights.low] {
            *weight = (*weight).max(1);
        }
        self
    }
}

/// A limit under which some job could never run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitsError {
    NoRows,
    TooFewTokens { max_tokens: usize, longest_input_tokens: usize },
    NoDeadlineMargin,
    NoWeight { lane: Lane },
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRows => write!(f, "a batch must hold at least one row"),
            Self::TooFewTokens { max_tokens, longest_input_tokens } => write!(
                f,
                "a batch of at most {max_tokens} tokens cannot hold the model's longest input of {longest_input_tokens}"
            ),
            Self::NoDeadlineMargin => {
                write!(f, "with a delay for company, a margin before the deadline must be left for running")
            }
            Self::NoWeight { lane } => write!(f, "the {lane:?} lane has weight 0 and would never be served"),
        }
    }
}

impl std::error::Error for LimitsError {}
