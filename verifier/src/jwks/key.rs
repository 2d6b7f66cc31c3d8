//! One public key: its type, the algorithms it allows, and its validation.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use jsonwebtoken::Algorithm;

use super::jwk::{Jwk, JwkError};
use crate::json::{Limits, Members};
use crate::jws::Jws;

/// The key type. Keys of one type may share a `kid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    P256,
    P384,
    Ed25519,
    Rsa,
}

/// A validated public key and the algorithms that it may verify. It is parsed once, here, and then only used.
///
/// Supported are EC keys on P-256 and P-384 (RFC 7518 §6.2), Ed25519 (RFC 8037 §2), and RSA keys of 2048 to 8192 bits
/// with an odd exponent greater than 1 (RFC 7518 §6.3).
#[derive(Clone)]
pub struct VerificationKey {
    kid: Option<String>,
    key_type: KeyType,
    /// `alg`: the only algorithm that the key may be used with (RFC 7517 §4.4).
    algorithm: Option<Algorithm>,
    /// The encoded public key, to recognize a key that is published twice.
    material: Vec<u8>,
    /// The parsed key for each algorithm that it may verify: a parsed RSA key is bound to one.
    parsed: Vec<(Algorithm, ParsedPublicKey)>,
}

impl VerificationKey {
    /// Parses one public JWK (RFC 7517 §4).
    ///
    /// # Errors
    /// [`JwkError`] if the key cannot be used to verify signatures.
    pub fn parse(jwk: &[u8]) -> Result<Self, JwkError> {
        let text = std::str::from_utf8(jwk).map_err(|_| JwkError::Form)?;
        Self::from_members(&Members::parse(text, Limits::DEFAULT).map_err(|_| JwkError::Form)?)
    }

    /// `kid`, by which a token header names the key (RFC 7517 §4.5).
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether the key may verify `algorithm`: its own `alg` if it has one, otherwise every algorithm of its type and
    /// curve.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.parsed.iter().any(|(parsed, _)| *parsed == algorithm)
    }

    /// Whether `signature` over `message` was made with the private half of this key; `false` if the key may not verify
    /// `algorithm` ([`VerificationKey::fits`]). ECDSA signatures have the fixed form of RFC 7518 §3.4.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let parsed = self.parsed.iter().find(|(parsed, _)| *parsed == algorithm);
        parsed.is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }

    /// Whether the signature of `jws` is valid under this key, which must allow its algorithm (RFC 8725 §3.1).
    pub fn verify_jws(&self, jws: &Jws<'_>) -> bool {
        self.verify(jws.algorithm, jws.signed_part.as_bytes(), &jws.signature)
    }

    pub(super) fn from_members(jwk: &Members) -> Result<Self, JwkError> {
        const UNSUPPORTED: JwkError = JwkError::Unsupported(
            "its kty and crv are not supported; use EC with P-256 or P-384, OKP with Ed25519, or RSA",
        );
        let jwk = Jwk(jwk);
        jwk.require_public()?;
        jwk.require_signature_use()?;
        let (kty, crv) = (jwk.required("kty")?, jwk.text("crv")?);
        let (key_type, material, mut parsed) = match (kty.as_str(), crv.as_deref()) {
            ("EC", Some("P-256")) => parse_ec(&jwk, KeyType::P256, (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED), 32)?,
            ("EC", Some("P-384")) => parse_ec(&jwk, KeyType::P384, (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED), 48)?,
            ("OKP", Some("Ed25519")) => parse_ed25519(&jwk)?,
            ("RSA", _) => parse_rsa(&jwk)?,
            ("EC" | "OKP", None) => return Err(JwkError::Missing("crv")),
            _ => return Err(UNSUPPORTED),
        };
        let algorithm = jwk.text("alg")?.map(|name| parse_algorithm(&name)).transpose()?;
        parsed.retain(|(allowed, _)| algorithm.is_none_or(|own| own == *allowed));
        if parsed.is_empty() {
            return Err(MISMATCH);
        }
        Ok(Self { kid: jwk.text("kid")?, key_type, algorithm, material, parsed })
    }

    /// Whether both keys have the same `kid` and key type, so that both are tried on a token that names this `kid`.
    pub(super) fn shares_kid_with(&self, other: &Self) -> bool {
        self.kid == other.kid && self.key_type == other.key_type
    }

    /// Whether both are the same public key under the same `kid` and `alg`.
    pub(super) fn is_duplicate_of(&self, other: &Self) -> bool {
        self.shares_kid_with(other) && self.algorithm == other.algorithm && self.material == other.material
    }
}

