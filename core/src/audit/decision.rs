//! The audit event of one request: facts collected while it is handled, and the line written at the end.
//!
//! In: typed results of the steps, each reported once to the [`AuditContext`]. Out: a [`Decision`], built once the outcome
//! is known and not changed after that. Members of steps that the request never reached are absent from the line.

use std::borrow::Cow;

use serde::Serialize;

use super::{Event, TokenDigest};
use crate::claims::Claims;
use crate::client::{ClientId, PeerCertificate};
use crate::keys::TxnToken;
use crate::ledger::Term;
use crate::pdp::{PdpError, Proof};
use crate::permit::ApprovedGrant;
use crate::policy::PolicySet;
use crate::refusal::{Reason, Refusal};
use crate::request::{Source, TokenRequest, TokenText, holds_jws};
use crate::subject::{AnySubject as _, OwnToken, SubjectKind, VerifiedSubject};
use writ_platform::clock::Timestamp;

/// The endpoint that a request was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /token`.
    Token,
    /// `POST /introspect`.
    Introspection,
}

/// The facts known about a request so far, for its audit event, log lines and metrics.
#[derive(Debug, Default)]
pub struct AuditContext<'r> {
    request_id: &'r str,
    trace_id: Option<&'r str>,
    client_certificate: Option<&'r str>,
    policies: Option<&'r str>,
    client: Option<&'r ClientId>,
    request: Option<RequestFacts>,
    subject: Option<Subject>,
    /// The subject token names an actor, which policy ignored.
    ignores_actor: bool,
    pdp: Option<&'static str>,
    /// The token that the client asks about (`/introspect`).
    introspected: Option<TokenDigest>,
}

#[derive(Debug)]
struct RequestFacts {
    source: Option<Source>,
    /// Absent if it could contain a token.
    scope: Option<String>,
    subject_token: Option<TokenDigest>,
}

#[derive(Debug, Default)]
struct Subject {
    source: Option<Source>,
    sub: Option<String>,
    txn: Option<String>,
    issuer: Option<String>,
    /// The state of the key that signed an expired Txn-Token.
    key_state: Option<&'static str>,
    /// Seconds since an expired Txn-Token's `exp`.
    delayed_by: Option<u64>,
}

impl<'r> AuditContext<'r> {
    /// The context of a request of which only its ids and its certificate are known.
    pub fn new(request_id: &'r str, trace_id: Option<&'r str>, certificate: &'r PeerCertificate) -> Self {
        Self { request_id, trace_id, client_certificate: Some(certificate.x5t_s256()), ..Self::default() }
    }

    /// Sets the policies that decide the request.
    #[must_use]
    pub(crate) fn with_policies(self, policies: &'r PolicySet) -> Self {
        Self { policies: Some(policies.digest()), ..self }
    }

    pub(crate) fn set_client(&mut self, client: &'r ClientId) {
        self.client = Some(client);
    }

    pub(crate) fn set_request(&mut self, request: &TokenRequest) {
        // No policy has checked the scope yet: a token sent in its place must not reach the log (R-PRIV-01).
        let sent = request.presented.token();
        let scope = request.scope.to_string();
        let holds_token = holds_jws(&scope) || sent.is_some_and(|token| scope.contains(token.expose()));
        self.request = Some(RequestFacts {
            source: request.presented.sources().first().copied(),
            scope: (!holds_token).then_some(scope),
            subject_token: sent.map(|token| TokenDigest::new(token.sha256())),
        });
    }

    pub(crate) fn set_subject(&mut self, subject: &VerifiedSubject, now: Timestamp) {
        let source = Some(subject.source());
        self.subject = Some(match subject.kind() {
            SubjectKind::Client => Subject { source, ..Subject::default() },
            SubjectKind::Named(sub) => Subject { source, sub: Some(sub.to_string()), ..Subject::default() },
            SubjectKind::Asserted(asserted) => {
                Subject { source, sub: Some(asserted.sub().to_string()), ..Subject::default() }
            }
            SubjectKind::Outside(token) => {
                let issuer = Some(token.issuer().to_owned());
                Subject { source, sub: Some(token.sub().to_string()), issuer, ..Subject::default() }
            }
            SubjectKind::Own(token) => Subject {
                source,
                sub: Some(token.claims().sub.clone()),
                txn: Some(token.claims().txn.clone()),
                issuer: None,
                key_state: (!token.is_alive()).then_some(token.key_state()),
                delayed_by: now.epoch().checked_sub(token.claims().exp).filter(|_| !token.is_alive()),
            },
        });
    }

    /// Source, `sub`, issuer and key state of the verified subject, as far as it has them.
    pub(crate) fn subject(&self) -> (Option<&'static str>, Option<&str>, Option<&str>, Option<&'static str>) {
        let Some(subject) = &self.subject else { return (None, None, None, None) };
        (subject.source.map(Source::name), subject.sub.as_deref(), subject.issuer.as_deref(), subject.key_state)
    }

    /// Records that policy granted the request. If the subject token names an actor, policy has ignored it.
    pub(crate) fn set_granted(&mut self, names_actor: bool) {
        self.ignores_actor = names_actor;
    }

    pub(crate) fn set_pdp_outcome(&mut self, outcome: &Result<ApprovedGrant, PdpError>) {
        self.pdp = match outcome {
            Ok(approved) => approved.pdp_asked().then_some("allowed"),
            Err(error) => Some(error.outcome()),
        };
    }

    pub(crate) fn set_introspected(&mut self, token: &TokenText) {
        self.introspected = Some(TokenDigest::new(token.sha256()));
    }

