//! What a batch's tenant may use, and how a batch keeps to it.
//!
//! A line is charged like a request that comes alone: its estimate before it is submitted, corrected by its answer, given
//! back if it fails or is not run. A limit never fails a line, it makes it wait: the part gives up its place meanwhile.
//! A limit can last for a day, so a tenant with limits on its tokens holds only a few parts of an api at a time; more go
//! back to the queue and do not stand in other tenants' way. The lines of a tenant that was taken out wait as well.

use std::time::Duration;

use forebay_shared::ids::TenantName;
use forebay_shared::job::{Input, Output};

use super::Batches;
use super::execute::Place;
use crate::error::Failure;
use crate::tenants::Caller;
use crate::tenants::held::Held;
use crate::tenants::visit::Charge;

/// Parts that one api holds of a tenant that may have to wait for tokens: as many as it could run at once.
const HELD_IF_METERED: usize = super::runner::PARTS_AT_ONCE;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Tokens taken for a line, given back unless it is answered.
pub(super) struct Taken(Option<Charge>);

impl Taken {
    pub(super) fn settle(mut self, outputs: &[Output]) {
        if let Some(charge) = self.0.take() {
            charge.settle(outputs);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(charge) = self.0.take() {
            charge.refund();
        }
    }
}

impl Batches {
    /// Counts a part as held; `None` if its tenant holds as many as it may.
    pub(super) fn hold(&self, tenant: &TenantName) -> Option<Held> {
        let metered = self.tenants.as_ref().is_some_and(|tenants| tenants.is_metered(tenant));
        self.held.hold(tenant, if metered { HELD_IF_METERED } else { usize::MAX })
    }

    /// Takes a place and the tokens of a line, however long that takes. Rights are those of now: what is reloaded counts
    /// from the next line on.
    ///
    /// # Errors
    /// What is not a matter of waiting.
    pub(super) async fn take_turn(&self, tenant: &TenantName, rows: &[Input], place: &Place) -> Result<Taken, Failure> {
        loop {
            place.take().await;
            let caller = self.tenants.as_ref().map_or_else(|| Ok(Caller::default()), |tenants| tenants.caller(tenant));
            match caller.and_then(|caller| caller.charge(rows)) {
                Ok(charge) => return Ok(Taken(Some(charge))),
                Err(error) => {
                    let wait = wait_for(&error).ok_or(error)?;
                    place.give_up().await;
                    // Lines that were refused together do not come back together.
                    tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
                }
            }
        }
    }
}

/// How long to wait for a limit before the next try; `None` if it is no limit.
fn wait_for(error: &Failure) -> Option<Duration> {
    match error {
        Failure::RateLimited { retry_after_ms, .. } | Failure::QuotaExceeded { retry_after_ms, .. } => {
            Some(Duration::from_millis(*retry_after_ms).clamp(SHORTEST, LONGEST))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_waited_for_a_few_seconds_at_a_time_and_nothing_else_is() {
        for retry_after_ms in [0, 1, 700, 86_400_000, u64::MAX] {
            let limit = || "a limit".to_owned();
            for error in [
                Failure::RateLimited { limit: limit(), retry_after_ms },
                Failure::QuotaExceeded { limit: limit(), retry_after_ms },
            ] {
                assert!((SHORTEST..=LONGEST).contains(&wait_for(&error).unwrap()), "{retry_after_ms}");
            }
        }
        assert_eq!(wait_for(&Failure::Forbidden("no".to_owned())), None);
    }
}
