//! What was presented → whom the transaction is for.
//!
//! In: [`Presented`](crate::request::Presented), as received. Out: [`VerifiedSubject`], which only a finished
//! verification makes. (What is called `supposed` was never verified: it is for trials of policies, which sign nothing.)

mod asserted;
pub mod error;
pub mod introspection;
pub mod issued_jwt;
pub mod issuers;
pub mod opaque;
pub mod outside;
pub mod own_token;
pub mod self_signed;
pub mod unsigned_json;

pub use asserted::{AssertedSubject, SingleUse};
pub use error::{SubjectError, SubjectFault};
pub use outside::{OutsideToken, SupposedBy};
pub use own_token::OwnToken;

use crate::request::{Source, Subject};

/// Whom the transaction is for, as proven.
#[derive(Debug)]
pub enum VerifiedSubject {
    /// The client itself: its certificate is the proof.
    Client,
    /// Whom the client names; its policy says whether it may.
    Named(Subject),
    /// Whom the client vouches for, by its signature or its word.
    Asserted(AssertedSubject),
    /// The subject of an issuer's token.
    Outside(OutsideToken),
    /// The subject of a Txn-Token of ours, alive or expired.
    Own(Box<OwnToken>),
}

impl VerifiedSubject {
    /// The kind of proof, as policies name it.
    pub fn source(&self) -> Source {
        match self {
            Self::Client | Self::Named(_) => Source::ClientCredentials,
            Self::Asserted(asserted) => asserted.source(),
            Self::Outside(token) => token.source(),
            Self::Own(token) if token.alive => Source::TxnToken,
            Self::Own(_) => Source::ExpiredTxnToken,
        }
    }

    /// Whether it says that somebody acts for the subject (`act`, RFC 8693 §4.1). A Txn-Token never does.
    pub fn names_actor(&self) -> bool {
        match self {
            Self::Client | Self::Named(_) | Self::Own(_) => false,
            Self::Asserted(asserted) => asserted.claims().raw("act").is_some(),
            Self::Outside(token) => token.claims().raw("act").is_some(),
        }
    }
}
