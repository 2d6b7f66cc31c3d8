//! The published keys: next, current and previous (R-KEYS-03, R-KEYS-06).

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::public::PublicKey;
use super::ring::Ring;

/// A JWK Set as it is served (RFC 7517 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks {
    /// JSON: `{"keys":[…]}`.
    pub body: String,
    /// A strong entity tag with its quotes (RFC 9110 §8.8.3): the same for the same keys, in every instance.
    pub etag: String,
}

impl Jwks {
    pub(super) fn of(ring: &Ring) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Set<'a> {
            keys: Vec<&'a PublicKey>,
        }
        let body = serde_json::to_string(&Set { keys: ring.published().collect() })?;
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, body.as_bytes())));
        Ok(Self { body, etag })
    }
}
