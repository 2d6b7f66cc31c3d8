//! Claims → Txn-Token (RFC 7515 §3.1, compact serialization).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use writ_verifier::claims::TYP;
use writ_verifier::{TOKEN_MAX, TxnClaims};

use super::public::{Kid, PublicKey};
use super::{ActiveRing, KeysError, SigningAlgorithm};
use crate::claims::{Claims, ClaimsDraft};
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;

/// The signing key and the instant of signing, held together for a whole request: `iat` is in the span of the key even if
/// the ring changes meanwhile.
pub struct Signer {
    active: Arc<ActiveRing>,
    instant: Timestamp,
}

/// A signed Txn-Token. Its text is a credential, which only the response contains.
#[derive(Clone)]
pub struct TxnToken {
    compact: String,
    /// The length of header, dot and payload in bytes.
    signed_len: usize,
    kid: Kid,
}

impl Signer {
    pub(super) fn new(active: Arc<ActiveRing>, instant: Timestamp) -> Self {
        Self { active, instant }
    }

    /// The `iat` of issued tokens.
    pub(crate) fn instant(&self) -> Timestamp {
        self.instant
    }

    /// The `kid` of the tokens that it signs.
    pub fn kid(&self) -> &Kid {
        self.active.key.public().kid()
    }

    /// Whether readers would accept the length of the token, for any numbers that complete the draft.
    pub(crate) fn can_sign(&self, draft: &ClaimsDraft) -> bool {
        encoded_length(draft.payload_len(), self.active.key.public().algorithm()) <= TOKEN_MAX
    }

    /// Signs claims whose draft was parsed back.
    ///
    /// # Errors
    /// [`KeysError::Signing`] if the key does not sign.
    pub fn sign(&self, claims: &Claims) -> Result<TxnToken, KeysError> {
        let algorithm = self.active.key.public().algorithm();
        let mut compact = String::with_capacity(encoded_length(claims.payload().len(), algorithm));
        compact.push_str(&self.active.header);
        compact.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.payload(), &mut compact);
        let signed_len = compact.len();
        let signature = self.active.key.sign(compact.as_bytes())?;
        compact.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut compact);
        Ok(TxnToken { compact, signed_len, kid: self.kid().clone() })
    }
}

/// The encoded header, the same for all tokens of a key.
pub(super) fn header(key: &PublicKey) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Header<'a> {
        typ: &'static str,
        alg: &'static str,
        kid: &'a Kid,
    }
    let header = Header { typ: TYP, alg: key.algorithm().as_str(), kid: key.kid() };
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?))
}

/// The length in bytes of the token with these claims, signed by a key of this algorithm.
pub fn length(claims: &TxnClaims, algorithm: SigningAlgorithm) -> usize {
    encoded_length(serde_json::to_string(claims).map_or(0, |payload| payload.len()), algorithm)
}

/// The length in bytes of a token whose payload has `payload` bytes.
fn encoded_length(payload: usize, algorithm: SigningAlgorithm) -> usize {
    let signature = match algorithm {
        SigningAlgorithm::ES256 | SigningAlgorithm::EdDSA => 64,
        SigningAlgorithm::ES384 => 96,
        SigningAlgorithm::RS256 | SigningAlgorithm::PS256 => 256,
    };
    // A `kid` is the SHA-256 of a key in base64url.
    let header = r#"{"typ":"","alg":"","kid":""}"#.len() + TYP.len() + algorithm.as_str().len() + 43;
    let encoded = |bytes: usize| (bytes * 4).div_ceil(3);
    encoded(header) + encoded(payload) + encoded(signature) + 2
}

impl TxnToken {
    /// Compact serialization.
    pub fn as_str(&self) -> &str {
        &self.compact
    }

    /// The `kid` of its header.
    pub fn kid(&self) -> &Kid {
        &self.kid
    }

    /// SHA-256 of header and payload: identifies a token, since its signature has a second valid form.
    pub(crate) fn signed_part_sha256(&self) -> [u8; 32] {
        sha256(&self.compact.as_bytes()[..self.signed_len])
    }

    /// SHA-256 of the compact serialization, for the audit log.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.compact.as_bytes())
    }
}

#[cfg(any(test, feature = "testing"))]
impl TxnToken {
    /// A token that no key signed, for tests.
    ///
    /// # Panics
    /// Never: the built-in `kid` is valid.
    pub fn unsigned(compact: &str) -> Self {
        let kid = Kid::try_from("A".repeat(43)).expect("43 characters of base64url");
        Self { compact: compact.to_owned(), signed_len: compact.len(), kid }
    }
}

impl fmt::Debug for TxnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TxnToken(…)")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", self.kid()).field("instant", &self.instant).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::signing::KeyPair;

    #[test]
    fn the_length_of_a_token_is_known_before_it_is_signed() {
        for algorithm in [SigningAlgorithm::ES256, SigningAlgorithm::ES384, SigningAlgorithm::EdDSA] {
            let key = KeyPair::generate(algorithm).unwrap();
            for sub in ["u", "u-1", "u-12"] {
                let claims = Claims::about(sub);
                let payload = URL_SAFE_NO_PAD.encode(claims.payload());
                let signed = format!("{}.{payload}", header(key.public()).unwrap());
                let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
                assert_eq!(
                    length(claims.as_txn_claims(), algorithm),
                    format!("{signed}.{signature}").len(),
                    "{algorithm}"
                );
            }
        }
    }
}
