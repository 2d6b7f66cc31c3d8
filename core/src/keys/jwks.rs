//! The published keys: next, current and previous (R-KEYS-03, R-KEYS-06).

use serde::Serialize;

use super::public::PublicKey;
use super::ring::Ring;

/// A JWK Set as it is served (RFC 7517 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks {
    /// JSON: `{"keys":[…]}`.
    pub body: String,
}

impl Jwks {
    pub(super) fn of(ring: &Ring) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Set<'a> {
            keys: Vec<&'a PublicKey>,
        }
        let body = serde_json::to_string(&Set { keys: ring.published().collect() })?;
        Ok(Self { body })
    }
}
