//! JWK sets (RFC 7517): which public keys may verify what.
//!
//! A set comes from outside, so each key is read on its own: one that cannot be used is skipped, and the rest serve.
//! What makes the whole document unfit is ambiguity: text that is not strict JSON, or one `kid` for two keys.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::{self, Limits};

/// The longest document that is read, in bytes: 1 MiB.
pub const DOCUMENT_MAX: usize = 1 << 20;

/// The most keys that one document may list, usable or not.
pub const KEYS_MAX: usize = 1000;

/// Why a document gives no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Longer than [`DOCUMENT_MAX`].
    #[error("the key set is too long")]
    TooLong,
    /// Not strict JSON, not an object with an array `keys`, or more than [`KEYS_MAX`] keys.
    #[error("not a JWK set")]
    Form,
    /// Two different keys have the same `kid`: which one is meant cannot be known.
    #[error("the key set has different keys of one key id")]
    Ambiguous,
    /// No key of the set can be used.
    #[error("the key set has no usable key")]
    Nothing,
}

/// Why one key is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not an object, or a member is missing, of the wrong type, or not canonical base64url.
    #[error("not a JWK")]
    Form,
    /// It holds a secret: `oct`, or a private member. Whoever publishes such a key has lost it.
    #[error("the key is not public")]
    Secret,
    /// A `kty`, `crv` or `alg` that nothing here verifies with, or that do not fit each other.
    #[error("the kind of key is not supported")]
    Unsupported,
    /// `use` is not `sig`, or `key_ops` lacks `verify`.
    #[error("the key is not for signatures")]
    Purpose,
    /// Coordinates of the wrong length or off the curve; RSA below 2048 or above 8192 bits, or with a bad exponent.
    #[error("the key is not sound")]
    Unsound,
}

/// Why a set has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// No key of this `kid`; or the token names none, and the set has not just one key.
    #[error("the key is not in the set")]
    Unknown,
    /// There is such a key, but the token's algorithm is not one of its own.
    #[error("the algorithm does not fit the key")]
    Unfit,
}

/// What a public key is: it decides which algorithms fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Kind {
    fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::P256 => &[Algorithm::ES256],
            Self::P384 => &[Algorithm::ES384],
            Self::Ed25519 => &[Algorithm::EdDSA],
            Self::Rsa => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
        }
    }
}

/// A sound public key and what it may verify.
#[derive(Clone)]
pub struct VerificationKey {
    kid: Option<String>,
    kind: Kind,
    algorithm: Option<Algorithm>,
    material: Vec<u8>,
    decoding_key: DecodingKey,
}

impl VerificationKey {
    /// Reads the text of one public JWK.
    ///
    /// # Errors
    /// [`JwkError`] where the key cannot be used for verification.
    pub fn parse(jwk: &[u8]) -> Result<Self, JwkError> {
        let text = strict(jwk, Limits::DEFAULT).ok_or(JwkError::Form)?;
        Self::read(&serde_json::from_str(text).map_err(|_| JwkError::Form)?)
    }

    /// `kid`, the name by which tokens ask for it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether `algorithm` is one that the key's type, curve and own `alg` allow.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.map_or_else(|| self.kind.algorithms().contains(&algorithm), |own| own == algorithm)
    }

    /// The key as [`crate::jws::Jws::verify`] takes it. Ask [`VerificationKey::fits`] first.
    pub fn decoding_key(&self) -> &DecodingKey {
        &self.decoding_key
    }

    fn read(jwk: &Value) -> Result<Self, JwkError> {
        let jwk = Jwk(jwk.as_object().ok_or(JwkError::Form)?);
        jwk.must_be_public()?;
        jwk.must_be_for_signatures()?;
        let (kind, material, decoding_key) = match (jwk.required("kty")?, jwk.text("crv")?) {
            ("EC", Some("P-256")) => jwk.ec(Kind::P256, &ECDSA_P256_SHA256_FIXED, 32)?,
            ("EC", Some("P-384")) => jwk.ec(Kind::P384, &ECDSA_P384_SHA384_FIXED, 48)?,
            ("OKP", Some("Ed25519")) => jwk.ed25519()?,
            ("RSA", _) => jwk.rsa()?,
            _ => return Err(JwkError::Unsupported),
        };
        let algorithm = jwk.text("alg")?.map(|name| algorithm(kind, name)).transpose()?;
        Ok(Self { kid: jwk.text("kid")?.map(str::to_owned), kind, algorithm, material, decoding_key })
    }

    fn same_key(&self, other: &Self) -> bool {
        self.kind == other.kind && self.material == other.material
    }
}

