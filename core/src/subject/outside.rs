//! The rules for every token of a subject issuer: subject, scope and lifetime.
//!
//! In: the claims of a token whose form and origin were checked ([`issued_jwt`](super::issued_jwt),
//! [`opaque`](super::opaque)), and a [`ValidationContext`]. Out: an [`OutsideToken`].

use std::sync::Arc;
use std::time::Duration;

use writ_verifier::{Members, Scope};

use super::SubjectError;
use super::SubjectFault::{AudienceMismatch, ClaimsInvalid};
use super::facts::Statement;
use super::members::{Audience, SUBJECT_FORM, audience, scope, text};
use super::settings::IssuerSettings;
use super::times::Times;
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// The maximum number of names in `aud`.
const MAX_AUDIENCES: usize = 256;

/// How long an opaque token without an expiry is usable: its issuer has confirmed it only for the moment.
const LIFETIME_WITHOUT_EXPIRY: Duration = Duration::from_secs(60);

/// A verified token of a subject issuer. Only the verification of its kind makes one.
///
/// It cannot be constructed:
///
/// ```compile_fail,E0451
/// use writ_core::subject::OutsideToken;
/// use writ_platform::clock::Timestamp;
/// fn prolong(token: OutsideToken, usable_until: Timestamp) -> OutsideToken {
///     OutsideToken { usable_until, ..token }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideToken {
    source: Source,
    issuer: String,
    sub: Subject,
    scope: Option<Scope>,
    /// `exp`, rounded down, plus the tolerated skew: the first second in which the token is no longer valid, and in which a
    /// Txn-Token made from it ends unless its purpose may outlive it. A minute from now if there is no `exp`, as in some
    /// introspection replies.
    usable_until: Timestamp,
    claims: Arc<Members>,
}

impl OutsideToken {
    /// The kind that it was presented and verified as: access token, JWT or ID token.
    pub fn source(&self) -> Source {
        self.source
    }

    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The subject with the issuer's prefix: unique in the trust domain.
    pub fn sub(&self) -> &Subject {
        &self.sub
    }

    /// The scope of the token, by its own claim or the issuer's setting; `None` if neither exists.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// All claims, verbatim; for an opaque token the members of the issuer's reply.
    pub fn claims(&self) -> &Members {
        &self.claims
    }

    /// The first second in which it is no longer valid, the tolerated skew included.
    pub(super) fn usable_until(&self) -> Timestamp {
        self.usable_until
    }

    /// The same token, usable no longer than `other`.
    pub(super) fn ending_with(self, other: &Self) -> Self {
        Self { usable_until: self.usable_until.min(other.usable_until), ..self }
    }

    pub(super) fn into_statement(self) -> (Statement, Option<Scope>) {
        let Self { source, sub, scope, usable_until, claims, .. } = self;
        (Statement { source, sub, claims, usable_until: Some(usable_until), single_use: None }, scope)
    }
}

#[cfg(test)]
impl OutsideToken {
    /// A token that no issuer signed, for tests.
    pub(crate) fn about(sub: &str, scope: Option<&str>, usable_until: Timestamp) -> Self {
        let (sub, scope) = (sub.parse().unwrap(), scope.map(|scope| scope.parse().unwrap()));
        let issuer = "https://login.example".to_owned();
        let claims = Arc::default();
        Self { source: Source::AccessToken, issuer, sub, scope, usable_until, claims }
    }
}

/// The settings that a token is validated against.
#[derive(Clone, Copy)]
pub(super) struct ValidationContext<'a> {
    /// The issuer of the token.
    pub(super) issuer: &'a IssuerSettings,
    /// The scope of a token without one.
    pub(super) default_scope: Option<&'a Scope>,
    /// The subject prefixes of all issuers.
    pub(super) prefixes: &'a [String],
    /// The client that presents the token.
    pub(super) client: &'a ClientPolicy,
    /// The policies of all clients, whose own subjects no token may have.
    pub(super) policies: &'a PolicySet,
    /// The tolerated difference between the issuer's clock and that of this host.
    pub(super) clock_skew: Duration,
    /// The instant of the request.
    pub(super) now: Timestamp,
}

