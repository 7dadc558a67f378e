//! What stands before a handler: who may come in.

use std::time::Instant;

use axum::http::HeaderMap;

use super::{AppState, Backend};
use crate::error::Failure;
use crate::tenants::Caller;
use crate::tenants::visit::Visit;

/// Who may call an endpoint, where keys are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever has a key. Counts against the tenant's requests.
    Key,
    /// Everybody.
    Open,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    pub access: Access,
    /// What is refused here was an inference request, and counts as one.
    pub inference: bool,
}

impl Door {
    /// Who comes in, or why not; and the visit, also of one who is recognised and turned away.
    pub fn admit<B: Backend>(
        self,
        state: &AppState<B>,
        headers: &HeaderMap,
        now: Instant,
    ) -> (Result<Caller, Failure>, Option<Visit>) {
        let tenants = match (&state.tenants, self.access) {
            (Some(tenants), Access::Key) => tenants,
            _ => return (Ok(Caller::default()), None),
        };
        let (admitted, visit) = match tenants.identify(headers) {
            Ok(caller) => match caller.visit(now) {
                Some((visit, entered)) => (entered.map(|()| caller), Some(visit)),
                None => (Ok(caller), None),
            },
            Err(failure) => (Err(failure), None),
        };
        if let (true, Err(failure)) = (self.inference, &admitted) {
            state.instruments.inference(now).fail(failure);
        }
        (admitted, visit)
    }
}
