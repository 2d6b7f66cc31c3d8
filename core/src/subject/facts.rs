//! The facts about a subject that a decision needs, verified or not.

use std::sync::Arc;

use writ_verifier::{Members, Scope, TxnClaims};

use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// A subject that a decision can be made on: a [`VerifiedSubject`](super::VerifiedSubject), whose grant leads to a token,
/// or a [`TrialSubject`](super::TrialSubject), whose grant does not. No other type implements it.
pub trait AnySubject: sealed::Subject {
    /// The type of a presented Txn-Token, by which the type of a grant shows whether its subject was verified.
    type TxnToken: AnyTxnToken;

    /// The kind of proof, as policies name it.
    fn source(&self) -> Source;

    /// The facts that policies decide on. They no longer prove anything.
    fn into_facts(self) -> SubjectFacts<Self::TxnToken>;
}

/// A Txn-Token that was presented: an [`OwnToken`](super::OwnToken), which was verified, or a
/// [`TrialTxnToken`](super::TrialTxnToken). No other type implements it.
pub trait AnyTxnToken: sealed::TxnToken {
    /// The claims of the token.
    fn claims(&self) -> &TxnClaims;

    /// Converts the token into its claims.
    fn into_claims(self) -> TxnClaims;

    /// Whether it has not expired.
    fn is_alive(&self) -> bool;
}

/// Prevents other crates from implementing the traits.
pub(super) mod sealed {
    pub trait Subject {}
    pub trait TxnToken {}
}

/// The facts that policies decide on. `T` is the type of a presented Txn-Token.
#[derive(Debug)]
pub enum SubjectFacts<T> {
    /// The client itself.
    Client,
    /// The subject that the client names (`requested_subject`).
    Named(Subject),
    /// The subject that the client vouches for.
    Asserted(Statement),
    /// The subject of a token of a subject issuer.
    Outside {
        /// The content of the token.
        statement: Statement,
        /// The scope that the token covers, by its own claim or its issuer's settings.
        scope: Option<Scope>,
    },
    /// The subject of a Txn-Token of this service.
    TxnToken(Box<T>),
}

/// The content of a subject token, except its scope. It proves nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The kind of token.
    pub source: Source,
    /// Unique in the trust domain.
    pub sub: Subject,
    /// All claims, verbatim; for an opaque token the members of the issuer's reply.
    pub claims: Arc<Members>,
    /// The first second in which it is no longer valid; `None` if it has no end.
    pub usable_until: Option<Timestamp>,
    /// The identifier that issuing a token uses up.
    pub single_use: Option<SingleUse>,
}

/// A single-use identifier: a client's `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUse {
    /// SHA-256 over client and `jti`.
    pub id: [u8; 32],
    /// `iat` of the token.
    pub made: Timestamp,
    /// The first second in which the token has expired, so that the id need not be stored.
    pub keep_until: Timestamp,
}
