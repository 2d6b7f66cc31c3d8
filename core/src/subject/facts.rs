//! What a decision reads of a subject, verified or not.

use writ_verifier::{Members, Scope, TxnClaims};

use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// A subject that a decision can be made on: a [`VerifiedSubject`](super::VerifiedSubject), whose grant leads to a token,
/// or a [`TrialSubject`](super::TrialSubject), whose grant does not. No other type implements it.
pub trait AnySubject: sealed::Subject {
    /// A Txn-Token that was presented. The type of a grant tells by it whether its subject was verified.
    type TxnToken: AnyTxnToken;

    /// The kind of proof, as policies name it.
    fn source(&self) -> Source;

    /// Everything that policies decide on. It proves nothing any more.
    fn into_facts(self) -> SubjectFacts<Self::TxnToken>;
}

/// A Txn-Token that was presented: an [`OwnToken`](super::OwnToken), which was verified, or a
/// [`TrialTxnToken`](super::TrialTxnToken). No other type implements it.
pub trait AnyTxnToken: sealed::TxnToken {
    /// Its claims.
    fn claims(&self) -> &TxnClaims;

    /// Its claims, without a copy.
    fn into_claims(self) -> TxnClaims;

    /// Whether it has not expired.
    fn is_alive(&self) -> bool;
}

/// Keeps other crates from adding a subject of their own.
pub(super) mod sealed {
    pub trait Subject {}
    pub trait TxnToken {}
}

/// What policies decide on. `T` is the type of a presented Txn-Token.
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
        /// What the token says.
        statement: Statement,
        /// What the token covers, by its own word or its issuer's settings.
        scope: Option<Scope>,
    },
    /// The subject of a Txn-Token of ours.
    TxnToken(Box<T>),
}

/// What a subject token says, apart from its scope. Nothing is proven by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The kind of token.
    pub source: Source,
    /// Unique in the trust domain.
    pub sub: Subject,
    /// All claims, as written; of an opaque token the members of the issuer's reply.
    pub claims: Members,
    /// The first second in which it proves nothing any more; `None` if it does not end.
    pub usable_until: Option<Timestamp>,
    /// Spent when a token is issued for it.
    pub single_use: Option<SingleUse>,
}

/// What can be used once: a client's `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUse {
    /// SHA-256 over client and `jti`.
    pub id: [u8; 32],
    /// `iat` of the token.
    pub made: Timestamp,
    /// The first second in which the token has expired, so that the id need not be kept.
    pub keep_until: Timestamp,
}
