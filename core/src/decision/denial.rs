//! The reasons for which policy refuses a request.

use writ_platform::clock::Timestamp;

use crate::policy::mapping::Rejection;

/// Why policy refuses a request. The texts go to the client, so they contain nothing that only the policy knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The same whether or not another client's policy has the purpose.
    #[error("a requested purpose is not allowed for this client")]
    PurposeNotAllowed,
    /// A requested purpose accepts subject tokens of other kinds only.
    #[error("this kind of subject token is not accepted for a requested purpose")]
    SourceNotAllowed,
    /// The subject token names an actor, which a Txn-Token cannot express, and a requested purpose does not ignore that.
    #[error(
        "the subject token has the claim `act`: an actor acts for its subject, which a Txn-Token cannot express; \
         present a token of the subject alone, or have `actors = 'ignore'` set for each requested purpose"
    )]
    ActorNotAllowed,
    /// The subject does not match a pattern in `subjects`.
    #[error("this client may not act for this subject")]
    SubjectNotAllowed,
    /// Neither the subject token nor the settings of its issuer state its scope.
    #[error("the subject token does not say what it covers")]
    ScopeUnknown,
    /// The subject token covers less than is requested.
    #[error("the subject token does not cover a requested purpose")]
    ScopeExceedsSubjectToken,
    /// Request details or context are not accepted.
    #[error(transparent)]
    DetailsRejected(#[from] Rejection),
    /// The subject token lacks a claim that the policy copies into `tctx`.
    #[error("the subject token lacks a claim that a requested purpose needs")]
    ClaimMissing,
    /// A claim that the policy copies into `tctx`, or the content of a presented Txn-Token, exceeds what verifiers accept.
    #[error("a claim of the subject token is nested too deeply, or too large, for the requested token")]
    ClaimUnreadable,
    /// `when` is not true.
    #[error("the condition of a requested purpose does not hold")]
    ConditionFailed,
    /// The token was replaced as often as is allowed, or its transaction is too old for another one.
    #[error("the token has reached its replacement limit; begin a new transaction")]
    ReplacementLimit,
    /// A redemption carries details and context over from the token: new ones are not accepted.
    #[error("{0} is not supported on a redemption")]
    UnsupportedOnRedemption(&'static str),
    /// The token is not one that this client may redeem.
    #[error("this token may not be redeemed by this client")]
    RedemptionNotAllowed,
    /// `min_age` has not passed.
    #[error("the token may be redeemed from {redeemable_at} on")]
    RedemptionTooEarly {
        /// The first second in which it may be redeemed.
        redeemable_at: Timestamp,
    },
    /// `max_age` has passed.
    #[error("the token expired at {expired_at}, too long ago to be redeemed")]
    RedemptionTooOld {
        /// `exp` of the token.
        expired_at: Timestamp,
    },
}