/// The kinds only: a key is public, but nobody wants to read it.
impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey").field("kid", &self.kid).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The usable keys of a document; at least one, and no `kid` stands for two keys.
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Arc<VerificationKey>>);

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// [`JwksError`] where the document as a whole cannot be relied on. Single keys that cannot be used are skipped.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        if document.len() > DOCUMENT_MAX {
            return Err(JwksError::TooLong);
        }
        let limits = Limits { members: KEYS_MAX, ..Limits::DEFAULT };
        let text = strict(document, limits).ok_or(JwksError::Form)?;
        let document: Document = serde_json::from_str(text).map_err(|_| JwksError::Form)?;
        Self::of(document.keys.iter().filter_map(usable).collect())
    }

    /// The key for a token with this `kid` and `alg`. A token without `kid` is served only by a set of one key.
    ///
    /// # Errors
    /// [`NoKey`]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Arc<VerificationKey>, NoKey> {
        let named = |key: &&Arc<VerificationKey>| match kid {
            Some(kid) => key.kid() == Some(kid),
            None => self.0.len() == 1,
        };
        let mut candidates = self.0.iter().filter(named).peekable();
        candidates.peek().ok_or(NoKey::Unknown)?;
        candidates.find(|key| key.fits(algorithm)).ok_or(NoKey::Unfit)
    }

    /// The usable keys in the document's order.
    pub fn keys(&self) -> impl Iterator<Item = &VerificationKey> {
        self.0.iter().map(AsRef::as_ref)
    }

    fn of(keys: Vec<VerificationKey>) -> Result<Self, JwksError> {
        if keys.is_empty() {
            return Err(JwksError::Nothing);
        }
        let mut named = std::collections::HashMap::new();
        for key in &keys {
            if let Some(kid) = key.kid()
                && !named.entry(kid).or_insert(key).same_key(key)
            {
                return Err(JwksError::Ambiguous);
            }
        }
        Ok(Self(keys.into_iter().map(Arc::new).collect()))
    }
}

/// From keys that were read one by one.
impl TryFrom<Vec<VerificationKey>> for KeySet {
    type Error = JwksError;

    fn try_from(keys: Vec<VerificationKey>) -> Result<Self, JwksError> {
        Self::of(keys)
    }
}

fn usable(jwk: &Value) -> Option<VerificationKey> {
    VerificationKey::read(jwk)
        .inspect_err(|error| match error {
            JwkError::Secret | JwkError::Unsound => tracing::warn!(%error, "a key of the set is skipped"),
            _ => tracing::debug!(%error, "a key of the set is skipped"),
        })
        .ok()
}

fn strict(text: &[u8], limits: Limits) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    json::check(text, limits).ok().map(|()| text)
}

/// `alg` of a JWK: the one algorithm that its owner uses it with.
fn algorithm(kind: Kind, name: &str) -> Result<Algorithm, JwkError> {
    let named = match name {
        "Ed25519" => Algorithm::EdDSA,
        other => other.parse().map_err(|_| JwkError::Unsupported)?,
    };
    kind.algorithms().contains(&named).then_some(named).ok_or(JwkError::Unsupported)
}

/// The members of one JWK as written.
struct Jwk<'a>(&'a Map<String, Value>);

type Parts = (Kind, Vec<u8>, DecodingKey);

