//! How often a call was tried, and when it may be tried again: headers of its message. Pure.

use std::time::Duration;

use async_nats::HeaderMap;

const MADE: &str = "Forebay-Tries";
const NOT_BEFORE: &str = "Forebay-Not-Before";

/// Of one call. Without the headers it was never tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// That ended without an answer that counts.
    pub made: u32,
    /// Broker time in Unix milliseconds.
    pub not_before_ms: u64,
}

impl Tries {
    pub fn of(headers: Option<&HeaderMap>) -> Self {
        let number = |name: &str| headers?.get(name)?.as_str().parse::<u64>().ok();
        Self {
            made: number(MADE).map_or(0, |made| u32::try_from(made).unwrap_or(u32::MAX)),
            not_before_ms: number(NOT_BEFORE).unwrap_or_default(),
        }
    }

    pub fn to_headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(MADE, self.made.to_string());
        headers.insert(NOT_BEFORE, self.not_before_ms.to_string());
        headers
    }

    /// How long the next one has to wait yet.
    pub fn wait(self, now_ms: u64) -> Option<Duration> {
        self.not_before_ms.checked_sub(now_ms).filter(|wait| *wait > 0).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_new_call_was_never_tried() {
        let tries = Tries { made: 3, not_before_ms: 1_700_000_000_000 };
        assert_eq!(Tries::of(Some(&tries.to_headers())), tries);
        for headers in [None, Some(HeaderMap::new())] {
            assert_eq!(Tries::of(headers.as_ref()), Tries::default());
        }
        let mut wrong = HeaderMap::new();
        wrong.insert(MADE, "many");
        assert_eq!(Tries::of(Some(&wrong)), Tries::default());
    }

    #[test]
    fn a_try_waits_for_its_time() {
        let tries = Tries { made: 1, not_before_ms: 1_000 };
        assert_eq!(tries.wait(400), Some(Duration::from_millis(600)));
        assert_eq!((tries.wait(1_000), tries.wait(2_000), Tries::default().wait(0)), (None, None, None));
    }
}