/// Shows `kid` and key type only.
impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("kid", &self.kid)
            .field("key_type", &self.key_type)
            .finish_non_exhaustive()
    }
}

const MISMATCH: JwkError = JwkError::Unsupported("its alg is not a signature algorithm for its key type");

fn parse_algorithm(name: &str) -> Result<Algorithm, JwkError> {
    if name == "Ed25519" { Ok(Algorithm::EdDSA) } else { name.parse().map_err(|_| MISMATCH) }
}

/// Key type, encoded form, and the parsed key for each algorithm of the type.
type ParsedKey = (KeyType, Vec<u8>, Vec<(Algorithm, ParsedPublicKey)>);

/// An algorithm, and how a key for it is parsed.
type CurveAlgorithm = (Algorithm, &'static dyn VerificationAlgorithm);

fn parse_ec(jwk: &Jwk<'_>, key_type: KeyType, algorithm: CurveAlgorithm, len: usize) -> Result<ParsedKey, JwkError> {
    // SEC 1 §2.3.3: the uncompressed form of a point begins with 04.
    let point = [vec![0x04], jwk.coordinate("x", len)?, jwk.coordinate("y", len)?].concat();
    parse_point(key_type, algorithm, point, JwkError::Unsound("x and y are not a point on its curve"))
}

fn parse_ed25519(jwk: &Jwk<'_>) -> Result<ParsedKey, JwkError> {
    let point = jwk.coordinate("x", 32)?;
    let unsound = JwkError::Unsound("x is not a point on its curve");
    parse_point(KeyType::Ed25519, (Algorithm::EdDSA, &ED25519), point, unsound)
}

fn parse_point(
    key_type: KeyType,
    (algorithm, curve): CurveAlgorithm,
    point: Vec<u8>,
    unsound: JwkError,
) -> Result<ParsedKey, JwkError> {
    let key = ParsedPublicKey::new(curve, &point).map_err(|_| unsound)?;
    Ok((key_type, point, vec![(algorithm, key)]))
}

/// RFC 7518 §3.3, §3.5: the salt of PSS has the length of the hash.
static RSA_PARAMETERS: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
];

