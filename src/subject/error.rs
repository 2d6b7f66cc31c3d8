//! Why a subject token proves nothing.

use std::time::Duration;

use crate::clock::Timestamp;

/// Why a subject token proves nothing. Texts repeat nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
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
    #[error("the issuer of the subject token says that it is not active")]
    Inactive,
    /// A claim is missing, has the wrong type, or says what cannot be.
    #[error("the claims of the subject token are not acceptable: {0}")]
    ClaimsInvalid(&'static str),
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
