//! What a client presents → the subject of the transaction, verified.
//!
//! In: [`Presented`](crate::request::Presented), as received. Out: a [`VerifiedSubject`], which only a completed
//! verification makes. A [`TrialSubject`] was never verified: it is for trials of policies, which sign nothing.

mod asserted;
mod error;
mod facts;
#[cfg(test)]
mod fixtures;
pub mod introspection;
mod issued_jwt;
pub mod issuers;
pub mod jwt;
pub mod members;
mod opaque;
mod outside;
pub mod own_token;
mod self_signed;
pub mod settings;
mod times;
mod trial;
mod unsigned_json;
mod verified;

pub use asserted::AssertedSubject;
pub use error::{SubjectError, SubjectFault};
pub use facts::{AnySubject, AnyTxnToken, SingleUse, Statement, SubjectFacts};
pub use outside::OutsideToken;
pub use own_token::OwnToken;
pub use trial::{TrialPresenter, TrialSubject, TrialTxnToken};
pub use verified::{SubjectKind, VerificationContext, VerifiedSubject};