impl<'a> Jwk<'a> {
    fn text(&self, name: &str) -> Result<Option<&'a str>, JwkError> {
        self.0.get(name).map(|value| value.as_str().ok_or(JwkError::Form)).transpose()
    }

    fn required(&self, name: &str) -> Result<&'a str, JwkError> {
        self.text(name)?.ok_or(JwkError::Form)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, JwkError> {
        URL_SAFE_NO_PAD.decode(self.required(name)?).map_err(|_| JwkError::Form)
    }

    /// A coordinate has the full length of its curve, leading zeros included (RFC 7518 §6.2.1.2).
    fn coordinate(&self, name: &str, len: usize) -> Result<Vec<u8>, JwkError> {
        self.bytes(name).and_then(|bytes| (bytes.len() == len).then_some(bytes).ok_or(JwkError::Unsound))
    }

    /// Without the leading zeros that some libraries put before it (RFC 7518 §6.3.1.1).
    fn integer(&self, name: &str) -> Result<Vec<u8>, JwkError> {
        let bytes = self.bytes(name)?;
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
    }

    fn must_be_public(&self) -> Result<(), JwkError> {
        const SECRET: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        let secret = SECRET.iter().any(|name| self.0.contains_key(*name));
        if secret || self.text("kty")? == Some("oct") { Err(JwkError::Secret) } else { Ok(()) }
    }

    fn must_be_for_signatures(&self) -> Result<(), JwkError> {
        let verifies = match self.0.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
            Some(_) => return Err(JwkError::Form),
        };
        let signs = self.text("use")?.is_none_or(|usage| usage == "sig");
        if verifies && signs { Ok(()) } else { Err(JwkError::Purpose) }
    }

    fn ec(&self, kind: Kind, curve: &'static dyn VerificationAlgorithm, len: usize) -> Result<Parts, JwkError> {
        let point = [vec![0x04], self.coordinate("x", len)?, self.coordinate("y", len)?].concat();
        ParsedPublicKey::new(curve, &point).map_err(|_| JwkError::Unsound)?;
        let key = DecodingKey::from_ec_der(&point);
        Ok((kind, point, key))
    }

    fn ed25519(&self) -> Result<Parts, JwkError> {
        let point = self.coordinate("x", 32)?;
        ParsedPublicKey::new(&ED25519, &point).map_err(|_| JwkError::Unsound)?;
        let key = DecodingKey::from_ed_der(&point);
        Ok((Kind::Ed25519, point, key))
    }

    fn rsa(&self) -> Result<Parts, JwkError> {
        let (n, e) = (self.integer("n")?, self.integer("e")?);
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        let sound = (2048..=8192).contains(&bits(&n)) && odd(&n) && odd(&e) && (2..=64).contains(&bits(&e));
        if !sound {
            return Err(JwkError::Unsound);
        }
        RsaPublicKeyComponents { n: &n, e: &e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| JwkError::Unsound)?;
        let key = DecodingKey::from_rsa_raw_components(&n, &e);
        Ok((Kind::Rsa, [n, vec![0], e].concat(), key))
    }
}

