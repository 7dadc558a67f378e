//! What follows when the broker has not acknowledged a publish: the cause, and what to do. No I/O, no clock.

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use forebay_shared::metrics::PublishFault;

/// JetStream's error code when a limit of the stream is reached and it discards new messages.
const STREAM_FULL: u64 = 10_077;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same bytes once more, under the same id.
    Again,
    /// Its jobs fail. Where it may be stored all the same, workers should hear that nobody waits for them.
    GiveUp { may_be_stored: bool },
}

/// `attempt`: 0 for the first. `is_late`: nobody would wait for the outcome of another.
pub(super) fn next(fault: PublishFault, attempt: u32, is_late: bool) -> Next {
    match fault {
        // A plain no, to this attempt: one before may have been stored without our hearing of it.
        PublishFault::Full | PublishFault::TooLarge => Next::GiveUp { may_be_stored: attempt > 0 },
        PublishFault::Timeout | PublishFault::NotConnected | PublishFault::NoStream | PublishFault::Other => {
            if is_late { Next::GiveUp { may_be_stored: true } } else { Next::Again }
        }
    }
}

pub(super) fn fault(error: &PublishError) -> PublishFault {
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishFault::NoStream,
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => PublishFault::Timeout,
        PublishErrorKind::MaxPayloadExceeded => PublishFault::TooLarge,
        _ => match std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>()) {
            Some(cause) if cause.error_code().0 == STREAM_FULL => PublishFault::Full,
            _ => PublishFault::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: [PublishFault; 2] = [PublishFault::Full, PublishFault::TooLarge];
    const UNKNOWN: [PublishFault; 3] = [PublishFault::Timeout, PublishFault::NoStream, PublishFault::Other];

    #[test]
    fn what_is_refused_at_once_was_never_stored() {
        for fault in REFUSED {
            assert_eq!(next(fault, 0, false), Next::GiveUp { may_be_stored: false });
        }
    }

    #[test]
    fn what_is_refused_on_a_retry_may_be_there_from_the_attempt_before() {
        for fault in REFUSED {
            assert_eq!(next(fault, 1, false), Next::GiveUp { may_be_stored: true });
        }
    }

    #[test]
    fn what_was_not_answered_is_sent_again_until_it_is_too_late() {
        for fault in UNKNOWN {
            assert_eq!(next(fault, 3, false), Next::Again);
            assert_eq!(next(fault, 0, true), Next::GiveUp { may_be_stored: true });
        }
    }
}
