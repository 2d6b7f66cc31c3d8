//! What was presented → whom the transaction is for.

pub mod error;
pub mod issued_jwt;
pub mod issuers;

pub use error::SubjectError;