fn parse_rsa(jwk: &Jwk<'_>) -> Result<ParsedKey, JwkError> {
    let (n, e) = (jwk.integer("n")?, jwk.integer("e")?);
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    if !(2048..=8192).contains(&bit_length(&n)) {
        return Err(JwkError::Unsound("n does not have 2048 to 8192 bits"));
    }
    if !is_odd(&n) {
        return Err(JwkError::Unsound("n is even"));
    }
    if !is_odd(&e) || !(2..=64).contains(&bit_length(&e)) {
        return Err(JwkError::Unsound("e is not an odd number of 2 to 64 bits"));
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    let parse = |(algorithm, parameters): &(Algorithm, &'static RsaParameters)| {
        let key = components.to_parsed_public_key(parameters);
        key.map(|key| (*algorithm, key)).map_err(|_| JwkError::Unsound("n and e are not a valid RSA key"))
    };
    let parsed = RSA_PARAMETERS.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((KeyType::Rsa, [n, vec![0], e].concat(), parsed))
}

/// The bit length of a big-endian number without leading zero bytes.
fn bit_length(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::signer::Signer;

    fn key(kid: &str) -> Value {
        Signer::new(kid, Algorithm::ES256).jwk()
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    fn refusal(jwk: &Value) -> JwkError {
        VerificationKey::parse(jwk.to_string().as_bytes()).expect_err("not usable")
    }

    fn rsa(n: &[u8], e: &[u8]) -> Value {
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e)})
    }

    #[test]
    fn each_key_type_allows_only_its_own_algorithms() {
        for own in [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256] {
            let jwk = Signer::new("k", own).jwk();
            let bound = VerificationKey::parse(jwk.to_string().as_bytes()).unwrap();
            let mut free = jwk;
            free.as_object_mut().unwrap().remove("alg");
            let free = VerificationKey::parse(free.to_string().as_bytes()).unwrap();
            assert!(bound.fits(own) && free.fits(own));
            let others = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::HS256];
            for other in others.into_iter().filter(|other| *other != own) {
                assert!(!bound.fits(other), "{own:?} {other:?}");
                assert_eq!(
                    free.fits(other),
                    free.key_type == KeyType::Rsa && other != Algorithm::ES256 && other != Algorithm::HS256
                );
            }
        }
    }

    #[test]
    fn the_error_names_the_reason() {
        assert_eq!(refusal(&json!({"kty": "oct", "k": "AAAA"})), JwkError::Secret("kty oct"));
        assert_eq!(refusal(&with(key("k"), "use", json!("enc"))), JwkError::Purpose("its use is enc"));
        assert_eq!(refusal(&with(key("k"), "x", json!("AA=="))), JwkError::Base64("x"));
        assert_eq!(refusal(&json!({"kty": "RSA"})), JwkError::Missing("n"));
        assert_eq!(refusal(&json!([])), JwkError::Form);
    }

    ///
    #[test]
    fn points_off_the_curve_and_coordinates_of_another_length_are_refused() {
        let one = URL_SAFE_NO_PAD.encode([1; 32]);
        let off_curve = |jwk: &Value| assert!(matches!(refusal(jwk), JwkError::Unsound(_)), "{jwk}");
        off_curve(&json!({"kty": "EC", "crv": "P-256", "x": one, "y": one}));
        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        off_curve(&json!({"kty": "EC", "crv": "P-256", "x": zero, "y": zero}));
        for len in [0, 31, 33, 64, 10_000] {
            let x = URL_SAFE_NO_PAD.encode(vec![1; len]);
            let wrong = JwkError::Coordinate { member: "x", octets: len, expected: 32 };
            assert_eq!(refusal(&with(key("k"), "x", json!(x))), wrong);
            assert_eq!(refusal(&json!({"kty": "OKP", "crv": "Ed25519", "x": x})), wrong);
        }
    }

    ///
    #[test]
    fn weak_oversized_and_degenerate_rsa_keys_are_refused() {
        let good = Signer::new("k", Algorithm::RS256).jwk();
        let n = URL_SAFE_NO_PAD.decode(good["n"].as_str().unwrap()).unwrap();
        let read = |jwk: Value| VerificationKey::parse(jwk.to_string().as_bytes());
        assert!(read(rsa(&n, &[1, 0, 1])).is_ok());
        assert!(read(rsa(&[&[0], &n[..]].concat(), &[0, 1, 0, 1])).is_ok(), "leading zeros");
        for (n, e) in [
            (vec![0xff; 64], vec![3]),
            (vec![0xff; 255], vec![3]),
            (vec![0xff; 1025], vec![3]),
            (vec![0xff; 64 << 10], vec![3]),
            (n.clone(), vec![]),
            (n.clone(), vec![0]),
            (n.clone(), vec![1]),
            (n.clone(), vec![2]),
            (n.clone(), vec![1, 0, 0]),
            (n.clone(), n.clone()),
            ([&n[..255], &[0]].concat(), vec![3]),
            (vec![], vec![3]),
        ] {
            assert!(matches!(refusal(&rsa(&n, &e)), JwkError::Unsound(_)), "{} bytes, {e:?}", n.len());
        }
    }
}
