//! Who may still put something into the store of files, and how full that may make it.
//!
//! Files come from clients, answers from the batches that these began, so whoever lets in files without end has no place for
//! answers. What is newest is refused first: files and batches, then answers, and what ends a batch (the lines of a cancelled
//! or expired one, the lists of its files) only by the broker itself. Removing needs no room.

use forebay_shared::ids::TenantName;
use forebay_shared::streams::Level;

use super::Batches;
use crate::error::Failure;

/// How full files and new batches may make the store: the rest is for the answers of those that run.
const ADMITTED_PERCENT: u8 = 75;
/// How full answers may make it: the rest is for lines that are written off, so that a batch can be cancelled and expires.
pub(super) const ANSWERS_PERCENT: u8 = 97;
/// What ends a batch may use all of it.
pub(super) const ENDS_PERCENT: u8 = 100;

/// Why a file or batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error(
        "the store of files is full, up to what is kept for the output of batches that run; delete files that are not \
         needed any more, or raise --files-max-bytes"
    )]
    Store,
    #[error(
        "your files take {used_bytes} bytes, and one tenant may have {max_bytes}; delete files that are not needed any more, \
         or raise --files-tenant-share"
    )]
    Share { used_bytes: u64, max_bytes: u64 },
}

/// What one tenant may have of a store; `None` if it may have all of it.
fn share_bytes(level: Level, percent: u8) -> Option<u64> {
    let is_bounded = level.max_bytes > 0 && percent < 100;
    is_bounded.then(|| level.max_bytes / 100 * u64::from(percent))
}

/// Judges `bytes` more for a tenant that has `used_bytes`.
fn check_share(used_bytes: u64, bytes: u64, max_bytes: u64) -> Result<(), NoRoom> {
    if used_bytes.saturating_add(bytes) <= max_bytes { Ok(()) } else { Err(NoRoom::Share { used_bytes, max_bytes }) }
}

impl Batches {
    /// Whether a tenant may add a file of so many bytes; 0 for a batch, or if its size is not known yet.
    ///
    /// # Errors
    /// [`Failure::NoRoom`], or the broker does not answer.
    pub async fn admit(&self, tenant: &TenantName, bytes: u64) -> Result<(), Failure> {
        let level = self.files.level().await?;
        if !level.takes(bytes, ADMITTED_PERCENT) {
            tracing::warn!(level.used_bytes, level.max_bytes, "a file or batch is refused: the store of files is full");
            return Err(Failure::NoRoom(NoRoom::Store));
        }
        // Without keys there is one tenant, who may have everything.
        let share = self.tenants.as_ref().and_then(|_| share_bytes(level, self.tenant_share_percent));
        // All together have not as much as one may: the common case asks no more.
        let Some(max_bytes) = share.filter(|share| level.used_bytes.saturating_add(bytes) > *share) else {
            return Ok(());
        };
        let used_bytes = self.files.used_by(tenant).await?;
        check_share(used_bytes, bytes, max_bytes).map_err(Failure::NoRoom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_may_fill_its_share_and_not_a_byte_more() {
        let level = Level { used_bytes: 0, max_bytes: 1_000 };
        let share = share_bytes(level, 50).unwrap();
        assert_eq!(share, 500);
        assert_eq!(check_share(400, 100, share), Ok(()));
        assert_eq!(check_share(400, 101, share), Err(NoRoom::Share { used_bytes: 400, max_bytes: 500 }));
        assert_eq!(share_bytes(level, 100), None);
        assert_eq!(share_bytes(Level { max_bytes: 0, ..level }, 50), None);
    }

    #[test]
    fn what_is_let_in_leaves_room_for_answers_and_these_for_what_ends_a_batch() {
        let shares = [ADMITTED_PERCENT, ANSWERS_PERCENT, ENDS_PERCENT];
        assert!(shares.is_sorted_by(|a, b| a < b), "{shares:?}");
    }
}
