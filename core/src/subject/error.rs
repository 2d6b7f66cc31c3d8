//! Why a subject token proves nothing.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use writ_platform::clock::Timestamp;

/// What kind of fault a subject token has; each has a code of its own.
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
    /// Meant for somebody else.
    #[error("the subject token is not meant for this service")]
    AudienceMismatch,
    /// Past its expiry.
    #[error("the subject token expired at {expired_at}")]
    Expired {
        /// Its `exp`, rounded down.
        expired_at: Timestamp,
    },
    /// Its time has not come.
    #[error("the subject token is not valid yet")]
    NotYetValid,
    /// Its issuer, which was asked, does not call it active.
    #[error("the issuer of the subject token does not confirm that it is active")]
    Inactive,
    /// A claim is missing, has the wrong type, or says what cannot be.
    #[error("the claims of the subject token are not acceptable")]
    ClaimsInvalid,
    /// The key that signed this Txn-Token was revoked, or is past its retention; said to clients that may redeem.
    #[error("the key that signed this Txn-Token serves no redemption any more")]
    KeyGone,
    /// A token that came from a redemption: it can be neither redeemed nor replaced.
    #[error("a redeemed Txn-Token can be neither redeemed nor replaced")]
    Redeemed,
    /// The issuer could not be asked, for its keys or about the token; the token may well be good.
    #[error("the issuer of the subject token cannot be reached")]
    IssuerUnavailable,
    /// The key may have been published since the keys were fetched last, and it is too soon to fetch them again.
    #[error(
        "the key of the subject token is not among those that its issuer published at last; it is too soon to ask again"
    )]
    KeyNotFetchedYet {
        /// After this time they are.
        retry_after: Duration,
    },
}

/// Why a subject token proves nothing: the kind of fault, and what exactly is wrong. Texts name claims and members that
/// are known here and repeat nothing else of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectError {
    fault: SubjectFault,
    /// Empty where the fault says it all.
    why: Cow<'static, str>,
}

impl SubjectFault {
    /// The fault with what exactly is wrong.
    pub const fn because(self, why: &'static str) -> SubjectError {
        SubjectError { fault: self, why: Cow::Borrowed(why) }
    }

    /// The same where the text is made up for the case.
    pub const fn because_of(self, why: String) -> SubjectError {
        SubjectError { fault: self, why: Cow::Owned(why) }
    }
}

impl SubjectError {
    /// The kind of fault.
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