impl ValidationContext<'_> {
    /// Reads `aud`, which must contain one of `ours`, and one of those that the client's policy requires.
    pub(super) fn audience<'c>(self, claims: &'c Members, ours: &[String]) -> Result<Audience<'c>, SubjectError> {
        let audience = audience(claims)?;
        if audience.names().len() > MAX_AUDIENCES {
            return Err(ClaimsInvalid.because("`aud` has more than 256 names"));
        }
        if !audience.names_one_of(ours) {
            return Err(AudienceMismatch.because("`aud` contains none of the audiences configured for its issuer"));
        }
        check_audience_of(self.client, &audience)?;
        Ok(audience)
    }

    /// Makes the remaining checks, after form and audience: proof of a bound token, subject, scope, times.
    pub(super) fn complete(
        self,
        source: Source,
        claims: impl Into<Arc<Members>>,
    ) -> Result<OutsideToken, SubjectError> {
        let claims = claims.into();
        check_binding(&claims, self.client)?;
        let sub = self.subject(&claims)?;
        // An ID token identifies a user and has no scope (R-POL-05).
        let scope = if source == Source::IdToken { self.default_scope.cloned() } else { self.scope(&claims)? };
        let usable_until = usable_until(&claims, self.clock_skew, self.now)?;
        Ok(OutsideToken { source, issuer: self.issuer.issuer.clone(), sub, scope, usable_until, claims })
    }

    /// The subject, unique in the trust domain: inside this issuer's prefix and no other's.
    fn subject(self, claims: &Members) -> Result<Subject, SubjectError> {
        let prefix = &self.issuer.subject_prefix;
        let name = text(claims, &self.issuer.subject_claim)?;
        let sub: Result<Subject, _> = name.parse().and_then(|name: Subject| format!("{prefix}{name}").parse());
        let sub = sub.map_err(|_| SUBJECT_FORM)?;
        let foreign = |other: &String| other.len() > prefix.len() && sub.as_str().starts_with(other.as_str());
        if self.prefixes.iter().any(foreign) {
            return Err(ClaimsInvalid.because("the subject has the form of another issuer's"));
        }
        check_not_a_client(&sub, self.policies)?;
        Ok(sub)
    }

    /// The scope of the token, or the issuer's setting if it has none.
    fn scope(self, claims: &Members) -> Result<Option<Scope>, SubjectError> {
        Ok(scope(claims, &self.issuer.scope_claim)?.or_else(|| self.default_scope.cloned()))
    }
}

/// The first second in which a token with these claims has expired, the skew included.
pub(super) fn usable_until(claims: &Members, clock_skew: Duration, now: Timestamp) -> Result<Timestamp, SubjectError> {
    let until = Times::read(claims, now)?.hold(now, clock_skew)?;
    Ok(until.unwrap_or(now + LIFETIME_WITHOUT_EXPIRY))
}

/// Checks the audiences that the client's policy requires (`subject_token_audience`).
pub(super) fn check_audience_of(client: &ClientPolicy, audience: &Audience<'_>) -> Result<(), SubjectError> {
    let required = &client.subject_token_audience;
    let fits = required.is_empty() || audience.names_one_of(required);
    fits.then_some(()).ok_or(NOT_FOR_CLIENT)
}

/// The error for a token without any of the audiences that the client's policy requires.
pub(super) const NOT_FOR_CLIENT: SubjectError = AudienceMismatch
    .because("`aud` contains none of the audiences that the client's policy requires (subject_token_audience)");

/// The client must have checked the proof of a token that is bound to a sender's key (`cnf`).
pub(super) fn check_binding(claims: &Members, client: &ClientPolicy) -> Result<(), SubjectError> {
    let bound = claims.raw("cnf").is_some();
    let vouched = !bound || client.vouches_for_bound_tokens;
    vouched.then_some(()).ok_or(ClaimsInvalid.because(
        "it has `cnf`: it is bound to a sender's key, and the client's policy does not say that it checks the proof \
         (vouches_for_bound_tokens)",
    ))
}

pub(super) fn check_not_a_client(sub: &Subject, policies: &PolicySet) -> Result<(), SubjectError> {
    let own = policies.is_own_subject(sub.as_str());
    if own { Err(ClaimsInvalid.because("the subject is a client's own")) } else { Ok(()) }
}
