//! Verifies the Txn-Tokens that Writ issues, on its own and fast, with the keys that the service publishes.

pub mod claims;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod remote;

pub use claims::{Delayed, NameError, Purpose, Scope, TrustDomain, TxnClaims};
pub use json::Members;
