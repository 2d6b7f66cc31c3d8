//! The decision itself: which rules apply to which kind of subject.

use super::admit::{Accepted, Asked};
use super::denial::Denial;
use super::grant::Grant;
use super::trace::Trace;
use super::{issue, redemption, replacement};
use crate::subject::VerifiedSubject;
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
    let is_admitted = asked.accepts(subject.source());
    match (asked.accepted(), subject) {
        (Accepted::TxnToken { replacement, redemption }, VerifiedSubject::Own(token)) => match replacement {
            Some(rules) if token.alive => replacement::replace(asked, rules, token, at.max_replacements, at.now, trace),
            // A live token where only expired ones are accepted falls under the same rules: it comes too early.
            _ => redemption::redeem(asked, *redemption, token, at.now, trace),
        },
        (Accepted::Other { rules }, VerifiedSubject::Client) if is_admitted => {
            issue::for_client(asked, rules, at.now, trace)
        }
        (Accepted::Other { rules }, VerifiedSubject::Named(sub)) if is_admitted => {
            issue::for_named(asked, rules, &sub, at.now, trace)
        }
        (Accepted::Other { rules }, VerifiedSubject::Asserted(subject)) if is_admitted => {
            issue::for_asserted(asked, rules, &subject, at.now, trace)
        }
        (Accepted::Other { rules }, VerifiedSubject::Outside(token)) if is_admitted => {
            issue::for_outside(asked, rules, &token, at.now, trace)
        }
        // The subject was verified for another request than the one that was admitted.
        _ => Err(Denial::SourceNotAllowed),
    }
}
