//! The public half of a key: its JWK, and the `kid` derived from it (RFC 7517, RFC 7518, RFC 7638, RFC 8037).

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};
use writ_verifier::jwks::VerificationKey;

use super::SigningAlgorithm;
use writ_platform::digest::sha256;

/// The permanent id of a key: the RFC 7638 thumbprint of its public half, 43 characters of base64url (R-KEYS-05).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Kid(String);

/// The text does not have the form of a [`Kid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a kid is 43 characters of base64url")]
pub struct KidError;

impl Kid {
    /// The value of `kid` in headers and JWKs.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(canonical: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes())))
    }
}

impl TryFrom<String> for Kid {
    type Error = KidError;

    fn try_from(text: String) -> Result<Self, KidError> {
        (decoded_len(&text) == Some(32)).then_some(Self(text)).ok_or(KidError)
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets a map of keys be searched by a `kid` as presented.
impl std::borrow::Borrow<str> for Kid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The members of a JWK that define the key, in base64url (RFC 7638 §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// A point on the curve of the algorithm.
    Ec { x: String, y: String },
    /// An Ed25519 public key.
    Okp { x: String },
    /// Modulus and exponent.
    Rsa { n: String, e: String },
}

/// A public key that fits its algorithm and whose `kid` is its thumbprint. Its JSON form is the published JWK.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub struct PublicKey(Arc<Parts>);

struct Parts {
    kid: Kid,
    algorithm: SigningAlgorithm,
    material: Material,
    /// The parsed key, made when it is first needed: most historical keys never are. `None` if it is not a valid key.
    verification: OnceLock<Option<Arc<VerificationKey>>>,
}

/// Why a JWK is not a [`PublicKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Members are missing, of the wrong length, or belong to another kind of key.
    #[error("the members of the key do not fit its algorithm")]
    Members,
    /// `kid` is not the thumbprint of the key.
    #[error("the kid is not the thumbprint of the key")]
    Kid,
}

impl PublicKey {
    pub(super) fn new(algorithm: SigningAlgorithm, material: Material) -> Result<Self, PublicKeyError> {
        if !fits(algorithm, &material) {
            return Err(PublicKeyError::Members);
        }
        let kid = Kid::of(&canonical(algorithm, &material));
        Ok(Self(Arc::new(Parts { kid, algorithm, material, verification: OnceLock::new() })))
    }

    /// `kid`: the thumbprint.
    pub fn kid(&self) -> &Kid {
        &self.0.kid
    }

    /// The only algorithm that this key is used with (RFC 8725 §3.1).
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.0.algorithm
    }

    /// The key in the form that verifies signatures, shared by all who ask. `None` if its members, although of the right
    /// length, are not those of a key: then nothing was ever signed with it.
    pub fn verification_key(&self) -> Option<&Arc<VerificationKey>> {
        let parse = || VerificationKey::parse(&serde_json::to_vec(self).ok()?).ok().map(Arc::new);
        self.0.verification.get_or_init(parse).as_ref()
    }

    /// Whether `signature` over `message` was made with this key's private half.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verification_key().is_some_and(|key| key.verify(self.algorithm().into(), message, signature))
    }
}

/// Compares the thumbprint, which identifies the key, and the algorithm, since RS256 and PS256 keys look alike.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (self.kid(), self.algorithm()) == (other.kid(), other.algorithm())
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), self.kid())
    }
}

impl SigningAlgorithm {
    /// The name in `alg` (RFC 7518 §3.1, RFC 8037 §3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::RS256 => "RS256",
            Self::PS256 => "PS256",
        }
    }

    const fn kty(self) -> &'static str {
        match self {
            Self::ES256 | Self::ES384 => "EC",
            Self::EdDSA => "OKP",
            Self::RS256 | Self::PS256 => "RSA",
        }
    }

    const fn curve(self) -> Option<&'static str> {
        match self {
            Self::ES256 => Some("P-256"),
            Self::ES384 => Some("P-384"),
            Self::EdDSA => Some("Ed25519"),
            Self::RS256 | Self::PS256 => None,
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<SigningAlgorithm> for Algorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::ES256 => Self::ES256,
            SigningAlgorithm::ES384 => Self::ES384,
            SigningAlgorithm::EdDSA => Self::EdDSA,
            SigningAlgorithm::RS256 => Self::RS256,
            SigningAlgorithm::PS256 => Self::PS256,
        }
    }
}

/// Whether the members are those of the algorithm, in canonical base64url and of its length.
fn fits(algorithm: SigningAlgorithm, material: &Material) -> bool {
    let has = |text: &str, len| decoded_len(text) == Some(len);
    match (algorithm, material) {
        (SigningAlgorithm::ES256, Material::Ec { x, y }) => has(x, 32) && has(y, 32),
        (SigningAlgorithm::ES384, Material::Ec { x, y }) => has(x, 48) && has(y, 48),
        (SigningAlgorithm::EdDSA, Material::Okp { x }) => has(x, 32),
        (SigningAlgorithm::RS256 | SigningAlgorithm::PS256, Material::Rsa { n, e }) => has(n, 256) && has(e, 3),
        _ => false,
    }
}

