//! Verifies the Txn-Tokens that Writ issues, on its own and fast, with the keys that the service publishes.
#![deny(missing_docs)]

pub mod claims;
mod error;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod remote;
#[cfg(test)]
#[path = "../tests/common/signer.rs"]
#[expect(unreachable_pub, dead_code, reason = "shared with the tests in tests/")]
mod signer;
mod single_use;
mod token;
mod verifier;

pub use claims::{Delayed, NameError, Purpose, Scope, TrustDomain, TxnClaims};
pub use error::VerifyError;
pub use json::Members;
pub use single_use::SingleUse;
pub use token::TxnToken;
pub use verifier::{BuildError, Builder, LEEWAY_MAX, TOKEN_MAX, Verifier};