/// The length in bits of a big-endian number without leading zero bytes.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signer::{Signer, jwks};

    fn key(kid: &str) -> Value {
        Signer::new(kid, Algorithm::ES256).jwk()
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    fn parse(keys: &[Value]) -> Result<KeySet, JwksError> {
        KeySet::parse(&jwks(keys))
    }

    fn refusal(jwk: &Value) -> JwkError {
        VerificationKey::parse(jwk.to_string().as_bytes()).expect_err("not usable")
    }

    fn rsa(n: &[u8], e: &[u8]) -> Value {
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e)})
    }

    #[test]
    fn each_kind_of_key_fits_its_own_algorithms() {
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
                    free.kind == Kind::Rsa && other != Algorithm::ES256 && other != Algorithm::HS256
                );
            }
        }
    }

    /// A-075
    #[test]
    fn keys_that_cannot_be_used_are_skipped() {
        let bad = [
            json!({"kty": "oct", "k": "AAAA", "kid": "a"}),
            json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "b"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "c"}),
            with(key("d"), "d", json!("AAAA")),
            with(key("e"), "use", json!("enc")),
            with(key("f"), "key_ops", json!(["encrypt"])),
            with(key("g"), "alg", json!("ES384")),
            with(key("h"), "kid", json!(1)),
            json!("a string"),
            json!(null),
        ];
        let set = parse(&[&bad[..], &[key("good")]].concat()).unwrap();
        assert_eq!(set.keys().filter_map(VerificationKey::kid).collect::<Vec<_>>(), ["good"]);
        assert_eq!(parse(&bad).err(), Some(JwksError::Nothing));
        assert_eq!(parse(&[]).err(), Some(JwksError::Nothing));
    }

    #[test]
    fn a_key_says_why_it_is_not_used() {
        assert_eq!(refusal(&json!({"kty": "oct", "k": "AAAA"})), JwkError::Secret);
        assert_eq!(refusal(&with(key("k"), "d", json!("AAAA"))), JwkError::Secret);
        assert_eq!(refusal(&with(key("k"), "use", json!("enc"))), JwkError::Purpose);
        assert_eq!(refusal(&with(key("k"), "key_ops", json!(["sign"]))), JwkError::Purpose);
        assert_eq!(refusal(&with(key("k"), "alg", json!("ES384"))), JwkError::Unsupported);
        assert_eq!(refusal(&with(key("k"), "alg", json!("HS256"))), JwkError::Unsupported);
        assert_eq!(refusal(&with(key("k"), "crv", json!("P-384"))), JwkError::Unsound);
        assert_eq!(refusal(&with(key("k"), "x", json!("AA=="))), JwkError::Form);
        assert_eq!(refusal(&json!({"kty": "EC"})), JwkError::Unsupported);
        assert_eq!(refusal(&json!({"kty": "RSA"})), JwkError::Form);
        assert_eq!(refusal(&json!([])), JwkError::Form);
    }

    /// A-075
    #[test]
    fn points_off_the_curve_and_coordinates_of_another_length_are_refused() {
        let one = URL_SAFE_NO_PAD.encode([1; 32]);
        assert_eq!(refusal(&json!({"kty": "EC", "crv": "P-256", "x": one, "y": one})), JwkError::Unsound);
        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        assert_eq!(refusal(&json!({"kty": "EC", "crv": "P-256", "x": zero, "y": zero})), JwkError::Unsound);
        for len in [0, 31, 33, 64, 10_000] {
            let x = URL_SAFE_NO_PAD.encode(vec![1; len]);
            assert_eq!(refusal(&with(key("k"), "x", json!(x))), JwkError::Unsound, "{len}");
            assert_eq!(refusal(&json!({"kty": "OKP", "crv": "Ed25519", "x": x})), JwkError::Unsound, "{len}");
        }
    }

    /// A-075
    #[test]
    fn weak_oversized_and_degenerate_rsa_keys_are_refused() {
        let good = Signer::new("k", Algorithm::RS256).jwk();
        let n = URL_SAFE_NO_PAD.decode(good["n"].as_str().unwrap()).unwrap();
        assert!(VerificationKey::read(&rsa(&n, &[1, 0, 1])).is_ok());
        assert!(VerificationKey::read(&rsa(&[&[0], &n[..]].concat(), &[0, 1, 0, 1])).is_ok(), "leading zeros");
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
            assert_eq!(refusal(&rsa(&n, &e)), JwkError::Unsound, "{} bytes, {e:?}", n.len());
        }
    }

    /// A-075
    #[test]
    fn one_kid_for_two_keys_spoils_the_document() {
        let one = key("k");
        assert_eq!(parse(&[one.clone(), key("k")]).err(), Some(JwksError::Ambiguous));
        assert!(parse(&[one.clone(), one.clone()]).is_ok(), "the same key twice");
        assert!(parse(&[one, with(key("k"), "use", json!("enc"))]).is_ok(), "the other cannot be used");
    }

    /// A-075
    #[test]
    fn documents_that_are_no_strict_json_or_too_large_are_refused() {
        let good = key("k");
        for text in [
            String::new(),
            "<html></html>".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            r#"{"keys":{}}"#.to_owned(),
            format!(r#"{{"keys":[{good}],"keys":[]}}"#),
            format!(r#"{{"keys":[{good}"#),
            format!(r#"{{"keys":[{good}],"x":{}{}}}"#, "[".repeat(100), "]".repeat(100)),
            format!(r#"{{"keys":[{good}{}]}}"#, ",{}".repeat(KEYS_MAX)),
        ] {
            assert_eq!(KeySet::parse(text.as_bytes()).err(), Some(JwksError::Form), "{text:.60}");
        }
        let padded = format!(r#"{{"keys":[{good}]{}}}"#, " ".repeat(DOCUMENT_MAX));
        assert_eq!(KeySet::parse(padded.as_bytes()).err(), Some(JwksError::TooLong));
        assert_eq!(KeySet::parse(&[0xff]).err(), Some(JwksError::Form));
    }

    #[test]
    fn a_token_without_kid_is_served_by_a_set_of_one_key_only() {
        let one = parse(&[key("a")]).unwrap();
        assert!(one.find(None, Algorithm::ES256).is_ok());
        assert!(one.find(Some("a"), Algorithm::ES256).is_ok());
        assert_eq!(one.find(Some("b"), Algorithm::ES256).err(), Some(NoKey::Unknown));
        assert_eq!(one.find(Some("a"), Algorithm::RS256).err(), Some(NoKey::Unfit));
        assert_eq!(one.find(None, Algorithm::RS256).err(), Some(NoKey::Unfit));
        let two = parse(&[key("a"), key("b")]).unwrap();
        assert_eq!(two.find(None, Algorithm::ES256).err(), Some(NoKey::Unknown));
    }
}
