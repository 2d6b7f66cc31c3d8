//! The decision on a live Txn-Token: its transaction continues, for the same purposes or fewer (R-SUBJ-19 to R-SUBJ-25).

use uuid::Uuid;
use writ_verifier::TxnClaims;

use super::admit::AdmittedRequest;
use super::denial::Denial;
use super::grant::{Grant, GrantKind};
use super::trace::{Replacement, Trace};
use super::{context, own_token, subject_rules};
use crate::lifetime::TRANSACTION_SPAN;
use crate::policy::PurposeRule;
use crate::subject::AnyTxnToken;
use writ_platform::clock::Timestamp;

/// The maximum number of clients in `req_wl_chain` (R-SUBJ-24).
const MAX_CHAIN: usize = 32;

pub(super) fn replace<'p, T: AnyTxnToken>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    token: Box<T>,
    max_replacements: u32,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    let claims = token.claims();
    check_scope(admitted, claims, trace)?;
    let sub = own_token::subject(claims, trace)?;
    subject_rules::check_subjects(rules, &sub, trace)?;
    let carried = context::extend(admitted, rules, None, own_token::carried(claims), trace)?;
    let as_members = own_token::as_members(claims, rules);
    context::check_conditions(admitted, rules, sub.as_str(), &as_members, now, trace)?;
    check_count(claims, max_replacements, trace)?;
    let transaction_end = check_transaction_end(claims, now, trace)?;
    let may_outlive = rules.iter().all(|rule| rule.outlive);
    let expiry = Timestamp::from_epoch(claims.exp);
    let not_after = if may_outlive { transaction_end } else { transaction_end.min(expiry) };
    Ok(Grant::new(admitted, rules, carried, GrantKind::Replace { original: token, not_after }))
}

/// The presented token must have every requested purpose.
fn check_scope(admitted: &AdmittedRequest<'_, '_>, claims: &TxnClaims, trace: &mut Trace<'_>) -> Result<(), Denial> {
    let covers = admitted.request().scope.purposes().iter().all(|purpose| claims.scope.contains(purpose.as_str()));
    trace.require(covers, Replacement::TokenScope(claims.scope.clone()), Denial::ScopeExceedsSubjectToken)
}

/// Checks the number of replacements, each of which adds a client to the chain.
fn check_count(claims: &TxnClaims, allowed: u32, trace: &mut Trace<'_>) -> Result<(), Denial> {
    let chain = claims.req_wl_chain.len().max(1);
    let replaced = chain - 1;
    let few = replaced < usize::try_from(allowed).unwrap_or(usize::MAX) && chain < MAX_CHAIN;
    trace.require(few, Replacement::Count { replaced, allowed }, Denial::ReplacementLimit)
}

/// The instant from which the transaction gets no more tokens; an error if it has passed.
fn check_transaction_end(claims: &TxnClaims, now: Timestamp, trace: &mut Trace<'_>) -> Result<Timestamp, Denial> {
    match began(&claims.txn).map(|began| began + TRANSACTION_SPAN) {
        Some(end) if now < end => {
            trace.pass(Replacement::TransactionEnd(Some(end)));
            Ok(end)
        }
        end => Err(trace.refuse(Replacement::TransactionEnd(end), Denial::ReplacementLimit)),
    }
}

/// The second in which a transaction began, from its `txn` (`UUIDv7`).
pub(crate) fn began(txn: &str) -> Option<Timestamp> {
    let (seconds, _) = Uuid::parse_str(txn).ok()?.get_timestamp()?.to_unix();
    Some(Timestamp::from_epoch(seconds))
}
