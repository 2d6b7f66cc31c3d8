//! The decision itself: which rules apply to which kind of subject.

use super::admit::{Accepted, Asked};
use super::denial::Denial;
use super::grant::{Grant, TrialGrant};
use super::trace::Trace;
use super::{issue, redemption, replacement};
use crate::subject::{AnySubject, AnyTxnToken as _, SubjectFacts, TrialSubject, VerifiedSubject};
use writ_platform::clock::Timestamp;

/// The circumstances of a decision that lie outside of request and policy.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The instant of the request.
    pub now: Timestamp,
    /// How many replacements of one transaction's token are allowed (`tokens.max_replacements`).
    pub max_replacements: u32,
}

/// Decides on a request and the subject that was verified for it.
///
/// # Errors
/// The first [`Denial`], in this order: scope, subject, details, condition, then the rules of replacement or redemption.
pub fn decide<'p>(
    asked: &Asked<'p, '_>,
    subject: VerifiedSubject,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<Grant, Denial> {
    apply_rules(asked, subject, at, trace)
}

/// Decides on an imagined request by the rules of [`decide`]. No token comes of it.
///
/// # Errors
/// The [`Denial`] that [`decide`] would return.
pub fn decide_trial<'p>(
    asked: &Asked<'p, '_>,
    subject: TrialSubject,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<TrialGrant, Denial> {
    apply_rules(asked, subject, at, trace)
}

fn apply_rules<'p, S: AnySubject>(
    asked: &Asked<'p, '_>,
    subject: S,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<Grant<S::TxnToken>, Denial> {
    let is_admitted = asked.accepts(subject.source());
    match (asked.accepted(), subject.into_facts()) {
        (Accepted::TxnToken { replacement, redemption }, SubjectFacts::TxnToken(token)) => match replacement {
            Some(rules) if token.is_alive() => {
                replacement::replace(asked, rules, token, at.max_replacements, at.now, trace)
            }
            // A live token where only expired ones are accepted falls under the same rules: it comes too early.
            _ => redemption::redeem(asked, *redemption, token, at.now, trace),
        },
        (Accepted::Other { rules }, SubjectFacts::Client) if is_admitted => {
            issue::for_client(asked, rules, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Named(sub)) if is_admitted => {
            issue::for_named(asked, rules, &sub, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Asserted(statement)) if is_admitted => {
            issue::for_asserted(asked, rules, &statement, at.now, trace)
        }
        (Accepted::Other { rules }, SubjectFacts::Outside { statement, scope }) if is_admitted => {
            issue::for_outside(asked, rules, &statement, scope.as_ref(), at.now, trace)
        }
        // The subject was verified for another request than the one that was admitted.
        _ => Err(Denial::SourceNotAllowed),
    }
}
