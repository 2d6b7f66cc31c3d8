//! Subjects that were not verified, for trials of policies.

use std::time::Duration;

use writ_verifier::{Members, Scope, TrustDomain, TxnClaims};

use super::{AssertedSubject, OutsideToken, OwnToken, SubjectError, TrialPresenter, VerifiedSubject};
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// What a verification would have found. [`decide`](crate::decision::decide) does not accept it,
/// [`decide_trial`](crate::decision::decide_trial) does.
#[derive(Debug)]
pub struct TrialSubject(VerifiedSubject);

impl TrialSubject {
    /// The client itself.
    pub fn client() -> Self {
        Self(VerifiedSubject::Client)
    }

    /// A subject that the client names (`requested_subject`).
    pub fn named(sub: Subject) -> Self {
        Self(VerifiedSubject::Named(sub))
    }

    /// A subject that the client vouches for with these claims.
    ///
    /// # Errors
    /// What is wrong with the times.
    pub fn asserted(
        source: Source,
        sub: Subject,
        claims: Members,
        clock_skew: Duration,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        AssertedSubject::of_claims(source, sub, claims, clock_skew, now).map(VerifiedSubject::Asserted).map(Self)
    }

    /// The subject of an issuer's token with these claims that covers `scope`.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: audience where it is given, the proof of a bound token, subject, times.
    pub fn outside(
        source: Source,
        sub: Subject,
        scope: Option<Scope>,
        claims: Members,
        by: TrialPresenter<'_>,
    ) -> Result<Self, SubjectError> {
        OutsideToken::for_trial(source, sub, scope, claims, by).map(VerifiedSubject::Outside).map(Self)
    }

    /// The subject of a Txn-Token with these claims. `may_redeem` says whether an expired one is accepted.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: trust domain, redeemed before, times.
    pub fn own(
        claims: TxnClaims,
        trust_domain: &TrustDomain,
        may_redeem: bool,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        let token = OwnToken::for_trial(claims, trust_domain, may_redeem, now)?;
        Ok(Self(VerifiedSubject::Own(Box::new(token))))
    }

    /// The kind of proof, as policies name it.
    pub fn source(&self) -> Source {
        self.0.source()
    }

    /// For the decision on a trial alone: its outcome cannot be signed.
    pub(crate) fn into_unverified(self) -> VerifiedSubject {
        self.0
    }
}
