//! How large a batch a device can hold: pure arithmetic, no device here.
//!
//! A device's memory goes to the weights, to the activations of the largest batch, and to a margin for what is not ours: the
//! driver's context, kernels that are loaded late, fragmentation. Activations grow in proportion to a batch's tokens, so one
//! measured batch tells how many tokens fit; the largest batch is then run once, so that what was calculated was also seen.

/// What is known of a device's memory after weights and one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// What this process may fill: free memory before it began.
    pub capacity_bytes: u64,
    /// Held once the weights were there.
    pub weights_bytes: u64,
    /// Held while a batch of `tokens` tokens was computed.
    pub peak_bytes: u64,
    pub tokens: usize,
}

/// Part of the capacity that stays free.
const MARGIN: f64 = 0.05;

impl Measured {
    /// Most tokens of one batch, at most `wanted`; `None` if not even `least` fit, which is the model's longest input.
    pub fn fitting_tokens(&self, wanted: usize, least: usize) -> Option<usize> {
        let margin = (self.capacity_bytes as f64 * MARGIN) as u64;
        let room = self.capacity_bytes.saturating_sub(self.weights_bytes + margin);
        let used = self.peak_bytes.saturating_sub(self.weights_bytes);
        let per_token = (used as f64 / self.tokens.max(1) as f64).max(1.0);
        let fitting = ((room as f64 / per_token) as usize).min(wanted);
        (fitting >= least.min(wanted)).then_some(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_left_after_weights_and_margin_goes_to_tokens() {
        let measured =
            Measured { capacity_bytes: 100 * GIB, weights_bytes: 15 * GIB, peak_bytes: 16 * GIB, tokens: 1024 };
        // 80 GiB are left, a token takes a 1024th of a GiB.
        assert_eq!(measured.fitting_tokens(1_000_000, 512), Some(80 * 1024));
        assert_eq!(measured.fitting_tokens(16_384, 512), Some(16_384));
        assert_eq!(measured.fitting_tokens(1_000_000, 90_000), None);
    }

    proptest! {
        #[test]
        fn a_fitting_batch_stays_inside_the_budget(
            capacity in 1u64..200 * GIB, weights in 0u64..200 * GIB, used in 0u64..20 * GIB, tokens in 1usize..100_000, wanted in 1usize..1_000_000,
        ) {
            let measured = Measured { capacity_bytes: capacity, weights_bytes: weights, peak_bytes: weights + used, tokens };
            if let Some(fitting) = measured.fitting_tokens(wanted, 1) {
                let needs = weights as f64 + used as f64 / tokens as f64 * fitting as f64;
                prop_assert!(fitting <= wanted && needs <= capacity as f64 * (1.0 - MARGIN) + 1.0);
            }
        }
    }
}
