//! Tenant by tenant: a model's jobs wait in one consumer for each tenant, and tenants take turns at the model's credit.
//!
//! ```text
//! job is announced ─▶ ask for the turn ─▶ wait for credit ─▶ take a share of it ─▶ to the end of the line
//!                          └─ nothing was there: look again, soon and then ever later ◀─┘
//! ```
//! The turn is a lock that is handed on in the order in which it was asked for, so a tenant with a long queue gives way to
//! every other after each share. Who finds nothing has cost the others one question to the broker.
//!
//! Who has jobs is read from their records. A record is written before its message, so what is announced may not be there
//! yet; and a delivery that comes back, because its api died, is announced by nobody. Both are looked for.

use std::sync::Arc;
use std::time::Duration;

use forebay_shared::ids::{ModelToken, TenantName};
use forebay_shared::streams::Durable;
use tokio::sync::{Mutex, Notify};

use super::{Credit, LOOK, Line, PAUSE, PULL, Runner};

/// Until a message that was announced is looked for again, at first.
const SOON: Duration = Duration::from_millis(1);
/// How often deliveries are looked for that come back.
const SELDOM: Duration = Duration::from_secs(2);

/// One model's.
#[derive(Default)]
pub(super) struct Turns {
    credit: Arc<Credit>,
    turn: Mutex<()>,
}

impl Runner {
    /// Takes one tenant's jobs for one model, until it has none.
    pub(super) async fn take_turns(self: Arc<Self>, token: ModelToken, tenant: TenantName, turns: Arc<Turns>) {
        let announced = self.jobs.board.take_for(&token, &tenant);
        if let Err(error) = self.turn_after_turn(&token, &tenant, &turns, &announced).await {
            tracing::debug!(%error, model = %token, %tenant, "a tenant's turns are broken off");
            // Begun again by `follow_models`, which makes sure that the consumer is there.
            tokio::time::sleep(PAUSE).await;
        }
        self.jobs.board.leave(&token, &tenant);
    }

    async fn turn_after_turn(
        self: &Arc<Self>,
        token: &ModelToken,
        tenant: &TenantName,
        turns: &Turns,
        announced: &Notify,
    ) -> anyhow::Result<()> {
        let consumer = self.open(&Durable::turns(token, tenant)).await.inspect_err(|error| {
            tracing::warn!(%error, model = %token, %tenant, "cannot take asynchronous jobs of this tenant");
        })?;
        let mut found_nothing = 0;
        loop {
            let taken = {
                let _turn = turns.turn.lock().await;
                let Some(room) = self.room(token, &turns.credit).await else { return Ok(()) };
                let waiting = self.jobs.board.index.lock().tenants_waiting(token);
                let share = room.div_ceil(waiting.max(1));
                // Bounded, because a broker that does not answer must not keep the turn from others: what it sends after
                // that is delivered again.
                let take = async {
                    self.take(consumer.fetch().max_messages(share).messages().await?, Line::Turns, &turns.credit).await
                };
                tokio::time::timeout(PULL, take).await??
            };
            if taken > 0 {
                found_nothing = 0;
                continue;
            }
            let load = self.jobs.board.index.lock().load(token, tenant);
            if load.jobs == 0 {
                return Ok(());
            }
            tokio::select! {
                () = announced.notified() => found_nothing = 0,
                () = tokio::time::sleep(until_next_look(found_nothing, load.queued)) => found_nothing += 1,
            }
        }
    }

    /// Waits until there is credit for so many messages; `None` once nothing new is to be begun.
    async fn room(&self, token: &ModelToken, credit: &Credit) -> Option<usize> {
        loop {
            if self.jobs.shutdown.is_fired() {
                return None;
            }
            if let Some(messages) = self.wanted(token, Line::Turns, credit) {
                return Some(messages);
            }
            tokio::select! {
                () = credit.freed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// How long to wait after so many looks in a row that found nothing, of a tenant of which `queued` jobs should be there.
fn until_next_look(found_nothing: u32, queued: usize) -> Duration {
    match queued {
        0 => SELDOM,
        // Another api may have taken them, or given them back for a while.
        _ => SOON.saturating_mul(1 << found_nothing.min(16)).min(LOOK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_looked_for_soon_and_what_runs_seldom() {
        let waits: Vec<u128> = (0..10).map(|looks| until_next_look(looks, 1).as_millis()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 250, 250]);
        assert_eq!(until_next_look(u32::MAX, 1), LOOK);
        assert_eq!(until_next_look(0, 0), SELDOM);
    }
}
