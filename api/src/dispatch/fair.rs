//! Who goes next when more wants to be published than workers can take soon (step ③).
//!
//! The broker's lanes are queues without tenants: what is in them is served in order of arrival. So only little is put
//! there, about two batches per live worker ([`window`]); the rest waits in the api, where it is put in a fair order
//! ([`drr`]), and where cancelling and expiring cost nothing. [`flow`] counts what is out.
//!
//! ```text
//!               window has room and nothing is held back
//! admitted ──────────────────────────────────────────────▶ published ──▶ answered | withdrawn
//!     └──────────▶ held back, by tenant ──release──▶───────────┘
//!                       └── withdrawn: vanishes
//! ```
//! Invariants: what is out and what is held back are counted apart; nothing overtakes within a tenant, but for what a
//! tenant below its share sends past everybody ([`express`]); nothing is held back while the window has a quarter of its
//! room free.

pub(super) mod drr;
pub(super) mod express;
pub(super) mod flow;
pub(super) mod window;

/// What a row costs, in tokens, before anything was tokenised: English text has about four bytes per token. Workers
/// estimate the same.
pub(super) const fn estimated_tokens(bytes: usize) -> u64 {
    bytes as u64 / 4 + 2
}
