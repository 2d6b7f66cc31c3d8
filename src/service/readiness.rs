//! Readiness (`/readyz`): the parts without which no token can be issued.

use writ_core::endpoint::TokenService;
use writ_core::ledger::Ledger;
use writ_platform::clock::Timestamp;
use writ_store::Store;

/// The names of the parts that fail; the service is ready if there are none.
pub(super) fn failing_parts(store: &Store, tokens: &TokenService) -> Vec<&'static str> {
    let now = Timestamp::now();
    let checks = [
        ("store", store.is_well()),
        ("keys", tokens.keys.signer(now).is_ok()),
        ("clock", tokens.ledger.check_clock(now).is_ok()),
        ("audit", tokens.audit.check().is_ok()),
    ];
    checks.into_iter().filter(|(_, is_ok)| !is_ok).map(|(part, _)| part).collect()
}

/// The names of the parts that are not yet available, without which most tokens can be issued.
pub(super) fn pending_parts(ledger: &Ledger) -> Vec<&'static str> {
    if ledger.is_whole() { Vec::new() } else { vec!["ledger"] }
}
