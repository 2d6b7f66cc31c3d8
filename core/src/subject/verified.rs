//! What a client presents → the subject that it proves. Only this module makes a [`VerifiedSubject`].

use std::time::Instant;

use writ_verifier::{Members, TrustDomain};

use super::facts::{AnySubject, SubjectFacts, sealed};
use super::issuers::Issuers;
use super::own_token::KnownKey;
use super::self_signed::Presentation;
use super::{AssertedSubject, OutsideToken, OwnToken, SubjectError, SubjectFault};
use super::{own_token, self_signed, unsigned_json};
use crate::client::PeerCertificate;
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::{Presented, Source, Subject, TokenText};
use writ_platform::clock::Timestamp;
use writ_platform::deadline::before;

/// A subject that was verified.
///
/// Only [`VerifiedSubject::verify`] makes one: it has no public constructor or variant.
///
/// ```compile_fail,E0423
/// use writ_core::subject::{OwnToken, VerifiedSubject};
/// fn forge(token: OwnToken) -> VerifiedSubject {
///     VerifiedSubject(token)
/// }
/// ```
///
/// ```compile_fail,E0599
/// let forged = writ_core::subject::VerifiedSubject::Client;
/// ```
///
/// The borrowed view of one cannot be converted into one:
///
/// ```compile_fail,E0308
/// use writ_core::subject::{SubjectKind, VerifiedSubject};
/// fn promote(kind: SubjectKind<'_>) -> VerifiedSubject {
///     kind
/// }
/// ```
#[derive(Debug)]
pub struct VerifiedSubject(Proof);

/// The proof of the subject.
#[derive(Debug)]
enum Proof {
    Client,
    Named(Subject),
    Asserted(AssertedSubject),
    Outside(OutsideToken),
    Own(Box<OwnToken>),
}