    pub(crate) fn request_id(&self) -> &'r str {
        self.request_id
    }

    pub(crate) fn client(&self) -> Option<&'r ClientId> {
        self.client
    }

    /// The kind of subject token: as verified, or before that as declared.
    pub(crate) fn source(&self) -> Option<Source> {
        let declared = || self.request.as_ref().and_then(|request| request.source);
        self.subject.as_ref().and_then(|subject| subject.source).or_else(declared)
    }

    /// The requested scope, unless it could contain a token.
    pub(crate) fn scope(&self) -> Option<&str> {
        self.request.as_ref().and_then(|request| request.scope.as_deref())
    }

    /// The facts about the subject token that the PDP receives.
    pub(crate) fn proof(&self) -> Proof<'_> {
        let issuer = self.subject.as_ref().and_then(|subject| subject.issuer.as_deref());
        Proof { source: self.source().map(Source::name), issuer }
    }

    fn decision(&self) -> Decision<'_> {
        let (request, subject) = (self.request.as_ref(), self.subject.as_ref());
        Decision {
            request_id: self.request_id,
            trace_id: self.trace_id,
            client: self.client.map(ClientId::as_str),
            client_certificate: self.client_certificate,
            source: self.source().map(Source::name),
            scope: self.scope().map(Cow::Borrowed),
            actors: self.ignores_actor.then_some("ignored"),
            subject_issuer: subject.and_then(|subject| subject.issuer.as_deref()),
            subject_token_sha256: request.and_then(|request| request.subject_token),
            txn: subject.and_then(|subject| subject.txn.as_deref()),
            sub: subject.and_then(|subject| subject.sub.as_deref()),
            token_sha256: self.introspected,
            delayed_by: subject.and_then(|subject| subject.delayed_by),
            key_state: subject.and_then(|subject| subject.key_state),
            pdp: self.pdp,
            policies: self.policies,
            ..Decision::default()
        }
    }
}

/// The members of `token_issued`, `token_refused` and `token_introspected`, in the order in which they are written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Decision<'a> {
    /// The same as `X-Request-Id` of the answer.
    request_id: &'a str,
    /// From `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    /// `x5t#S256` of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate: Option<&'a str>,
    /// The kind of subject token, as policies name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    /// The requested purposes, or those of the introspected token.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Cow<'a, str>>,
    /// `ignored`: the subject token names an actor, and the policy ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    actors: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_token_sha256: Option<TokenDigest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    /// The key that signed the new token, or the introspected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    /// When that token expires, epoch seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_sha256: Option<TokenDigest>,
    /// Whether the introspected token is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    /// The number of the use, on a redemption.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    use_number: Option<u32>,
    /// Seconds since the presented token expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed_by: Option<u64>,
    /// The state of the key that signed the presented token, if that has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_state: Option<&'static str>,
    /// Whether the last use was repeated instead of counting a new one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retry: bool,
    /// `allowed`, `denied` or `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pdp: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `error_description`, as the client received it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The digest of the policies that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// The event before a token is sent to its client.
    pub(crate) fn token_issued(
        context: &'a AuditContext<'_>,
        claims: &'a Claims,
        token: &'a TxnToken,
        term: Term,
    ) -> Self {
        let claims = claims.as_txn_claims();
        Self::TokenIssued(Box::new(Decision {
            txn: Some(&claims.txn),
            sub: Some(&claims.sub),
            kid: Some(token.kid().as_str()),
            exp: Some(claims.exp),
            token_sha256: Some(TokenDigest::new(token.sha256())),
            use_number: term.spent().map(|spent| spent.use_number),
            retry: term.spent().is_some_and(|spent| spent.retry),
            ..context.decision()
        }))
    }

    /// The event before an introspection is answered; `live` is the token if it is valid.
    pub(crate) fn token_introspected(context: &'a AuditContext<'_>, live: Option<&'a OwnToken>) -> Self {
        let claims = live.map(OwnToken::claims);
        Self::TokenIntrospected(Box::new(Decision {
            scope: claims.map(|claims| claims.scope.to_string().into()),
            txn: claims.map(|claims| claims.txn.as_str()),
            sub: claims.map(|claims| claims.sub.as_str()),
            kid: live.map(OwnToken::kid),
            exp: claims.map(|claims| claims.exp),
            active: Some(live.is_some()),
            ..context.decision()
        }))
    }

    /// The event of a request that a flow refused.
    pub(crate) fn refused(endpoint: Endpoint, context: &'a AuditContext<'_>, refusal: &Refusal) -> Self {
        Self::rejected(endpoint, context, refusal.reason(), refusal.description())
    }

    /// The event of a request that was refused before a flow began; `description` is the client's `error_description`.
    pub fn rejected(endpoint: Endpoint, context: &'a AuditContext<'_>, reason: Reason, description: String) -> Self {
        let (error, reason) = (Some(reason.error().as_str()), Some(reason.as_str()));
        let decision = Box::new(Decision { error, reason, cause: Some(description), ..context.decision() });
        match endpoint {
            Endpoint::Token => Self::TokenRefused(decision),
            Endpoint::Introspection => Self::TokenIntrospected(decision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_apply_is_absent_and_members_stand_at_the_top() {
        let context = AuditContext { request_id: "r", ..AuditContext::default() };
        let event = Event::rejected(Endpoint::Token, &context, Reason::ScopeMalformed, "why".into());
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"token_refused","request_id":"r","error":"invalid_scope","reason":"scope_malformed","cause":"why"}"#
        );
    }
}
