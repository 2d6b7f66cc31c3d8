//! Verifies the Txn-Tokens that Writ issues, on its own and fast, with the keys that the service publishes.
//!
//! A downstream service makes one [`Verifier`], shares it, and hands it the value of the `Txn-Token` header of each
//! request. What comes back is a [`TxnToken`] with typed claims, or a [`VerifyError`] that says which status to answer
//! with. The keys are fetched when they are first needed and then kept: no request waits for the network while a key
//! in memory serves.
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
//!     // … deliver for `txn.subject()`, and pass `txn.encoded()` on with every call that this needs.
//!     Ok(())
//! }
//! # let _ = deliver(&verifier, "");
//! # Ok(())
//! # }
//! ```
//!
//! The same with keys and an instant of one's own, as a test would do it:
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
//! # What a verifier cannot do for you
//!
//! - A Txn-Token says what a transaction is, not who calls. Authenticate the caller by other means, and never take a
//!   Txn-Token from `Authorization`, a query or a body.
//! - A request with more than one `Txn-Token` header is to be refused before its value gets here.
//! - In a queue or in RPC metadata the token travels under the key `txn-token`, by the same rules. What was parked has
//!   often expired when it is read: then it is for the client that may redeem it, and no good here.
//! - Pass the token on byte for byte inside the trust domain, and remove the header at its edges, in both directions.
//!
//! # Rooms
//!
//! [`jwks`] reads key sets, [`remote`] fetches and keeps them, [`jws`] and [`json`] read strictly, [`claims`] is the
//! format. They are public because Writ itself reads the tokens of others with them.
#![deny(missing_docs)]

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
