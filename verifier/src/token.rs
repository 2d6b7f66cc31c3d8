//! A verified Txn-Token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::claims::{Delayed, Purpose, Scope, TrustDomain, TxnClaims};
use crate::error::VerifyError;
use crate::json::Members;

/// A verified Txn-Token. Only a [`Verifier`](crate::Verifier) creates one.
///
/// It identifies the transaction, not the caller: authenticate the caller by other means, for example mTLS. `Debug`
/// shows neither the token nor its subject.
#[derive(Clone)]
pub struct TxnToken {
    content: Arc<Content>,
    encoded: String,
}

/// The content of a token, which all copies of it share.
pub(crate) struct Content {
    claims: TxnClaims,
    delayed: Option<Delayed>,
}

impl Content {
    /// `claims` must be those of a verified token.
    pub(crate) fn new(claims: TxnClaims) -> Result<Self, VerifyError> {
        let delayed = claims.delayed().map_err(|_| VerifyError::ClaimsInvalid)?;
        Ok(Self { claims, delayed })
    }

    pub(crate) fn claims(&self) -> &TxnClaims {
        &self.claims
    }
}

impl TxnToken {
    /// The caller must have verified `encoded`, and parsed `content` from it.
    pub(crate) fn new(content: Arc<Content>, encoded: &str) -> Self {
        Self { content, encoded: encoded.to_owned() }
    }

    /// Requires that `scope` contains `purpose`, compared byte for byte.
    ///
    /// # Errors
    /// [`VerifyError::ScopeInsufficient`] if it does not.
    pub fn require_scope(&self, purpose: &str) -> Result<(), VerifyError> {
        if self.content.claims.scope.contains(purpose) { Ok(()) } else { Err(VerifyError::ScopeInsufficient) }
    }

    /// Requires that the token was issued for an expired one, at least `min` after that one expired.
    ///
    /// # Errors
    /// [`VerifyError::NotDelayed`] if it was not.
    pub fn require_delayed(&self, min: Duration) -> Result<Delayed, VerifyError> {
        let is_late = |delayed: &Delayed| {
            self.content.claims.iat.checked_sub(delayed.exp).is_some_and(|delay| Duration::from_secs(delay) >= min)
        };
        self.content.delayed.filter(is_late).ok_or(VerifyError::NotDelayed)
    }

    /// `txn`: the transaction ID (RFC 8417 §2.2). Replacement and redemption keep it.
    pub fn transaction(&self) -> &str {
        &self.content.claims.txn
    }

    /// `sub`: the subject of the transaction, unique in the trust domain.
    pub fn subject(&self) -> &str {
        &self.content.claims.sub
    }

    /// `scope`: the purposes of the transaction (RFC 6749 §3.3).
    pub fn scope(&self) -> &Scope {
        &self.content.claims.scope
    }

    /// The values of `scope`; never empty.
    pub fn purposes(&self) -> &[Purpose] {
        self.content.claims.scope.purposes()
    }

    /// `aud`: the trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.content.claims.aud
    }

    /// `iss`: the URL of the Transaction Token Service; `None` if the token does not contain it.
    pub fn issuer(&self) -> Option<&str> {
        self.content.claims.iss.as_deref()
    }

    /// `iat`: when the token was issued, in seconds since the Unix epoch.
    pub fn issued_at(&self) -> u64 {
        self.content.claims.iat
    }

    /// `exp`: when the token expires, in seconds since the Unix epoch; it is valid before this second.
    pub fn expires_at(&self) -> u64 {
        self.content.claims.exp
    }

    /// `nbf`: the first second in which the token is valid, in seconds since the Unix epoch; `None` if the token does
    /// not contain it.
    pub fn not_before(&self) -> Option<u64> {
        self.content.claims.nbf
    }

    /// `req_wl`: the workload that requested this token. Not necessarily the one that presents it.
    pub fn requesting_workload(&self) -> &str {
        &self.content.claims.req_wl
    }

    /// `req_wl_chain`: every workload that requested a token of this transaction, oldest first. Empty in the first token
    /// of a transaction.
    pub fn requesting_workloads(&self) -> &[String] {
        &self.content.claims.req_wl_chain
    }

    /// The member `name` of `tctx`, the transaction details, which never change. `None` if there is no such member, or
    /// if it is not a `T`: treat this as not allowed, never as unlimited.
    pub fn tctx<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.content.claims.tctx.get(name)
    }

    /// All members of `tctx`.
    pub fn tctx_members(&self) -> &Members {
        &self.content.claims.tctx
    }

    /// The member `name` of `rctx`, the context of the request. `None` if there is no such member, or if it is not a `T`.
    pub fn rctx<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.content.claims.rctx.get(name)
    }

    /// All members of `rctx`.
    pub fn rctx_members(&self) -> &Members {
        &self.content.claims.rctx
    }

    /// `rctx.delayed`: facts about the expired token that was redeemed for this one; `None` in other tokens.
    pub fn delayed(&self) -> Option<Delayed> {
        self.content.delayed
    }

    /// All claims.
    pub fn claims(&self) -> &TxnClaims {
        &self.content.claims
    }

    /// The token as received. Send it unchanged in the `Txn-Token` header of every call of the transaction, only inside
    /// the trust domain. Never log it.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
}

impl fmt::Debug for TxnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnToken")
            .field("txn", &self.content.claims.txn)
            .field("req_wl", &self.content.claims.req_wl)
            .field("scope", &self.content.claims.scope)
            .field("exp", &self.content.claims.exp)
            .finish_non_exhaustive()
    }
}
