//! The parts of a presented Txn-Token that a decision needs.

use writ_verifier::{Members, TxnClaims};

use super::denial::Denial;
use super::trace::{SubjectRule, Trace};
use crate::policy::PurposeRule;
use crate::policy::mapping::TransactionContext;
use crate::request::Subject;

/// The subject of a presented Txn-Token.
pub(super) fn subject(claims: &TxnClaims, trace: &mut Trace<'_>) -> Result<Subject, Denial> {
    let sub = claims.sub.parse();
    sub.map_err(|error| trace.refuse(SubjectRule::Malformed(error), Denial::SubjectNotAllowed))
}

/// `tctx` and `rctx` of the presented token, which its successors keep.
pub(super) fn carried(claims: &TxnClaims) -> TransactionContext {
    TransactionContext { tctx: claims.tctx.clone(), rctx: claims.rctx.clone() }
}

/// The claims as a condition sees them; empty if none of `rules` has a condition.
pub(super) fn as_members(claims: &TxnClaims, rules: &[&PurposeRule]) -> Members {
    if rules.iter().all(|rule| rule.when.is_none()) {
        return Members::default();
    }
    claims.to_members().expect("claims that were read as JSON can be written as JSON")
}
