//! Subjects that were not verified, for trials of policies (`writ policy explain`, `writ policy test`).

use std::time::Duration;

use writ_verifier::{Members, Scope, TrustDomain, TxnClaims};

use super::SubjectError;
use super::asserted;
use super::facts::{AnySubject, AnyTxnToken, Statement, SubjectFacts, sealed};
use super::members::Audience;
use super::outside::{NOT_FOR_CLIENT, check_audience_of, check_binding, check_not_a_client, usable_until};
use super::own_token;
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// The result that a verification would have, without one. A grant to it cannot be signed.
#[derive(Debug)]
pub struct TrialSubject {
    source: Source,
    facts: SubjectFacts<TrialTxnToken>,
}

/// The claims of a Txn-Token that no key signed.
#[derive(Debug, Clone)]
pub struct TrialTxnToken {
    claims: TxnClaims,
    alive: bool,
}

/// The circumstances in which a token is presented in a trial.
#[derive(Clone, Copy)]
pub struct TrialPresenter<'a> {
    /// The client.
    pub client: &'a ClientPolicy,
    /// The policies of all clients, whose own subjects no token may have.
    pub policies: &'a PolicySet,
    /// The tolerated difference between the issuer's clock and that of this host.
    pub clock_skew: Duration,
    /// The instant of the request.
    pub now: Timestamp,
}

impl TrialSubject {
    /// The client itself.
    pub fn client() -> Self {
        Self { source: Source::ClientCredentials, facts: SubjectFacts::Client }
    }

    /// A subject that the client names (`requested_subject`).
    pub fn named(sub: Subject) -> Self {
        Self { source: Source::ClientCredentials, facts: SubjectFacts::Named(sub) }
    }

    /// A subject that the client vouches for with these claims.
    ///
    /// # Errors
    /// The [`SubjectError`] of the times.
    pub fn asserted(
        source: Source,
        sub: Subject,
        claims: Members,
        clock_skew: Duration,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        let statement = asserted::statement(source, sub, claims, clock_skew, now)?;
        Ok(Self { source, facts: SubjectFacts::Asserted(statement) })
    }

    /// The subject of an issuer's token with these claims that covers `scope`; no issuer's settings are known.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: audience if present, the proof of a bound token, subject, times.
    pub fn outside(
        source: Source,
        sub: Subject,
        scope: Option<Scope>,
        claims: Members,
        by: TrialPresenter<'_>,
    ) -> Result<Self, SubjectError> {
        if claims.raw("aud").is_some() {
            let audience: Audience<'_> = claims.get("aud").ok_or(NOT_FOR_CLIENT)?;
            check_audience_of(by.client, &audience)?;
        }
        check_binding(&claims, by.client)?;
        check_not_a_client(&sub, by.policies)?;
        let usable_until = Some(usable_until(&claims, by.clock_skew, by.now)?);
        let statement = Statement { source, sub, claims: claims.into(), usable_until, single_use: None };
        Ok(Self { source, facts: SubjectFacts::Outside { statement, scope } })
    }

    /// The subject of a Txn-Token with these claims. `may_redeem` states whether an expired one is accepted.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: trust domain, redeemed before, times.
    pub fn txn_token(
        claims: TxnClaims,
        trust_domain: &TrustDomain,
        may_redeem: bool,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        own_token::check_trust_domain(&claims, trust_domain)?;
        let alive = own_token::check_usable(&claims, may_redeem, now)?;
        let source = own_token::source(alive);
        Ok(Self { source, facts: SubjectFacts::TxnToken(Box::new(TrialTxnToken { claims, alive })) })
    }
}

impl sealed::Subject for TrialSubject {}

impl AnySubject for TrialSubject {
    type TxnToken = TrialTxnToken;

    fn source(&self) -> Source {
        self.source
    }

    fn into_facts(self) -> SubjectFacts<TrialTxnToken> {
        self.facts
    }
}

impl sealed::TxnToken for TrialTxnToken {}

impl AnyTxnToken for TrialTxnToken {
    fn claims(&self) -> &TxnClaims {
        &self.claims
    }

    fn into_claims(self) -> TxnClaims {
        self.claims
    }

    fn is_alive(&self) -> bool {
        self.alive
    }
}
