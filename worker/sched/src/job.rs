//! What goes into the batcher and what comes out of it.

use std::fmt;
use std::time::Instant;

/// Priority class of a job. Ordered as served: `High < Normal < Low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    High,
    Normal,
    Low,
}

impl Lane {
    /// Every lane, in the order in which ties between them are broken.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Position in [`Lane::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A job that waits for the device: one row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob<T> {
    /// What the driver needs to run and answer the job; never looked at here.
    pub payload: T,
    pub lane: Lane,
    /// Length of the input, which is what the row costs: rows are packed, never padded.
    pub tokens: usize,
    /// When the worker took the job in. Not later than the `now` of any call after the push.
    pub queued_at: Instant,
    /// From this instant on the job is expired: it is never run, only handed out by `take_expired`.
    pub deadline: Instant,
    /// The job may be what killed the worker that had it before, so nothing else shares its batch.
    pub isolated: bool,
}

/// Why a batch left with the jobs it has, and not with more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It holds `max_rows` rows.
    Full,
    /// It holds `max_tokens` tokens, or a waiting job did not fit into what was left of them.
    Tokens,
    /// The device was free, or about to be, and everything that may run together goes, without waiting for company.
    DeviceIdle,
    /// A job had waited `max_delay` for company.
    MaxDelay,
    /// A job would have missed its deadline by waiting longer for company.
    Deadline,
    /// It is one isolated job, which never has company.
    Isolated,
}

impl CloseReason {
    /// Every reason, in the order of the metric's label values.
    pub const ALL: [Self; 6] =
        [Self::Full, Self::Tokens, Self::DeviceIdle, Self::MaxDelay, Self::Deadline, Self::Isolated];

    /// The label value in metrics; stable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Tokens => "tokens",
            Self::DeviceIdle => "device_idle",
            Self::MaxDelay => "max_delay",
            Self::Deadline => "deadline",
            Self::Isolated => "isolated",
        }
    }
}

/// Jobs that run in one forward pass. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T> {
    pub jobs: Vec<QueuedJob<T>>,
    /// Sum of the tokens of `jobs`.
    pub tokens: usize,
    pub reason: CloseReason,
}

/// A job that the batcher does not take, given back so that it can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected<T> {
    /// It has more tokens than any batch may have, so it would wait for ever.
    TooLarge { job: QueuedJob<T>, max_tokens: usize },
}

impl<T> Rejected<T> {
    pub fn into_job(self) -> QueuedJob<T> {
        match self {
            Self::TooLarge { job, .. } => job,
        }
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { job, max_tokens } => {
                write!(f, "job has {} tokens, a batch at most {max_tokens}", job.tokens)
            }
        }
    }
}

impl<T: fmt::Debug> std::error::Error for Rejected<T> {}
