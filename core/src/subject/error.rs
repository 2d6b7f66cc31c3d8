//! Why a subject token is not accepted.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use writ_platform::clock::Timestamp;

/// What is wrong with a subject token; each fault has a `reason` of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectFault {
    /// Not a token of the declared type.
    #[error("the subject token is malformed")]
    Malformed,
    /// Not from a configured subject issuer, or not of a kind that it issues.
    #[error("the issuer of the subject token is not known here")]
    IssuerUnknown,
    /// Signed with a key that its issuer does not publish.
    #[error("the key that signed the subject token is not known")]
    KeyUnknown,
    /// The signature does not fit the key.
    #[error("the signature of the subject token is not valid")]
    SignatureInvalid,
    /// Meant for another service.
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
    #[error("the key that signed this Txn-Token serves no redemption any more")]
    KeyGone,
    /// A token that came from a redemption: it can be neither redeemed nor replaced.
    #[error("a redeemed Txn-Token can be neither redeemed nor replaced")]
    Redeemed,
    /// Neither keys nor introspection can be had from the issuer; the token may well be valid.
    #[error("the issuer of the subject token cannot be reached")]
    IssuerUnavailable,
    /// The key may have been published since the keys were fetched last, and it is too soon to fetch them again.
    #[error(
        "the key of the subject token is not among those that its issuer published at last; it is too soon to ask again"
    )]
    KeyNotFetchedYet {
        /// When they can be fetched again.
        retry_after: Duration,
    },
}

/// A fault, and what exactly is wrong. Texts name well-known claims and members and repeat nothing else of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectError {
    fault: SubjectFault,
    /// Empty if the fault says everything.
    why: Cow<'static, str>,
}

impl SubjectFault {
    /// `why` follows the text of the fault.
    pub const fn because(self, why: &'static str) -> SubjectError {
        SubjectError { fault: self, why: Cow::Borrowed(why) }
    }

    /// As [`because`](Self::because), with a text that is made for the case.
    pub(crate) const fn because_of(self, why: String) -> SubjectError {
        SubjectError { fault: self, why: Cow::Owned(why) }
    }
}

impl SubjectError {
    /// Without what exactly is wrong.
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