/// A [`VerifiedSubject`] by its proof.
#[derive(Debug, Clone, Copy)]
pub enum SubjectKind<'a> {
    /// The client itself: its certificate is the proof.
    Client,
    /// The subject that the client names (`requested_subject`).
    Named(&'a Subject),
    /// The subject that the client vouches for, with or without a signature.
    Asserted(&'a AssertedSubject),
    /// The subject of a token of a subject issuer.
    Outside(&'a OutsideToken),
    /// The subject of a Txn-Token of this service, alive or expired.
    Own(&'a OwnToken),
}

/// The circumstances in which a subject is presented.
#[derive(Clone, Copy)]
pub struct VerificationContext<'a> {
    /// The policy of the client that presents it.
    pub client: &'a ClientPolicy,
    /// The certificate that the client has proven to own.
    pub certificate: &'a PeerCertificate,
    /// The policies of all clients, whose own subjects no token may have.
    pub policies: &'a PolicySet,
    /// Whether the client may redeem an expired Txn-Token for a purpose that it requests.
    pub may_redeem: bool,
    /// The `aud` of Txn-Tokens of this service.
    pub trust_domain: &'a TrustDomain,
    /// The `iss` of this service, which must be in `aud` of self-signed tokens.
    pub issuer: &'a str,
    /// The deadline for waiting for a subject issuer.
    pub deadline: Instant,
    /// The instant of the request.
    pub now: Timestamp,
}

impl VerifiedSubject {
    /// Verifies `presented`. `find_key` looks up a key of this service by its `kid`.
    ///
    /// # Errors
    /// [`SubjectError`], the first in the order of contract 3.6: form, issuer and key, signature, audience and other
    /// claims, times. [`SubjectFault::IssuerUnavailable`] also when the deadline passes.
    pub async fn verify(
        presented: &Presented,
        by: VerificationContext<'_>,
        issuers: &Issuers,
        find_key: impl FnOnce(&str) -> KnownKey,
    ) -> Result<Self, SubjectError> {
        let outside = async |kind, token: &TokenText| {
            let verified = issuers.verify(kind, token, by.client, by.policies, by.now);
            let verified = before(by.deadline, verified).await;
            verified.unwrap_or_else(|| Err(SubjectFault::IssuerUnavailable.into())).map(Proof::Outside)
        };
        let clock_skew = issuers.clock_skew();
        let proof = match presented {
            Presented::Client => Proof::Client,
            Presented::Named(subject) => Proof::Named(subject.clone()),
            Presented::AccessToken(token) => outside(Source::AccessToken, token).await?,
            Presented::Jwt(token) => outside(Source::Jwt, token).await?,
            Presented::IdToken(token) => outside(Source::IdToken, token).await?,
            Presented::SelfSigned(token) => {
                let VerificationContext { client, certificate, issuer, now, .. } = by;
                let by = Presentation { client, certificate, issuer, clock_skew, now };
                Proof::Asserted(self_signed::verify(token.expose(), by)?)
            }
            Presented::UnsignedJson(json) => Proof::Asserted(unsigned_json::verify(json.expose(), clock_skew, by.now)?),
            Presented::TxnToken(token) => {
                let own = own_token::verify(token.expose(), by.trust_domain, by.may_redeem, find_key, by.now)?;
                Proof::Own(Box::new(own))
            }
        };
        Ok(Self(proof))
    }

    /// The proof of the subject, by kind.
    pub fn kind(&self) -> SubjectKind<'_> {
        match &self.0 {
            Proof::Client => SubjectKind::Client,
            Proof::Named(sub) => SubjectKind::Named(sub),
            Proof::Asserted(asserted) => SubjectKind::Asserted(asserted),
            Proof::Outside(token) => SubjectKind::Outside(token),
            Proof::Own(token) => SubjectKind::Own(token),
        }
    }

    /// Whether the subject token names an actor (`act`, RFC 8693 §4.1). A Txn-Token never does.
    pub(crate) fn names_actor(&self) -> bool {
        let names_actor = |claims: &Members| claims.raw("act").is_some();
        match self.kind() {
            SubjectKind::Client | SubjectKind::Named(_) | SubjectKind::Own(_) => false,
            SubjectKind::Asserted(asserted) => names_actor(asserted.claims()),
            SubjectKind::Outside(token) => names_actor(token.claims()),
        }
    }
}

impl sealed::Subject for VerifiedSubject {}

impl AnySubject for VerifiedSubject {
    type TxnToken = OwnToken;

    fn source(&self) -> Source {
        match self.kind() {
            SubjectKind::Client | SubjectKind::Named(_) => Source::ClientCredentials,
            SubjectKind::Asserted(asserted) => asserted.source(),
            SubjectKind::Outside(token) => token.source(),
            SubjectKind::Own(token) => own_token::source(token.is_alive()),
        }
    }

    fn into_facts(self) -> SubjectFacts<OwnToken> {
        match self.0 {
            Proof::Client => SubjectFacts::Client,
            Proof::Named(sub) => SubjectFacts::Named(sub),
            Proof::Asserted(asserted) => SubjectFacts::Asserted(asserted.into_statement()),
            Proof::Outside(token) => {
                let (statement, scope) = token.into_statement();
                SubjectFacts::Outside { statement, scope }
            }
            Proof::Own(token) => SubjectFacts::TxnToken(token),
        }
    }
}

#[cfg(test)]
impl VerifiedSubject {
    /// The client itself, without verification, for tests.
    pub(crate) fn client() -> Self {
        Self(Proof::Client)
    }

    pub(crate) fn named(sub: &str) -> Self {
        Self(Proof::Named(sub.parse().unwrap()))
    }
}

#[cfg(test)]
impl From<AssertedSubject> for VerifiedSubject {
    fn from(asserted: AssertedSubject) -> Self {
        Self(Proof::Asserted(asserted))
    }
}

#[cfg(test)]
impl From<OutsideToken> for VerifiedSubject {
    fn from(token: OutsideToken) -> Self {
        Self(Proof::Outside(token))
    }
}

#[cfg(test)]
impl From<OwnToken> for VerifiedSubject {
    fn from(token: OwnToken) -> Self {
        Self(Proof::Own(Box::new(token)))
    }
}
