//! The state of one batch, and the only transitions that it knows. Pure: told the time, no I/O.
//!
//! ```text
//!               Split                PartsDone            Finished
//!  validating ────────▶ in_progress ───────────▶ finalizing ───────▶ completed | expired
//!     │  │ Rejected         │
//!     │  └────▶ failed ◀────┤ (its input is gone)
//!     │ CancelAsked         │ CancelAsked
//!     └──────▶ cancelling ◀─┘
//!                  └─ Finished, or Split / Rejected before there were parts ─▶ cancelled
//! ```
//!
//! Invariants: a batch that is over never changes; an event that has been applied already changes nothing, so that a step
//! can be repeated by anybody; every time stamp is set once.

use std::collections::BTreeMap;

use forebay_shared::ids::TenantName;
use serde::{Deserialize, Serialize};

/// Seconds of the only completion window: `24h`.
pub const WINDOW_SECONDS: u64 = 24 * 60 * 60;

/// Where a batch stands, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Validating,
    InProgress,
    Finalizing,
    Completed,
    Failed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }
}

/// Lines of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
}

/// What is wrong with an input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    /// Counted from 1.
    pub line: Option<u64>,
}

/// One batch. Kept as JSON; all times in seconds since the Unix epoch, broker time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub id: String,
    pub tenant: TenantName,
    pub endpoint: String,
    pub input_file_id: String,
    pub metadata: Option<BTreeMap<String, String>>,
    /// How long its output files are kept, if that is less than usual.
    pub output_keep_seconds: Option<u64>,
    pub phase: Phase,
    /// 0 until the input has been split.
    pub parts: u32,
    /// `completed` and `failed` are known for good when the batch is over; before, its parts' markers say.
    pub counts: Counts,
    pub errors: Vec<InputError>,
    pub output_file_id: Option<String>,
    pub error_file_id: Option<String>,
    pub created_at: u64,
    pub expires_at: u64,
    pub in_progress_at: Option<u64>,
    pub finalizing_at: Option<u64>,
    pub completed_at: Option<u64>,
    pub failed_at: Option<u64>,
    pub expired_at: Option<u64>,
    pub cancelling_at: Option<u64>,
    pub cancelled_at: Option<u64>,
}

/// What happens to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The input is sound and makes this many parts, at least one.
    Split {
        parts: u32,
        lines: u64,
    },
    /// The input cannot be used.
    Rejected {
        errors: Vec<InputError>,
    },
    CancelAsked,
    /// Every part has ended.
    PartsDone,
    /// Its files are there.
    Finished {
        completed: u64,
        failed: u64,
        output_file_id: Option<String>,
        error_file_id: Option<String>,
        /// Some lines were not run because the completion window was over.
        expired: bool,
    },
}

/// The event cannot happen to a batch that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.as_str())]
pub struct Refused(pub Phase);

impl Batch {
    pub fn new(id: String, tenant: TenantName, endpoint: String, input_file_id: String, now: u64) -> Self {
        Self {
            id,
            tenant,
            endpoint,
            input_file_id,
            metadata: None,
            output_keep_seconds: None,
            phase: Phase::Validating,
            parts: 0,
            counts: Counts::default(),
            errors: Vec::new(),
            output_file_id: None,
            error_file_id: None,
            created_at: now,
            expires_at: now + WINDOW_SECONDS,
            in_progress_at: None,
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
        }
    }

    /// Applies `event`; false if that changes nothing because it has happened already.
    ///
    /// # Errors
    /// [`Refused`] if it cannot happen any more, or not yet.
    pub fn apply(&mut self, event: &Event, now: u64) -> Result<bool, Refused> {
        let split = self.parts > 0;
        match (event, self.phase) {
            (Event::Split { parts, lines }, Phase::Validating) => {
                self.parts = *parts;
                self.counts = Counts::of(*lines);
                self.enter(Phase::InProgress, now);
            }
            (Event::Split { .. } | Event::Rejected { .. }, Phase::Cancelling) if !split => {
                self.enter(Phase::Cancelled, now);
            }
            (Event::Split { .. }, Phase::InProgress | Phase::Cancelling) => return Ok(false),
            (Event::Rejected { errors }, Phase::Validating | Phase::InProgress) => {
                self.errors.clone_from(errors);
                self.enter(Phase::Failed, now);
            }
            (Event::Rejected { .. }, Phase::Cancelling) => self.enter(Phase::Cancelled, now),
            (Event::CancelAsked, Phase::Validating | Phase::InProgress) => self.enter(Phase::Cancelling, now),
            (Event::CancelAsked, Phase::Cancelling | Phase::Cancelled) => return Ok(false),
            (Event::PartsDone, Phase::InProgress) => self.enter(Phase::Finalizing, now),
            (Event::PartsDone, Phase::Finalizing) => return Ok(false),
            (Event::PartsDone, Phase::Cancelling) if split => return Ok(false),
            (
                Event::Finished { completed, failed, output_file_id, error_file_id, expired },
                phase @ (Phase::Finalizing | Phase::Cancelling),
            ) if split => {
                (self.counts.completed, self.counts.failed) = (*completed, *failed);
                self.output_file_id.clone_from(output_file_id);
                self.error_file_id.clone_from(error_file_id);
                let end = match (phase, expired) {
                    (Phase::Cancelling, _) => Phase::Cancelled,
                    (_, true) => Phase::Expired,
                    (_, false) => Phase::Completed,
                };
                self.enter(end, now);
            }
            (_, phase) => return Err(Refused(phase)),
        }
        Ok(true)
    }

    fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        let stamp = match phase {
            Phase::Validating => return,
            Phase::InProgress => &mut self.in_progress_at,
            Phase::Finalizing => &mut self.finalizing_at,
            Phase::Completed => &mut self.completed_at,
            Phase::Failed => &mut self.failed_at,
            Phase::Expired => &mut self.expired_at,
            Phase::Cancelling => &mut self.cancelling_at,
            Phase::Cancelled => &mut self.cancelled_at,
        };
        *stamp = Some(now);
    }
}
