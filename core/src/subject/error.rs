//! Why a subject token is not accepted.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use writ_platform::clock::Timestamp;

/// The fault of a subject token; each has its own `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectFault {
    /// Not a token of the declared type.
    #[error("the subject token is malformed")]
    Malformed,
    /// Not from a configured subject issuer, or not a kind of token that it issues.
    #[error("the issuer of the subject token is not known here")]
    IssuerUnknown,
    /// Signed with a key that the issuer does not publish.
    #[error("the key that signed the subject token is not known")]
    KeyUnknown,
    /// The signature does not fit the key.
    #[error("the signature of the subject token is not valid")]
    SignatureInvalid,
    /// Intended for another audience.
    #[error("the subject token is not meant for this service")]
    AudienceMismatch,
    /// Past its expiry.
    #[error("the subject token expired at {expired_at}")]
    Expired {
        /// Its `exp`, rounded down.
        expired_at: Timestamp,
    },
    /// `nbf` or `iat` is in the future.
    #[error("the subject token is not valid yet")]
    NotYetValid,
    /// Introspection does not say that it is active.
    #[error("the issuer of the subject token does not confirm that it is active")]
    Inactive,
    /// A claim is missing, has the wrong type, or an impossible value.
    #[error("the claims of the subject token are not acceptable")]
    ClaimsInvalid,
    /// The key that signed this Txn-Token was revoked, or is past its retention; reported to clients that may redeem.
    #[error("the key that signed this Txn-Token no longer allows redemption")]
    KeyGone,
    /// The token came from a redemption, so it can be neither redeemed nor replaced.
    #[error("a redeemed Txn-Token can be neither redeemed nor replaced")]
    Redeemed,
    /// The issuer's keys or its introspection endpoint cannot be reached. The token may be valid.
    #[error("the issuer of the subject token cannot be reached")]
    IssuerUnavailable,
    /// The key may have been published since the last fetch, and it is too soon for another one.
    #[error(
        "the key of the subject token is not among those that its issuer published at last; it is too soon to ask again"
    )]
    KeyNotFetchedYet {
        /// The time until the keys can be fetched again.
        retry_after: Duration,
    },
}

/// A fault with its detail. Texts name well-known claims and members and contain nothing else of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectError {
    fault: SubjectFault,
    /// The detail; empty if the fault says everything.
    why: Cow<'static, str>,
}

impl SubjectFault {
    /// Adds `why` as the detail.
    pub(crate) const fn because(self, why: &'static str) -> SubjectError {
        SubjectError { fault: self, why: Cow::Borrowed(why) }
    }

    /// As [`because`](Self::because), with a formatted text.
    pub(crate) const fn because_of(self, why: String) -> SubjectError {
        SubjectError { fault: self, why: Cow::Owned(why) }
    }
}

impl SubjectError {
    /// The fault without its detail.
    pub const fn fault(&self) -> SubjectFault {
        self.fault
    }
}

impl From<SubjectFault> for SubjectError {
    fn from(fault: SubjectFault) -> Self {
        fault.because("")
    }
}

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, why } = self;
        if why.is_empty() { write!(f, "{fault}") } else { write!(f, "{fault}: {why}") }
    }
}

impl std::error::Error for SubjectError {}
