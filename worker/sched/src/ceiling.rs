//! How many tokens a batch may have after memory did not suffice for some (between steps 5 and 6 of the data path).
//!
//! A batch for which memory did not suffice lowers the ceiling to just below its own tokens, but never below the longest
//! input, which could not be run at all otherwise. It rises again by an eighth, up to the limit that was configured, each
//! time that [`PATIENCE`] batches in a row were computed: what took the memory may be gone, and where it is not, finding
//! out costs one split.
//!
//! Invariants: `floor ≤ ceiling ≤ configured`; after a failure at more than `floor` tokens it is lower than these tokens.

/// Batches in a row that must pass before more is tried.
pub const PATIENCE: u32 = 1_000;

#[derive(Debug, Clone)]
pub struct Ceiling {
    configured: usize,
    floor: usize,
    tokens: usize,
    passed: u32,
}

impl Ceiling {
    /// `configured`: limit of a batch; `longest`: most tokens of one input.
    pub fn new(configured: usize, longest: usize) -> Self {
        Self { configured, floor: longest.min(configured), tokens: configured, passed: 0 }
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Memory did not suffice for a batch of `tokens`. True if that lowers the ceiling.
    pub fn failed(&mut self, tokens: usize) -> bool {
        let before = self.tokens;
        self.tokens = self.tokens.min(tokens.saturating_sub(1)).max(self.floor);
        self.passed = 0;
        self.tokens < before
    }

    /// A batch was computed. True if that raises the ceiling.
    pub fn passed(&mut self) -> bool {
        if self.tokens == self.configured {
            return false;
        }
        self.passed += 1;
        if self.passed < PATIENCE {
            return false;
        }
        self.passed = 0;
        self.tokens = (self.tokens + (self.tokens / 8).max(1)).min(self.configured);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_falls_below_the_smallest_that_failed_and_rises_in_steps() {
        let mut ceiling = Ceiling::new(1_000, 100);
        assert!(ceiling.failed(900) && ceiling.failed(801) && !ceiling.failed(950));
        assert_eq!(ceiling.tokens(), 800);
        assert!((1..PATIENCE).all(|_| !ceiling.passed()) && ceiling.passed());
        assert_eq!(ceiling.tokens(), 900);
        assert!(!ceiling.passed() && ceiling.failed(900) && (1..PATIENCE).all(|_| !ceiling.passed()));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(configured in 1..100_usize, longest in 0..120_usize, failures in prop::collection::vec(0..120_usize, 0..30)) {
            let mut ceiling = Ceiling::new(configured, longest);
            let floor = longest.min(configured);
            for tokens in failures {
                let lowered = ceiling.failed(tokens);
                prop_assert!((floor..=configured).contains(&ceiling.tokens()));
                prop_assert!(ceiling.tokens() < tokens || ceiling.tokens() == floor);
                prop_assert!(!lowered || ceiling.tokens() < configured);
                if tokens % 3 == 0 {
                    (0..2 * PATIENCE).for_each(|_| _ = ceiling.passed());
                    prop_assert!((floor..=configured).contains(&ceiling.tokens()));
                }
            }
        }
    }
}
