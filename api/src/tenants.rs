//! Who sent a request, and what that lets them do.

use forebay_shared::ids::TenantName;

/// Whose request it is. Everything that is counted, limited, kept or erased per tenant goes by this.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub tenant: TenantName,
}
