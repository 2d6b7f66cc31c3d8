//! The decision on an expired Txn-Token: purpose, condition, originator, age. The ledger checks record and count.

use writ_verifier::TxnClaims;

use super::admit::AdmittedRequest;
use super::denial::Denial;
use super::grant::{Grant, GrantKind};
use super::trace::{RedemptionRule, Trace};
use super::{context, own_token, subject_rules};
use crate::policy::condition::Facts;
use crate::policy::mapping::TransactionContext;
use crate::policy::{PurposeRule, Redemption};
use crate::subject::AnyTxnToken;
use writ_platform::clock::Timestamp;

/// `found` is the first rule that allows redemption for a requested purpose.
pub(super) fn redeem<'p, T: AnyTxnToken>(
    admitted: &AdmittedRequest<'p, '_>,
    found: Option<(&'p PurposeRule, &'p Redemption)>,
    token: Box<T>,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    let Some((rule, redemption)) = found else {
        let fact = RedemptionRule::Absent(admitted.request().scope.clone());
        return Err(trace.refuse(fact, Denial::SourceNotAllowed));
    };
    check_parameters(admitted, trace)?;
    check_scope(admitted, rule, token.claims(), trace)?;
    let sub = own_token::subject(token.claims(), trace)?;
    subject_rules::check_subjects(&[rule], &sub, trace)?;
    let carried = own_token::carried(token.claims());
    if let Err(rejection) = carried.refuse_unreadable() {
        return Err(trace.refuse(RedemptionRule::MarkRejected(rejection), Denial::ClaimUnreadable));
    }
    check_condition(admitted, rule, token.claims(), &carried, now, trace)?;
    check_originator(rule, redemption, token.claims(), trace)?;
    check_age(rule, redemption, Timestamp::from_epoch(token.claims().exp), now, trace)?;
    let (max_uses, require_record) = (redemption.max_uses, redemption.require_record);
    Ok(Grant::new(admitted, &[rule], carried, GrantKind::Redeem { original: token, max_uses, require_record }))
}

/// Refuses details and context: a redemption carries over those of the token.
fn check_parameters(admitted: &AdmittedRequest<'_, '_>, trace: &mut Trace<'_>) -> Result<(), Denial> {
    let request = admitted.request();
    for (name, sent) in [("request_details", &request.details), ("request_context", &request.context)] {
        if sent.is_some() {
            return Err(trace.refuse(RedemptionRule::Parameter(name), Denial::UnsupportedOnRedemption(name)));
        }
    }
    Ok(())
}

/// The token must have a single purpose, which must be the requested one.
fn check_scope<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rule: &'p PurposeRule,
    claims: &TxnClaims,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let scope = &claims.scope;
    let fact = RedemptionRule::SinglePurpose { rule, token: scope.clone() };
    trace.require(scope.single().is_some(), fact, Denial::RedemptionNotAllowed)?;
    let fact = RedemptionRule::TokenScope { rule, token: scope.clone() };
    trace.require(*scope == admitted.request().scope, fact, Denial::ScopeExceedsSubjectToken)
}

/// Evaluates `when` on the members that the token carries.
fn check_condition<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rule: &'p PurposeRule,
    claims: &TxnClaims,
    carried: &TransactionContext,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let facts = Facts {
        client: admitted.client().client_id.as_str(),
        sub: &claims.sub,
        claims: &own_token::as_members(claims, &[rule]),
        scope: &admitted.request().scope,
        details: &carried.tctx,
        context: &carried.rctx,
        now,
    };
    context::check_condition(rule, facts, trace)
}

/// The client that the token was issued to must be one of `issued_to`.
fn check_originator<'p>(
    rule: &'p PurposeRule,
    redemption: &'p Redemption,
    claims: &TxnClaims,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let originator = &claims.req_wl;
    let listed = redemption.issued_to.iter().any(|client| client.as_str() == originator);
    let fact = RedemptionRule::IssuedTo { rule, redemption, client: originator.clone() };
    trace.require(listed, fact, Denial::RedemptionNotAllowed)
}

/// The window from `min_age` to `max_age` includes both ends.
fn check_age<'p>(
    rule: &'p PurposeRule,
    redemption: &Redemption,
    exp: Timestamp,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let redeemable_at = exp + redemption.min_age;
    let fact = RedemptionRule::From { rule, at: redeemable_at };
    trace.require(now >= redeemable_at, fact, Denial::RedemptionTooEarly { redeemable_at })?;
    let last = exp + redemption.max_age;
    let fact = RedemptionRule::Until { rule, at: last };
    trace.require(now <= last, fact, Denial::RedemptionTooOld { expired_at: exp })
}
