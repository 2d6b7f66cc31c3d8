//! Verification errors with their reason codes and HTTP status codes.

use crate::jwks::NoKey;
use crate::remote::KeyError;

/// Why a Txn-Token is refused, or does not authorize the operation. The texts contain nothing of the token but `exp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The header value is not exactly one compact JWS (RFC 7515 §7.1) of at most [`TOKEN_MAX`](crate::TOKEN_MAX) bytes
    /// with an acceptable header.
    #[error("the Txn-Token is malformed")]
    Malformed,
    /// `typ` is not `txntoken+jwt`: another kind of JWT (TT §9.1, RFC 8725 §3.11).
    #[error("the token is not a Txn-Token")]
    TypeWrong,
    /// The Transaction Token Service publishes no key with this `kid`; or the token has no `kid`, and the service
    /// publishes several keys.
    #[error("the Txn-Token is signed with an unknown key")]
    KeyUnknown,
    /// The keys cannot be fetched. The token may be valid; a later attempt may succeed.
    #[error("the keys of the Transaction Token Service cannot be fetched")]
    KeysUnavailable,
    /// The signature is invalid, or `alg` is not the algorithm of the key (RFC 8725 §3.1).
    #[error("the signature of the Txn-Token is not valid")]
    SignatureInvalid,
    /// A claim is missing or has the wrong type (TT §9.2).
    #[error("the claims of the Txn-Token are not valid")]
    ClaimsInvalid,
    /// `aud` is not the trust domain of this verifier.
    #[error("the Txn-Token is for another trust domain")]
    AudienceMismatch,
    /// `iss` is not the configured issuer, or is missing although it is required.
    #[error("the Txn-Token is from another issuer")]
    IssuerMismatch,
    /// `exp` and the leeway have passed.
    #[error("the Txn-Token expired at {expired_at}")]
    Expired {
        /// `exp` of the token, in seconds since the Unix epoch.
        expired_at: u64,
    },
    /// `iat` or `nbf` is further in the future than the permitted clock skew.
    #[error("the Txn-Token is not valid yet")]
    NotYetValid,
    /// The single-use check found an earlier use ([`SingleUse`](crate::SingleUse)).
    #[error("the Txn-Token was already used")]
    Replayed,
    /// The token is valid, but `scope` does not contain the purpose.
    #[error("the Txn-Token is not for this purpose")]
    ScopeInsufficient,
    /// The token is valid, but was not redeemed for an expired one, or was redeemed too early.
    #[error("the Txn-Token does not come from a delayed redemption, or was redeemed too early")]
    NotDelayed,
}

impl VerifyError {
    /// A stable, machine-readable code for logs, metrics and responses.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::TypeWrong => "token_type_wrong",
            Self::KeyUnknown => "token_key_unknown",
            Self::KeysUnavailable => "keys_unavailable",
            Self::SignatureInvalid => "token_signature_invalid",
            Self::ClaimsInvalid => "token_claims_invalid",
            Self::AudienceMismatch => "token_audience_mismatch",
            Self::IssuerMismatch => "token_issuer_mismatch",
            Self::Expired { .. } => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Replayed => "token_replayed",
            Self::ScopeInsufficient => "scope_insufficient",
            Self::NotDelayed => "token_not_delayed",
        }
    }

    /// The HTTP status of the response: 401 for an invalid token, 403 for a valid token that does not authorize the
    /// operation, 503 if the keys are unavailable.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::ScopeInsufficient | Self::NotDelayed => 403,
            Self::KeysUnavailable => 503,
            _ => 401,
        }
    }
}

impl From<KeyError> for VerifyError {
    fn from(error: KeyError) -> Self {
        match error {
            // Writ publishes a key before it signs with it, so even the last fetch proves that the key is unknown.
            KeyError::Unknown | KeyError::CoolingDown { .. } => Self::KeyUnknown,
            KeyError::Unfit => Self::SignatureInvalid,
            KeyError::Unavailable => Self::KeysUnavailable,
        }
    }
}

impl From<NoKey> for VerifyError {
    fn from(no_key: NoKey) -> Self {
        KeyError::from(no_key).into()
    }
}