fn decoded_len(text: &str) -> Option<usize> {
    URL_SAFE_NO_PAD.decode(text).ok().map(|bytes| bytes.len())
}

/// The required members in the order of their names, without white space (RFC 7638 §3).
fn canonical(algorithm: SigningAlgorithm, material: &Material) -> String {
    let crv = algorithm.curve().unwrap_or_default();
    match material {
        Material::Ec { x, y } => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
        Material::Okp { x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
        Material::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
    }
}

/// The JWK as written. Unlisted members, private ones above all, are refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    kid: Kid,
    alg: SigningAlgorithm,
    #[serde(rename = "use")]
    usage: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    e: Option<String>,
}

impl TryFrom<Jwk> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(jwk: Jwk) -> Result<Self, PublicKeyError> {
        if jwk.usage != "sig" || jwk.kty != jwk.alg.kty() || jwk.crv.as_deref() != jwk.alg.curve() {
            return Err(PublicKeyError::Members);
        }
        let material = match (jwk.x, jwk.y, jwk.n, jwk.e) {
            (Some(x), Some(y), None, None) => Material::Ec { x, y },
            (Some(x), None, None, None) => Material::Okp { x },
            (None, None, Some(n), Some(e)) => Material::Rsa { n, e },
            _ => return Err(PublicKeyError::Members),
        };
        let key = Self::new(jwk.alg, material)?;
        if *key.kid() == jwk.kid { Ok(key) } else { Err(PublicKeyError::Kid) }
    }
}

impl From<PublicKey> for Jwk {
    fn from(key: PublicKey) -> Self {
        let algorithm = key.algorithm();
        let (x, y, n, e) = match key.0.material.clone() {
            Material::Ec { x, y } => (Some(x), Some(y), None, None),
            Material::Okp { x } => (Some(x), None, None, None),
            Material::Rsa { n, e } => (None, None, Some(n), Some(e)),
        };
        Self {
            kty: algorithm.kty().to_owned(),
            kid: key.kid().clone(),
            alg: algorithm,
            usage: "sig".to_owned(),
            crv: algorithm.curve().map(str::to_owned),
            x,
            y,
            n,
            e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULUS: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    fn rsa(algorithm: SigningAlgorithm) -> PublicKey {
        PublicKey::new(algorithm, Material::Rsa { n: MODULUS.to_owned(), e: "AQAB".to_owned() }).unwrap()
    }

    /// RFC 7638 §3.1
    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        assert_eq!(rsa(SigningAlgorithm::RS256).kid().as_str(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    /// RFC 8037 appendix A.3
    #[test]
    fn the_kid_of_an_ed25519_key_is_that_of_rfc_8037() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned();
        let key = PublicKey::new(SigningAlgorithm::EdDSA, Material::Okp { x }).unwrap();
        assert_eq!(key.kid().as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_jwk_reads_back_as_it_was_written() {
        let key = rsa(SigningAlgorithm::PS256);
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PublicKey>(&text).unwrap(), key);
        assert_eq!(
            text,
            format!(r#"{{"kty":"RSA","kid":"{}","alg":"PS256","use":"sig","n":"{MODULUS}","e":"AQAB"}}"#, key.kid())
        );
    }

    #[test]
    fn a_jwk_that_is_not_wholly_right_is_refused() {
        let good = serde_json::to_value(rsa(SigningAlgorithm::RS256)).unwrap();
        let changed = |name: &str, value: &str| {
            let mut jwk = good.clone();
            jwk[name] = value.into();
            serde_json::from_value::<PublicKey>(jwk).is_ok()
        };
        assert!(changed("use", "sig"));
        for (name, value) in [
            ("kid", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
            ("use", "enc"),
            ("kty", "EC"),
            ("alg", "ES256"),
            ("alg", "HS256"),
            ("crv", "P-256"),
            ("d", "AQAB"),
            ("x", "AQAB"),
            ("e", "Aw"),
            ("n", "AQAB"),
        ] {
            assert!(!changed(name, value), "{name} = {value}");
        }
    }

    #[test]
    fn a_kid_has_one_form() {
        let good = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert!(Kid::try_from(good.to_owned()).is_ok());
        for bad in
            ["", "..", "k", &good[1..], &format!("{good}k"), &good.replace('k', "/"), &good.replace("S4k", "S4l")]
        {
            assert_eq!(Kid::try_from(bad.to_owned()), Err(KidError), "{bad}");
        }
    }
}
