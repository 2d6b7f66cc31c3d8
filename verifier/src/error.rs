//! Why a Txn-Token is not taken.

use crate::jwks::NoKey;
use crate::remote::KeyError;

/// Why a Txn-Token is not taken, or does not allow what is asked of it. Texts repeat nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The header value is not exactly one compact JWS with an acceptable header.
    #[error("the Txn-Token is malformed")]
    Malformed,
    /// `typ` is not `txntoken+jwt`: some other kind of JWT (RFC 8725 §3.11).
    #[error("the token is not a Txn-Token")]
    TypeWrong,
    /// The service publishes no such key.
    #[error("the key that signed the Txn-Token is not known")]
    KeyUnknown,
    /// The keys cannot be had; the token may well be good.
    #[error("the keys of the Transaction Token Service cannot be fetched")]
    KeysUnavailable,
    /// The signature, or its algorithm, does not fit the key.
    #[error("the signature of the Txn-Token is not valid")]
    SignatureInvalid,
    /// A claim is missing or of the wrong type.
    #[error("the claims of the Txn-Token are not acceptable")]
    ClaimsInvalid,
    /// For another trust domain.
    #[error("the Txn-Token is for another trust domain")]
    AudienceMismatch,
    /// From another issuer than the configured one; or from none that is named, where one must be.
    #[error("the Txn-Token is from another issuer")]
    IssuerMismatch,
    /// Past its expiry.
    #[error("the Txn-Token expired at {expired_at}")]
    Expired {
        /// Its `exp`, epoch seconds.
        expired_at: u64,
    },
    /// `iat` or `nbf` lies further ahead than clocks may differ.
    #[error("the Txn-Token is not valid yet")]
    NotYetValid,
    /// Single use is asked for, and it was used before.
    #[error("the Txn-Token was used before")]
    Replayed,
    /// The token is good, but not for this purpose.
    #[error("the Txn-Token is not for this purpose")]
    ScopeInsufficient,
    /// The token is good, but was not redeemed late enough, or not redeemed at all.
    #[error("the Txn-Token does not come from a delayed redemption, or comes too early")]
    NotDelayed,
}

impl VerifyError {
    /// A stable, machine-readable code, for logs, metrics and answers.
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

    /// The HTTP status to answer with: 401 for a token that is not good, 403 for a good one that does not allow this,
    /// 503 where it cannot be told.
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
            // Of a key that was published before it signed, as Writ's are, the last fetch tells.
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
