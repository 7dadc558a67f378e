//! Whether an error is a line's, or ours and to be waited out. Pure.

use std::time::Duration;

use forebay_shared::error::JobError;

/// An internal error may be a worker's bad moment; after this many it is the line's.
const INTERNAL_ATTEMPTS: u32 = 3;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// What to do after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the answer.
    Final,
    Again {
        after: Duration,
        /// Nothing moves at all: somebody else's part should have this one's place meanwhile.
        yield_place: bool,
    },
}

/// Judges the error of attempt number `attempt`, counted from 0.
pub(super) fn judge(error: &JobError, attempt: u32) -> Verdict {
    let backed_off = SHORTEST.saturating_mul(1 << attempt.min(6)).min(LONGEST);
    let again = |after, yield_place| Verdict::Again { after, yield_place };
    match error {
        JobError::Overloaded { retry_after_ms } | JobError::DeadlineUnreachable { retry_after_ms, .. } => {
            again(Duration::from_millis(*retry_after_ms).clamp(SHORTEST, LONGEST), false)
        }
        JobError::NoWorker { .. } | JobError::BrokerUnavailable => again(backed_off.max(SHORTEST * 5), true),
        JobError::DeadlineExceeded => again(backed_off, false),
        JobError::Internal if attempt + 1 < INTERNAL_ATTEMPTS => again(backed_off, false),
        JobError::Internal
        | JobError::InvalidInput { .. }
        | JobError::InputTooLong { .. }
        | JobError::ModelNotFound { .. }
        | JobError::PayloadTooLarge { .. }
        | JobError::TooManyInputs { .. }
        | JobError::Cancelled
        | JobError::BadOutput { .. }
        | JobError::DeadLettered { .. } => Verdict::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_our_trouble_is_never_final() {
        let ours = [
            JobError::Overloaded { retry_after_ms: 60_000 },
            JobError::NoWorker { model: "m".to_owned() },
            JobError::BrokerUnavailable,
            JobError::DeadlineExceeded,
            JobError::DeadlineUnreachable { estimate_ms: 1, retry_after_ms: 0 },
        ];
        for error in ours {
            for attempt in [0, 1, 7, 1_000, u32::MAX] {
                match judge(&error, attempt) {
                    Verdict::Again { after, .. } => assert!((SHORTEST..=LONGEST).contains(&after), "{error} {after:?}"),
                    Verdict::Final => panic!("{error} is not the line's"),
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_with_the_line_is_said_at_once_and_an_internal_error_after_three_attempts() {
        assert_eq!(judge(&JobError::InputTooLong { got: 9, max: 8 }, 0), Verdict::Final);
        let ends: Vec<bool> = (0..4).map(|attempt| judge(&JobError::Internal, attempt) == Verdict::Final).collect();
        assert_eq!(ends, [false, false, true, true]);
    }
}
