//! Whom a client vouches for: the subject of what it signs, or just says.

use std::time::Duration;

use writ_verifier::Members;

use super::SubjectError;
use super::outside::{SUBJECT_FORM, Times, text};
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// A subject for which the client alone stands; its policy says whether it may name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertedSubject {
    pub(super) source: Source,
    pub(super) sub: Subject,
    pub(super) claims: Members,
    pub(super) usable_until: Option<Timestamp>,
    pub(super) single_use: Option<SingleUse>,
}

/// What may be used once: a client's `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUse {
    /// Names the client and its `jti`, and nothing else.
    pub id: [u8; 32],
    /// When it was made.
    pub made: Timestamp,
    /// The first second in which it cannot be used anyway.
    pub keep_until: Timestamp,
}

impl AssertedSubject {
    /// The kind of proof: signed, or said.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whom the client names.
    pub fn sub(&self) -> &Subject {
        &self.sub
    }

    /// All that it says of it.
    pub fn claims(&self) -> &Members {
        &self.claims
    }

    /// The first second in which it proves nothing, if it ends at all.
    pub fn usable_until(&self) -> Option<Timestamp> {
        self.usable_until
    }

    /// What is spent with it.
    pub fn single_use(&self) -> Option<SingleUse> {
        self.single_use
    }
}

impl AssertedSubject {
    /// What `source` with these claims says, whether or not anything proves it.
    ///
    /// # Errors
    /// What is wrong with the times.
    pub fn unproven(
        source: Source,
        sub: Subject,
        claims: Members,
        clock_skew: Duration,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        // Of plain JSON no other time is looked at: whatever else it says is for the policy to name.
        let mut expiry = Members::default();
        expiry.adopt("exp", &claims, "exp");
        let times = if source == Source::UnsignedJson { &expiry } else { &claims };
        let usable_until = Times::read(times, now)?.hold(now, clock_skew)?;
        Ok(Self { source, sub, claims, usable_until, single_use: None })
    }
}

#[cfg(test)]
impl AssertedSubject {
    /// A subject that no client vouched for, for tests of what is done with it.
    pub(crate) fn about(source: Source, sub: &str, usable_until: Option<Timestamp>) -> Self {
        let single_use = usable_until.filter(|_| source == Source::SelfSigned).map(|keep_until| SingleUse {
            id: [7; 32],
            made: keep_until - Duration::from_secs(60),
            keep_until,
        });
        Self { source, sub: sub.parse().unwrap(), claims: Members::default(), usable_until, single_use }
    }
}

/// `sub`, as the trust domain knows it.
pub(super) fn subject(claims: &Members) -> Result<Subject, SubjectError> {
    text(claims, "sub")?.parse().map_err(|_| SUBJECT_FORM)
}
