//! Faults on purpose, for the tests of the tests. Debug builds only: in a release build nothing here can be switched on.
//!
//! A suite that claims that nothing is lost must fail when something is. Each [`Bug`] is one that this system could have
//! had; `FOREBAY_PLANTED_BUG` names it to a process of a debug build.

/// A bug that the chaos suite must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A worker acknowledges what it takes in before it has answered: what a dead worker held is lost.
    AckBeforeAnswer,
    /// The end of an asynchronous job is written over an end that it has already.
    NoDuplicateSuppression,
    /// The reaper gives back what a live worker holds.
    NakOfLiveJob,
    /// An aggregator forgets what a process had counted once it is gone.
    CounterReset,
}

impl Bug {
    pub const ALL: [Self; 4] =
        [Self::AckBeforeAnswer, Self::NoDuplicateSuppression, Self::NakOfLiveJob, Self::CounterReset];

    /// What `FOREBAY_PLANTED_BUG` is set to.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeAnswer => "ack-before-answer",
            Self::NoDuplicateSuppression => "no-duplicate-suppression",
            Self::NakOfLiveJob => "nak-of-live-job",
            Self::CounterReset => "counter-reset",
        }
    }

    /// Whether this process was told to have it.
    #[cfg(debug_assertions)]
    pub fn is_planted(self) -> bool {
        use std::sync::OnceLock;
        static NAMED: OnceLock<String> = OnceLock::new();
        NAMED.get_or_init(|| std::env::var("FOREBAY_PLANTED_BUG").unwrap_or_default()) == self.name()
    }

    /// Never, in a release build.
    #[cfg(not(debug_assertions))]
    pub const fn is_planted(self) -> bool {
        false
    }
}

/// By how many seconds this process is to believe its host's clock is ahead; `FOREBAY_CLOCK_SKEW_SECONDS` of a debug build.
#[cfg(debug_assertions)]
pub fn clock_skew_seconds() -> i64 {
    std::env::var("FOREBAY_CLOCK_SKEW_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// None, in a release build.
#[cfg(not(debug_assertions))]
pub const fn clock_skew_seconds() -> i64 {
    0
}
