//! A Txn-Token that has been verified.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::claims::{Delayed, Purpose, Scope, TrustDomain, TxnClaims};
use crate::error::VerifyError;
use crate::json::Members;

/// A verified Txn-Token; there is none that was not verified.
///
/// It says what the transaction is, not who calls: authenticate the caller by other means, mTLS for instance.
#[derive(Clone)]
pub struct TxnToken {
    claims: TxnClaims,
    delayed: Option<Delayed>,
    encoded: String,
}

impl TxnToken {
    /// `encoded` must have been verified, and hold `claims`.
    pub(crate) fn new(claims: TxnClaims, encoded: &str) -> Result<Self, VerifyError> {
        let delayed = claims.delayed().map_err(|_| VerifyError::ClaimsInvalid)?;
        Ok(Self { claims, delayed, encoded: encoded.to_owned() })
    }

    /// Takes only a token for this purpose, compared byte for byte.
    ///
    /// # Errors
    /// [`VerifyError::ScopeInsufficient`]
    pub fn require_scope(&self, purpose: &str) -> Result<(), VerifyError> {
        if self.claims.scope.contains(purpose) { Ok(()) } else { Err(VerifyError::ScopeInsufficient) }
    }

    /// Takes only a token that was redeemed for an expired one, at least `min` after that one's expiry.
    ///
    /// # Errors
    /// [`VerifyError::NotDelayed`]
    pub fn require_delayed(&self, min: Duration) -> Result<Delayed, VerifyError> {
        let late = |delayed: &Delayed| {
            self.claims.iat.checked_sub(delayed.exp).is_some_and(|delay| Duration::from_secs(delay) >= min)
        };
        self.delayed.filter(late).ok_or(VerifyError::NotDelayed)
    }

    /// `txn`: the transaction, the same through every replacement and redemption.
    pub fn transaction(&self) -> &str {
        &self.claims.txn
    }

    /// `sub`: whom the transaction is for; unique in the trust domain.
    pub fn subject(&self) -> &str {
        &self.claims.sub
    }

    /// `scope`: the purposes of the transaction.
    pub fn scope(&self) -> &Scope {
        &self.claims.scope
    }

    /// The purposes one by one; never none.
    pub fn purposes(&self) -> &[Purpose] {
        self.claims.scope.purposes()
    }

    /// `aud`: the trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.claims.aud
    }

    /// `iss`: the service that issued it, if it says so.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.iss.as_deref()
    }

    /// `iat`: when it was issued, epoch seconds.
    pub fn issued_at(&self) -> u64 {
        self.claims.iat
    }

    /// `exp`: the first second in which it is not valid any more, epoch seconds.
    pub fn expires_at(&self) -> u64 {
        self.claims.exp
    }

    /// `nbf`: the first second in which it is valid, if it says so; epoch seconds.
    pub fn not_before(&self) -> Option<u64> {
        self.claims.nbf
    }

    /// `req_wl`: the workload that asked for this token. Not necessarily the one that presents it.
    pub fn requesting_workload(&self) -> &str {
        &self.claims.req_wl
    }

    /// `req_wl_chain`: every workload that asked for a token of this transaction, oldest first; empty on the first.
    pub fn requesting_workloads(&self) -> &[String] {
        &self.claims.req_wl_chain
    }

    /// The member `name` of `tctx`, the details that never change. `None` if there is none or it is no `T`: treat that
    /// as not allowed, never as unlimited.
    pub fn tctx<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.claims.tctx.get(name)
    }

    /// All of `tctx`.
    pub fn tctx_members(&self) -> &Members {
        &self.claims.tctx
    }

    /// The member `name` of `rctx`, the circumstances of the request. `None` if there is none or it is no `T`.
    pub fn rctx<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.claims.rctx.get(name)
    }

    /// All of `rctx`.
    pub fn rctx_members(&self) -> &Members {
        &self.claims.rctx
    }

    /// `rctx.delayed`: the expired token that was redeemed for this one.
    pub fn delayed(&self) -> Option<Delayed> {
        self.delayed
    }

    /// The claims as a whole.
    pub fn claims(&self) -> &TxnClaims {
        &self.claims
    }

    /// The token as it came, for the `Txn-Token` header of every call that belongs to the transaction: to be passed on
    /// byte for byte, inside the trust domain only, and never logged.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
}

/// Neither the token nor whom it is for.
impl fmt::Debug for TxnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnToken")
            .field("txn", &self.claims.txn)
            .field("req_wl", &self.claims.req_wl)
            .field("scope", &self.claims.scope)
            .field("exp", &self.claims.exp)
            .finish_non_exhaustive()
    }
}
