//! A subject that a client vouches for, with or without a signature.

use std::time::Duration;

use writ_verifier::Members;

use super::SubjectError;
use super::facts::{SingleUse, Statement};
use super::times::Times;
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// A subject that only the presenting client vouches for; its policy determines which subjects it may name.
///
/// It cannot be constructed:
///
/// ```compile_fail,E0423
/// use writ_core::subject::{AssertedSubject, Statement};
/// fn forge(statement: Statement) -> AssertedSubject {
///     AssertedSubject(statement)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertedSubject(Statement);

impl AssertedSubject {
    /// Only for [`self_signed`](super::self_signed) and [`unsigned_json`](super::unsigned_json), after `statement` was
    /// verified.
    pub(super) fn new(statement: Statement) -> Self {
        Self(statement)
    }

    /// The kind of token: self-signed or unsigned JSON.
    pub fn source(&self) -> Source {
        self.0.source
    }

    /// The subject that the client names.
    pub fn sub(&self) -> &Subject {
        &self.0.sub
    }

    /// All claims, verbatim.
    pub fn claims(&self) -> &Members {
        &self.0.claims
    }

    /// The identifier that issuing a token uses up.
    pub fn single_use(&self) -> Option<SingleUse> {
        self.0.single_use
    }

    pub(super) fn into_statement(self) -> Statement {
        self.0
    }
}

/// Builds a statement about `sub` from claims of `source`. Checks their times, but no signature.
pub(super) fn statement(
    source: Source,
    sub: Subject,
    claims: Members,
    clock_skew: Duration,
    now: Timestamp,
) -> Result<Statement, SubjectError> {
    // In unsigned JSON only `exp` is a time; the policy decides about all other members.
    let mut expiry = Members::default();
    expiry.adopt("exp", &claims, "exp");
    let times = if source == Source::UnsignedJson { &expiry } else { &claims };
    let usable_until = Times::read(times, now)?.hold(now, clock_skew)?;
    Ok(Statement { source, sub, claims: claims.into(), usable_until, single_use: None })
}

#[cfg(test)]
impl AssertedSubject {
    pub(crate) fn usable_until(&self) -> Option<Timestamp> {
        self.0.usable_until
    }

    /// A subject that no client vouched for, for tests.
    pub(crate) fn about(source: Source, sub: &str, usable_until: Option<Timestamp>) -> Self {
        let single_use = usable_until.filter(|_| source == Source::SelfSigned).map(|keep_until| SingleUse {
            id: [7; 32],
            made: keep_until - Duration::from_secs(60),
            keep_until,
        });
        Self(Statement {
            source,
            sub: sub.parse().unwrap(),
            claims: Members::default().into(),
            usable_until,
            single_use,
        })
    }
}
