//! The decision itself: which rules apply to which kind of subject.

use super::admit::{Accepted, AdmittedRequest};
use super::denial::Denial;
use super::grant::{Grant, TrialGrant};
use super::trace::Trace;
use super::{issue, redemption, replacement};
use crate::subject::{AnySubject, AnyTxnToken as _, SubjectFacts, TrialSubject, VerifiedSubject};
use writ_platform::clock::Timestamp;

/// The inputs of a decision besides request and policy.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The instant of the request.
    pub now: Timestamp,
    /// The limit on replacements in one transaction (`tokens.max_replacements`).
    pub max_replacements: u32,
}

/// Decides on a request and the subject that was verified for it.
///
/// # Errors
/// The first [`Denial`], in this order: scope, subject, details, condition, then the rules of replacement or redemption.
pub fn decide<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    subject: VerifiedSubject,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<Grant, Denial> {
    apply_rules(admitted, subject, at, trace)
}

/// Applies the rules of [`decide`] to a hypothetical request. No token can result from it.
///
/// # Errors
/// The [`Denial`] that [`decide`] would return.
pub fn decide_trial<'p>(
    admitted: &AdmittedRequest<'p, '_>,
    subject: TrialSubject,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<TrialGrant, Denial> {
    apply_rules(admitted, subject, at, trace)
}

fn apply_rules<'p, S: AnySubject>(
    admitted: &AdmittedRequest<'p, '_>,
    subject: S,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<Grant<S::TxnToken>, Denial> {
    let is_admitted = admitted.accepts(subject.source());
    match (admitted.accepted(), subject.into_facts()) {
        (Accepted::TxnToken { replacement, redemption }, SubjectFacts::TxnToken(token)) => match replacement {
            Some(rules) if token.is_alive() => {
                replacement::replace(admitted, rules, token, at.max_replacements, at.now, trace)
            }
            // A live token where only expired ones are accepted is subject to the same rules, which refuse it as too early.
            _ => redemption::redeem(admitted, *redemption, token, at.now, trace),
        },
        (Accepted::Other { rules }, SubjectFacts::Client) if is_admitted => {
            issue::for_client(admitted, rules, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Named(sub)) if is_admitted => {
            issue::for_named(admitted, rules, &sub, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Asserted(statement)) if is_admitted => {
            issue::for_asserted(admitted, rules, &statement, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Outside { statement, scope }) if is_admitted => {
            issue::for_outside(admitted, rules, &statement, scope.as_ref(), at.now, trace)
        }
        // The subject was verified for another request than the one that was admitted.
        _ => Err(Denial::SourceNotAllowed),
    }
}
