//! How ready jobs are cut into messages. Pure.
//!
//! Bundling saves the broker's work but must never take parallelism away: with `n` ready jobs and `w` live workers a
//! message holds at most `ceil(n / w)`, and one job while the number of workers is unknown.

use forebay_shared::job::{MAX_BUNDLE_BYTES, MAX_BUNDLE_JOBS};

/// Most jobs in one message.
pub(crate) fn bundle_limit(ready: usize, live_workers: usize) -> usize {
    match live_workers {
        0 => 1,
        workers => ready.div_ceil(workers).clamp(1, MAX_BUNDLE_JOBS),
    }
}

/// Number of jobs at the front of `sizes` (payload bytes each) that go into the next message: at least one.
pub(crate) fn take(sizes: impl IntoIterator<Item = usize>, limit: usize) -> usize {
    let mut bytes = 0;
    let fitting = sizes
        .into_iter()
        .take(limit)
        .take_while(|size| {
            bytes += size + JOB_OVERHEAD_BYTES;
            bytes <= MAX_BUNDLE_BYTES
        })
        .count();
    fitting.max(1)
}

/// Id, times, trace and framing of one job on the wire, rounded up.
const JOB_OVERHEAD_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bundling_never_leaves_a_worker_without_work_that_is_there() {
        assert_eq!(bundle_limit(8, 4), 2);
        assert_eq!(bundle_limit(3, 4), 1);
        assert_eq!(bundle_limit(1000, 4), MAX_BUNDLE_JOBS);
        assert_eq!(bundle_limit(32, 1), 32);
        assert_eq!(bundle_limit(32, 0), 1, "unknown");
    }

    proptest! {
        #[test]
        fn a_message_respects_both_caps_and_always_advances(sizes in prop::collection::vec(0usize..200_000, 1..64), workers in 0usize..6) {
            let limit = bundle_limit(sizes.len(), workers);
            let n = take(sizes.iter().copied(), limit);
            prop_assert!((1..=limit).contains(&n));
            let bytes: usize = sizes[..n].iter().map(|size| size + JOB_OVERHEAD_BYTES).sum();
            prop_assert!(n == 1 || bytes <= MAX_BUNDLE_BYTES);
        }
    }
}
