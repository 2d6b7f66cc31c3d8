//! The rules about request details, request context and claims: which of them a token carries, and `when`.

use writ_verifier::Members;

use super::admit::AdmittedRequest;
use super::denial::Denial;
use super::trace::{Context, Trace};
use crate::policy::PurposeRule;
use crate::policy::condition::Facts;
use crate::policy::mapping::{Rejection, TransactionContext, value_fits_a_token};
use crate::request::TokenText;
use writ_platform::clock::Timestamp;

/// Adds to `carried` the members that the purposes derive from details, context and claims. At the start of a transaction,
/// `claims` are those of the subject token, and details that were not sent are validated like empty ones. Later the
/// transaction already has its details, and no claim is copied.
pub(super) fn extend<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    claims: Option<&Members>,
    mut carried: TransactionContext,
    trace: &mut Trace<'p>,
) -> Result<TransactionContext, Denial> {
    check_schemas(admitted, rules, claims.is_some(), trace)?;
    for rule in rules {
        add_members(admitted, rule, claims, &mut carried, trace)?;
    }
    let sent = admitted.request().presented.token().map(TokenText::expose);
    match carried.refuse_unreadable().and_then(|()| carried.refuse_tokens(sent)) {
        Ok(()) => Ok(carried),
        Err(rejection) => Err(trace.refuse(Context::Rejected(rejection.clone()), rejection)),
    }
}

fn check_schemas<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    required: bool,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    for rule in rules.iter().filter(|rule| rule.mapping.schema.is_some()) {
        if let Err(mut unfit) = rule.mapping.admit(admitted.request(), required) {
            let why = std::mem::take(&mut unfit.why);
            return Err(trace.refuse(Context::DetailsUnfit { rule, why }, Rejection::from(unfit)));
        }
        trace.pass(Context::DetailsFit(rule));
    }
    Ok(())
}

fn add_members<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rule: &'p PurposeRule,
    claims: Option<&Members>,
    carried: &mut TransactionContext,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let members = match rule.mapping.apply(admitted.request(), claims) {
        Ok(members) => members,
        Err(missing) => return Err(trace.refuse(Context::ClaimMissing { rule, missing }, Denial::ClaimMissing)),
    };
    if claims.is_some() {
        let readable = |(member, _): &&(String, String)| members.tctx.raw(member).is_some_and(value_fits_a_token);
        if let Some((member, claim)) = rule.mapping.tctx_subject.iter().find(|pair| !readable(pair)) {
            return Err(trace.refuse(Context::ClaimUnreadable { rule, member, claim }, Denial::ClaimUnreadable));
        }
    }
    match carried.extend(&members) {
        Ok(()) if members.is_empty() => {}
        Ok(()) => trace.pass(Context::MembersAdded { rule, members }),
        Err(rejection) => {
            let fact = Context::MembersConflict { rule, members, rejection: rejection.clone() };
            return Err(trace.refuse(fact, rejection));
        }
    }
    Ok(())
}

/// `when` of each purpose, on the details and context of the request.
pub(super) fn check_conditions<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    sub: &str,
    claims: &Members,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let (request, none) = (admitted.request(), Members::default());
    let client = admitted.client().client_id.as_str();
    for rule in rules {
        let details = rule.mapping.details(request).unwrap_or(&none);
        let context = request.context.as_ref().unwrap_or(&none);
        check_condition(rule, Facts { client, sub, claims, scope: &request.scope, details, context, now }, trace)?;
    }
    Ok(())
}

pub(super) fn check_condition<'p>(
    rule: &'p PurposeRule,
    facts: Facts<'_>,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let Some(condition) = rule.when.as_deref() else { return Ok(()) };
    let holds = condition.holds(facts);
    let fact = Context::Condition { rule, condition, fault: holds.err() };
    trace.require(holds == Ok(true), fact, Denial::ConditionFailed)
}
