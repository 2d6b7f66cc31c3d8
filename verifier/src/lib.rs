//! Verifies Txn-Tokens (draft-ietf-oauth-transaction-tokens) locally, with the keys that the Transaction Token Service
//! publishes.
//!
//! A downstream service creates one [`Verifier`], shares it, and passes it the value of the `Txn-Token` header of each
//! request. The result is a [`TxnToken`] with typed claims, or a [`VerifyError`] with a reason code and an HTTP status.
//! The keys are fetched when they are first needed and then cached: no request waits for the network while a cached
//! key verifies its token.
//!
//! ```no_run
//! use writ_verifier::{Verifier, VerifyError};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ca = std::fs::read("certs/ca.pem")?;
//! let verifier = Verifier::builder("trust-domain.example")
//!     .jwks_url("https://tts.trust-domain.example:8444/.well-known/jwks.json")
//!     .root_certificate_pem(&ca)?
//!     .build()?;
//!
//! async fn deliver(verifier: &Verifier, header_value: &str) -> Result<(), VerifyError> {
//!     let txn = verifier.verify(header_value).await?;
//!     txn.require_scope("mailbox.deliver")?;
//!     // … deliver for `txn.subject()`, and send `txn.encoded()` with every call downstream.
//!     Ok(())
//! }
//! # let _ = deliver(&verifier, "");
//! # Ok(())
//! # }
//! ```
//!
//! The same with fixed keys and a fixed time, as in a test:
//!
//! ```
//! use std::time::{Duration, UNIX_EPOCH};
//! use writ_verifier::{Verifier, VerifyError, jwks::KeySet};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let jwks = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig",
//!     "x": "7T-ZdjU9rCDASYXGGvNDfCbV3_k1-2DO8rPArCgoLEY", "y": "U5X3fxfQOWo68usFfzonZFCb6GOJOE1VpB1QnbRJ968"}]}"#;
//! let token = concat!(
//!     "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsxIiwidHlwIjoidHhudG9rZW4rand0In0.eyJhdWQiOiJ0cnVzdC1kb21haW4uZXhhbXBsZSIsImV4",
//!     "cCI6MTc5MzAwMDA2MCwiaWF0IjoxNzkzMDAwMDAwLCJyZXFfd2wiOiJtYWlsLWRlbGl2ZXJ5LWFnZW50Iiwic2NvcGUiOiJtYWlsYm94LmRl",
//!     "bGl2ZXIiLCJzdWIiOiJ1c2VyLTE3IiwidGN0eCI6eyJzaXplIjoyMDQ4fSwidHhuIjoiMDE5YTFmNmUtMmQzYy03YjQ1LThjMWEtM2YyZTlk",
//!     "N2I2YTUwIn0.6sWUITpX7fWp1ILJiOVgSIgcGTW3x8hgM0ZB5QqQjYp7GYA5PzU2OMGyQ34vQ7TJm_w3GxK1B_BNoqYhO-vGtw",
//! );
//! let verifier = Verifier::builder("trust-domain.example").jwks_json(jwks).build()?;
//! let keys = KeySet::parse(jwks.as_bytes())?;
//!
//! let issued = UNIX_EPOCH + Duration::from_secs(1_793_000_000);
//! let txn = verifier.verify_at(token, &keys, issued)?;
//! assert_eq!(txn.subject(), "user-17");
//! assert_eq!(txn.tctx::<u64>("size"), Some(2048));
//! assert!(txn.require_scope("mailbox.deliver").is_ok());
//! assert_eq!(txn.require_scope("mailbox.delete"), Err(VerifyError::ScopeInsufficient));
//!
//! let later = verifier.verify_at(token, &keys, issued + Duration::from_secs(60));
//! assert_eq!(later.unwrap_err().reason(), "token_expired");
//! # Ok(())
//! # }
//! ```
//!
//! # What the caller must do
//!
//! - Authenticate the caller of a request by other means: a Txn-Token identifies a transaction, not the caller. Never
//!   take a Txn-Token from `Authorization`, a query or a body.
//! - Refuse a request with more than one `Txn-Token` header before you verify its value.
//! - In a queue or in RPC metadata, send the token under the key `txn-token`, by the same rules. A queued token has
//!   often expired when it is read: then only a client that may redeem it can use it, and this crate refuses it.
//! - Forward the token unchanged inside the trust domain, and remove the header at its edges, in both directions.
//!
//! # Modules
//!
//! [`jwks`] parses key sets, [`remote`] fetches and caches them, [`jws`], [`json`] and [`pem`] are strict parsers,
//! [`cache`] remembers verified tokens, and [`claims`] defines the token format. They are public because Writ uses them
//! for the tokens of other issuers.
//!
//! In the documentation, TT is draft-ietf-oauth-transaction-tokens-11.
#![deny(missing_docs)]

pub mod cache;
pub mod claims;
mod error;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod pem;
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
