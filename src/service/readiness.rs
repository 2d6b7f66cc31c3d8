//! Readiness (`/readyz`): the parts without which no token can be issued.

use std::sync::Arc;

use super::state::PersistentState;
use writ_core::audit::Audit;
use writ_core::keys::KeyRing;
use writ_core::ledger::Ledger;
use writ_platform::clock::Timestamp;
use writ_store::Store;

pub(super) struct Sources {
    store: Store,
    keys: Arc<KeyRing>,
    ledger: Arc<Ledger>,
    audit: Audit,
}

impl Sources {
    pub(super) fn new(state: &PersistentState, audit: Audit) -> Self {
        Self { store: state.store.clone(), keys: Arc::clone(&state.keys), ledger: Arc::clone(&state.ledger), audit }
    }

    /// The names of the parts that fail; the service is ready if there are none.
    pub(super) fn failing(&self) -> Vec<&'static str> {
        let now = Timestamp::now();
        let checks = [
            ("store", self.store.is_well()),
            ("keys", self.keys.signer(now).is_ok()),
            ("clock", self.ledger.check_clock(now).is_ok()),
            ("audit", self.audit.check().is_ok()),
        ];
        checks.into_iter().filter(|(_, is_ok)| !is_ok).map(|(part, _)| part).collect()
    }
}
