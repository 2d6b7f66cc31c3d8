//! JWK sets (RFC 7517): which public keys may verify what.
//!
//! A set comes from outside, so each key is read on its own: one that cannot be used is left out, told by
//! [`KeySet::left_out`], and the rest serve. Only text that is no JSON object with one list `keys` spoils them all.

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
use serde_json::value::RawValue;

use crate::json::{Limits, Members};
use crate::jws::Jws;

/// The longest document that is read, in bytes: 1 MiB.
pub const DOCUMENT_MAX: usize = 1 << 20;

/// The most keys of one document that are looked at, usable or not; those after them are left out.
pub const KEYS_MAX: usize = 1000;

/// The most keys of one kind that may share a `kid`: each of them is tried on a token that names it.
pub const SHARED_KID_MAX: usize = 4;

/// How many keys that were left out are told one by one.
const TOLD_MAX: usize = 10;

/// Why a document gives no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Longer than [`DOCUMENT_MAX`].
    #[error("the key set is longer than 1 MiB")]
    TooLong,
    /// Not JSON, or not an object with one array `keys`.
    #[error("not a JWK set: a JSON object with an array `keys`")]
    Form,
    /// No key of the set can be used; each is told with its fault.
    #[error("the key set has no usable key{0}")]
    Nothing(String),
}

/// Why one key is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not one JSON object with one meaning: another value, a member that stands twice, or too much structure.
    #[error("it is not a JSON object in which each member stands once")]
    Form,
    /// A member that its kind of key must have is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member of the wrong type.
    #[error("{0} must be {1}")]
    Type(&'static str, &'static str),
    /// A number or coordinate that is not canonical base64url (RFC 7518 §2).
    #[error("{0} is not base64url without padding (RFC 7518 section 2)")]
    Base64(&'static str),
    /// It holds a secret: `oct`, or a private member. Whoever publishes such a key has lost it.
    #[error("it is not public: it has {0}")]
    Secret(&'static str),
    /// A `kty`, `crv` or `alg` that nothing here verifies with, or that do not fit each other.
    #[error("{0}")]
    Unsupported(&'static str),
    /// `use` is neither `sig` nor `jwt-svid`, or `key_ops` lacks `verify`.
    #[error("it is not for signatures: {0}")]
    Purpose(&'static str),
    /// For certificates, and published beside the keys for JWTs as it should be (SPIFFE bundles).
    #[error("its use is x509-svid: it is for certificates, not for tokens")]
    Certificates,
    /// A coordinate with more or fewer octets than its curve has.
    #[error("{member} has {octets} octets, not {expected}: a coordinate has its full length, leading zeros included")]
    Coordinate {
        /// `x` or `y`.
        member: &'static str,
        /// How many it has.
        octets: usize,
        /// How many it must have.
        expected: usize,
    },
    /// A point off the curve; an RSA modulus or exponent that no sound key has.
    #[error("{0}")]
    Unsound(&'static str),
    /// [`SHARED_KID_MAX`] keys of its kind before it have the same `kid`.
    #[error("four keys of its kind before it have the same kid")]
    Crowded,
    /// [`KEYS_MAX`] keys stand before it.
    #[error("only the first 1000 keys of a set are looked at")]
    TooMany,
}

/// A key of a document that is not used, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, if it is a string.
    pub kid: Option<String>,
    /// Why it is not used.
    pub why: JwkError,
}

/// The name is the publisher's: it is escaped and cut.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys[{}]", self.index)?;
        if let Some(kid) = &self.kid {
            let cut: String = kid.chars().take(64).collect();
            let more = if cut.len() < kid.len() { "…" } else { "" };
            write!(f, " (kid {}{more})", cut.escape_debug())?;
        }
        write!(f, ": {}", self.why)
    }
}

/// All of them in one line, the first ones each with its reason.
fn told<'a>(left_out: impl Iterator<Item = &'a LeftOut> + Clone) -> String {
    let mut parts: Vec<_> = left_out.clone().take(TOLD_MAX).map(ToString::to_string).collect();
    let more = left_out.skip(TOLD_MAX).count();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
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
        let text = std::str::from_utf8(jwk).map_err(|_| JwkError::Form)?;
        Self::read(&Members::parse(text, Limits::DEFAULT).map_err(|_| JwkError::Form)?)
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

    fn read(jwk: &Members) -> Result<Self, JwkError> {
        const KIND: JwkError = JwkError::Unsupported(
            "its kty and crv are not supported: EC with P-256 or P-384, OKP with Ed25519, or RSA",
        );
        let jwk = Jwk(jwk);
        jwk.must_be_public()?;
        jwk.must_be_for_signatures()?;
        let (kty, crv) = (jwk.required("kty")?, jwk.text("crv")?);
        let (kind, material, decoding_key) = match (kty.as_str(), crv.as_deref()) {
            ("EC", Some("P-256")) => jwk.ec(Kind::P256, &ECDSA_P256_SHA256_FIXED, 32)?,
            ("EC", Some("P-384")) => jwk.ec(Kind::P384, &ECDSA_P384_SHA384_FIXED, 48)?,
            ("OKP", Some("Ed25519")) => jwk.ed25519()?,
            ("RSA", _) => jwk.rsa()?,
            ("EC" | "OKP", None) => return Err(JwkError::Missing("crv")),
            _ => return Err(KIND),
        };
        let algorithm = jwk.text("alg")?.map(|name| algorithm(kind, &name)).transpose()?;
        Ok(Self { kid: jwk.text("kid")?, kind, algorithm, material, decoding_key })
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

/// The keys that may have signed a token: several only where their publisher gives them the same `kid`.
#[derive(Debug, Clone)]
pub struct Candidates(Vec<Arc<VerificationKey>>);

impl Candidates {
    /// Whether one of them made the signature of `jws`, by an algorithm of its own.
    pub fn verify(&self, jws: &Jws<'_>) -> bool {
        self.0.iter().any(|key| key.fits(jws.algorithm) && jws.verify(key.decoding_key()))
    }
}

impl From<VerificationKey> for Candidates {
    fn from(key: VerificationKey) -> Self {
        Self(vec![Arc::new(key)])
    }
}

/// The usable keys of a document; at least one.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: Vec<Arc<VerificationKey>>,
    left_out: Vec<LeftOut>,
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// [`JwksError`] where the document as a whole cannot be relied on. Single keys that cannot be used are left out.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        if document.len() > DOCUMENT_MAX {
            return Err(JwksError::TooLong);
        }
        let text = std::str::from_utf8(document).map_err(|_| JwksError::Form)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text); // RFC 8259 §8.1
        // A list would do for the derived reader too.
        let document: Document<'_> = Some(text)
            .filter(|text| text.trim_start().starts_with('{'))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or(JwksError::Form)?;
        let mut set = Self { keys: Vec::new(), left_out: Vec::new() };
        for (index, jwk) in document.keys.iter().take(KEYS_MAX).enumerate() {
            set.add(index, jwk.get());
        }
        if document.keys.len() > KEYS_MAX {
            set.left_out.push(LeftOut { index: KEYS_MAX, kid: None, why: JwkError::TooMany });
        }
        if set.keys.is_empty() {
            let faults = told(set.left_out.iter());
            return Err(JwksError::Nothing(if faults.is_empty() { faults } else { format!(": {faults}") }));
        }
        Ok(set)
    }

    /// The keys for a token with this `kid` and `alg`. A token without `kid` is served only by a set of one key.
    ///
    /// # Errors
    /// [`NoKey`]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates, NoKey> {
        let named = |key: &&Arc<VerificationKey>| match kid {
            Some(kid) => key.kid() == Some(kid),
            None => self.keys.len() == 1,
        };
        let mut named = self.keys.iter().filter(named).peekable();
        named.peek().ok_or(NoKey::Unknown)?;
        let fitting: Vec<_> = named.filter(|key| key.fits(algorithm)).cloned().collect();
        if fitting.is_empty() { Err(NoKey::Unfit) } else { Ok(Candidates(fitting)) }
    }

    /// The usable keys in the document's order.
    pub fn keys(&self) -> impl Iterator<Item = &VerificationKey> {
        self.keys.iter().map(AsRef::as_ref)
    }

    /// Which keys of the document are not used, and why not: a line for the log. `None` if that needs no word.
    pub fn left_out(&self) -> Option<String> {
        let worth_telling = self.left_out.iter().filter(|left_out| left_out.why != JwkError::Certificates);
        Some(told(worth_telling)).filter(|text| !text.is_empty())
    }

    fn add(&mut self, index: usize, jwk: &str) {
        let members = Members::parse(jwk, Limits::DEFAULT);
        let kid = members.as_ref().ok().and_then(|members| members.get("kid"));
        let key = members.map_err(|_| JwkError::Form).and_then(|members| VerificationKey::read(&members));
        let key = key.and_then(|key| {
            let alike = self.keys.iter().filter(|other| other.kid == key.kid && other.kind == key.kind);
            let crowded = key.kid.is_some() && alike.count() >= SHARED_KID_MAX;
            if crowded { Err(JwkError::Crowded) } else { Ok(key) }
        });
        match key {
            Ok(key) => {
                let known = |other: &Arc<VerificationKey>| {
                    other.kid == key.kid && other.algorithm == key.algorithm && other.same_key(&key)
                };
                if !self.keys.iter().any(known) {
                    self.keys.push(Arc::new(key));
                }
            }
            Err(why) => self.left_out.push(LeftOut { index, kid, why }),
        }
    }
}

/// `alg` of a JWK: the one algorithm that its owner uses it with.
fn algorithm(kind: Kind, name: &str) -> Result<Algorithm, JwkError> {
    const ALG: JwkError = JwkError::Unsupported("its alg is not one of signatures with this kind of key");
    let named = match name {
        "Ed25519" => Algorithm::EdDSA,
        other => other.parse().map_err(|_| ALG)?,
    };
    kind.algorithms().contains(&named).then_some(named).ok_or(ALG)
}

/// The members of one JWK as written.
struct Jwk<'a>(&'a Members);

type Parts = (Kind, Vec<u8>, DecodingKey);

impl Jwk<'_> {
    fn text(&self, name: &'static str) -> Result<Option<String>, JwkError> {
        match self.given(name) {
            None => Ok(None),
            Some(_) => self.0.get(name).map(Some).ok_or(JwkError::Type(name, "a string")),
        }
    }

    /// The member as written; some publishers write `null` for what a key does not have.
    fn given(&self, name: &str) -> Option<&str> {
        self.0.raw(name).filter(|raw| *raw != "null")
    }

    fn required(&self, name: &'static str) -> Result<String, JwkError> {
        self.text(name)?.ok_or(JwkError::Missing(name))
    }

    fn bytes(&self, name: &'static str) -> Result<Vec<u8>, JwkError> {
        URL_SAFE_NO_PAD.decode(self.required(name)?).map_err(|_| JwkError::Base64(name))
    }

    /// A coordinate has the full length of its curve, leading zeros included (RFC 7518 §6.2.1.2).
    fn coordinate(&self, member: &'static str, expected: usize) -> Result<Vec<u8>, JwkError> {
        let bytes = self.bytes(member)?;
        let octets = bytes.len();
        if octets == expected { Ok(bytes) } else { Err(JwkError::Coordinate { member, octets, expected }) }
    }

    /// Without the leading zeros that some libraries put before it (RFC 7518 §6.3.1.1).
    fn integer(&self, name: &'static str) -> Result<Vec<u8>, JwkError> {
        let bytes = self.bytes(name)?;
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
    }

    fn must_be_public(&self) -> Result<(), JwkError> {
        const SECRET: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        if self.text("kty")?.as_deref() == Some("oct") {
            return Err(JwkError::Secret("kty oct"));
        }
        SECRET.into_iter().find(|name| self.0.raw(name).is_some()).map_or(Ok(()), |name| Err(JwkError::Secret(name)))
    }

    /// SPIFFE bundles mark keys by what they verify, JWT-SVIDs or X.509-SVIDs.
    fn must_be_for_signatures(&self) -> Result<(), JwkError> {
        match self.text("use")?.as_deref() {
            None | Some("sig" | "jwt-svid") => {}
            Some("x509-svid") => return Err(JwkError::Certificates),
            Some("enc") => return Err(JwkError::Purpose("its use is enc")),
            Some(_) => return Err(JwkError::Purpose("its use is neither sig nor jwt-svid")),
        }
        if self.given("key_ops").is_none() {
            return Ok(());
        }
        let operations: Vec<&RawValue> =
            self.0.get("key_ops").ok_or(JwkError::Type("key_ops", "an array of strings"))?;
        let is_verify = |operation: &&RawValue| {
            serde_json::from_str(operation.get()).is_ok_and(|operation: String| operation == "verify")
        };
        let verifies = operations.iter().any(is_verify);
        if verifies { Ok(()) } else { Err(JwkError::Purpose("its key_ops lack verify")) }
    }

    fn ec(&self, kind: Kind, curve: &'static dyn VerificationAlgorithm, len: usize) -> Result<Parts, JwkError> {
        let point = [vec![0x04], self.coordinate("x", len)?, self.coordinate("y", len)?].concat();
        ParsedPublicKey::new(curve, &point).map_err(|_| JwkError::Unsound("x and y are no point on its curve"))?;
        let key = DecodingKey::from_ec_der(&point);
        Ok((kind, point, key))
    }

    fn ed25519(&self) -> Result<Parts, JwkError> {
        let point = self.coordinate("x", 32)?;
        ParsedPublicKey::new(&ED25519, &point).map_err(|_| JwkError::Unsound("x is no point on its curve"))?;
        let key = DecodingKey::from_ed_der(&point);
        Ok((Kind::Ed25519, point, key))
    }

    fn rsa(&self) -> Result<Parts, JwkError> {
        let (n, e) = (self.integer("n")?, self.integer("e")?);
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !(2048..=8192).contains(&bits(&n)) {
            return Err(JwkError::Unsound("n has not 2048 to 8192 bits"));
        }
        if !odd(&n) {
            return Err(JwkError::Unsound("n is even"));
        }
        if !odd(&e) || !(2..=64).contains(&bits(&e)) {
            return Err(JwkError::Unsound("e is not an odd number of 2 to 64 bits"));
        }
        RsaPublicKeyComponents { n: &n, e: &e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| JwkError::Unsound("n and e are no RSA key"))?;
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
    use serde_json::{Value, json};

    use super::*;
    use crate::signer::{Signer, jwks};

    fn key(kid: &str) -> Value {
        Signer::new(kid, Algorithm::ES256).jwk()
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    /// No name means more than another: what a library makes of some is neither a key nor the end of one.
    #[test]
    fn private_names_of_libraries_are_ignored() {
        let name = "$serde_json::private::RawValue";
        let good = key("k");
        let text = json!({ "keys": [good] }).to_string();
        let wrapped = json!({ "keys": [{ name: good.to_string() }, { "x": { name: text } }] }).to_string();
        assert!(matches!(KeySet::parse(wrapped.as_bytes()), Err(JwksError::Nothing(_))));
        assert!(matches!(KeySet::parse(json!({ name: text }).to_string().as_bytes()), Err(JwksError::Form)));
        let beside = json!({ name: "{", "keys": [with(good, name, json!("{")), { name: "[" }] }).to_string();
        assert_eq!(KeySet::parse(beside.as_bytes()).unwrap().keys().count(), 1);
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
        assert!(matches!(parse(&bad).err(), Some(JwksError::Nothing(_))));
        assert_eq!(parse(&[]).err().unwrap().to_string(), "the key set has no usable key");
    }

    /// What may be wrong with one key, and what is said of it.
    fn faulty() -> Vec<(String, &'static str)> {
        let ec = || key("k");
        let padded = |jwk: Value, name: &str| {
            let text = format!("{}=", jwk[name].as_str().unwrap());
            with(jwk, name, json!(text))
        };
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        let twice = ec().to_string().replacen('{', "{\"x5t\":\"a\",\"x5t\":\"a\",", 1);
        let deep = with(ec(), "x5c", serde_json::from_str(&format!("{}{}", "[".repeat(40), "]".repeat(40))).unwrap());
        let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        let mut all = vec![(twice, "each member stands once"), ("1e999".to_owned(), "JSON object")];
        all.extend(
            [
                (json!(null), "JSON object"),
                (json!("text"), "JSON object"),
                (json!([ec()]), "JSON object"),
                (json!({}), "kty is missing"),
                (deep, "each member stands once"),
                (json!({"kty": "EC", "kid": "k"}), "crv is missing"),
                (json!({"kty": 1}), "kty must be a string"),
                (json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}), "kty and crv are not supported"),
                (json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), "kty and crv are not supported"),
                (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), "kty and crv are not supported"),
                (json!({"kty": "oct", "k": "AAAA"}), "it has kty oct"),
                (with(ec(), "d", json!("AAAA")), "not public: it has d"),
                (with(ec(), "d", json!(null)), "not public: it has d"),
                (with(ec(), "use", json!("enc")), "its use is enc"),
                (with(ec(), "use", json!("x509-svid")), "x509-svid"),
                (with(ec(), "use", json!(["sig"])), "use must be a string"),
                (with(ec(), "key_ops", json!(["encrypt"])), "key_ops lack verify"),
                (with(ec(), "key_ops", json!([])), "key_ops lack verify"),
                (with(ec(), "key_ops", json!("verify")), "key_ops must be an array"),
                (with(ec(), "alg", json!("HS256")), "its alg is not one"),
                (with(ec(), "alg", json!("RS256")), "its alg is not one"),
                (with(ec(), "kid", json!(1)), "kid must be a string"),
                (padded(ec(), "x"), "x is not base64url without padding"),
                (with(ec(), "y", json!("+/+/")), "y is not base64url without padding"),
                (with(ec(), "x", json!(short)), "x has 31 octets, not 32"),
                (with(ec(), "crv", json!("P-384")), "x has 32 octets, not 48"),
                (with(ec(), "y", json!(URL_SAFE_NO_PAD.encode([0; 33]))), "y has 33 octets, not 32"),
                (with(ec(), "y", json!(URL_SAFE_NO_PAD.encode([1; 32]))), "no point on its curve"),
                (json!({"kty": "RSA"}), "n is missing"),
                (json!({"kty": "RSA", "n": modulus(256)}), "e is missing"),
                (json!({"kty": "RSA", "n": modulus(64), "e": "AQAB"}), "2048 to 8192 bits"),
                (json!({"kty": "RSA", "n": modulus(64 << 10), "e": "AQAB"}), "2048 to 8192 bits"),
                (json!({"kty": "RSA", "n": modulus(256), "e": "AQ"}), "e is not an odd number"),
                (padded(json!({"kty": "RSA", "n": modulus(255), "e": "AQAB"}), "n"), "n is not base64url"),
            ]
            .map(|(jwk, said)| (jwk.to_string(), said)),
        );
        all
    }

    fn document(keys: &[String]) -> Vec<u8> {
        format!("{{\"spiffe_sequence\":1,\"keys\":[{}]}}", keys.join(",")).into_bytes()
    }

    /// A-075: whatever is wrong with a key, before or after the good one, that one serves, and what is said of the other
    /// names it, its fault and nothing of its numbers.
    #[test]
    fn one_unusable_key_never_costs_the_others() {
        let good = key("good").to_string();
        for (bad, said) in faulty() {
            for keys in [[bad.clone(), good.clone()], [good.clone(), bad.clone()]] {
                let index = usize::from(keys[0] == good);
                let set = KeySet::parse(&document(&keys)).unwrap();
                assert!(set.find(Some("good"), Algorithm::ES256).is_ok(), "{bad:.300}");
                let told = set.left_out();
                if said == "x509-svid" {
                    assert_eq!(told, None, "these belong in a bundle");
                    continue;
                }
                let told = told.unwrap_or_default();
                assert!(told.starts_with(&format!("keys[{index}]")) && told.contains(said), "{told}: {bad:.300}");
                assert!(told.len() < 200, "{told:.300}");
            }
            let nothing = KeySet::parse(&document(&[bad])).unwrap_err().to_string();
            assert!(
                nothing.starts_with("the key set has no usable key: keys[0]") && nothing.contains(said),
                "{nothing}"
            );
        }
        let all: Vec<_> = faulty().into_iter().map(|(bad, _)| bad).chain([good]).collect();
        let set = KeySet::parse(&document(&all)).unwrap();
        assert_eq!(set.keys().filter_map(VerificationKey::kid).collect::<Vec<_>>(), ["good"]);
        let told = set.left_out().unwrap();
        assert!(told.contains("keys[9]") && told.ends_with(" more") && told.len() < 2000, "{told}");
    }

    /// The name of a key is its publisher's.
    #[test]
    fn a_key_that_is_left_out_is_named_escaped_and_cut() {
        let bad = |kid: &str| json!({"kty": "EC", "kid": kid}).to_string();
        let told =
            |kid: &str| KeySet::parse(&document(&[bad(kid), key("good").to_string()])).unwrap().left_out().unwrap();
        assert_eq!(told("a\n\"b"), "keys[0] (kid a\\n\\\"b): crv is missing");
        assert_eq!(told(&"k".repeat(500)), format!("keys[0] (kid {}…): crv is missing", "k".repeat(64)));
    }

    /// RFC 7518 section 6.3.1.1: leading zeros of a modulus are no part of it. Other members are never looked at.
    #[test]
    fn what_does_not_matter_costs_no_key() {
        let rsa = Signer::new("k", Algorithm::RS256).jwk();
        let n = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
        for jwk in [
            with(rsa.clone(), "n", json!(URL_SAFE_NO_PAD.encode([&[0], &n[..]].concat()))),
            with(key("k"), "x5c", json!(["no certificate", 5, null])),
            with(key("k"), "x5c", json!({"a": 1})),
            with(key("k"), "x5t#S256", json!(7)),
            with(key("k"), "key_ops", json!(["sign", 1, "verify"])),
            with(key("k"), "use", json!("jwt-svid")),
            with(key("k"), "exp", json!("never")),
        ] {
            let set = parse(std::slice::from_ref(&jwk)).unwrap_or_else(|error| panic!("{error}: {jwk}"));
            assert_eq!(set.left_out(), None);
        }
    }

    #[test]
    fn a_key_says_why_it_is_not_used() {
        assert_eq!(refusal(&json!({"kty": "oct", "k": "AAAA"})), JwkError::Secret("kty oct"));
        assert_eq!(refusal(&with(key("k"), "use", json!("enc"))), JwkError::Purpose("its use is enc"));
        assert_eq!(refusal(&with(key("k"), "x", json!("AA=="))), JwkError::Base64("x"));
        assert_eq!(refusal(&json!({"kty": "RSA"})), JwkError::Missing("n"));
        assert_eq!(refusal(&json!([])), JwkError::Form);
    }

    /// A-075
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

    /// A-075
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

    fn jws_by(signer: &Signer, kid: &str) -> String {
        signer.sign(&json!({"typ": "at+jwt", "alg": signer.algorithm, "kid": kid}), "{}")
    }

    fn verifies(set: &KeySet, signer: &Signer, kid: &str) -> bool {
        let token = jws_by(signer, kid);
        let jws = Jws::parse(&token, 16 * 1024).unwrap();
        set.find(Some(kid), jws.algorithm).is_ok_and(|keys| keys.verify(&jws))
    }

    /// A-075, RFC 7517 section 4.5: keys of other kinds may share a name; of one kind each is tried, up to four.
    #[test]
    fn one_kid_for_two_keys_costs_no_key() {
        let of = |kid: &str, algorithm| Signer::new(kid, algorithm);
        let (ec, rsa, lone) =
            (of("same", Algorithm::ES256), of("same", Algorithm::RS256), of("lone", Algorithm::ES256));
        let others: Vec<_> = (0..4).map(|_| of("same", Algorithm::ES256)).collect();
        let mut keys = vec![rsa.jwk(), ec.jwk(), lone.jwk()];
        keys.extend(others.iter().map(Signer::jwk));
        let set = parse(&keys).unwrap();
        for signer in [&rsa, &ec, &lone, &others[0], &others[2]] {
            assert!(verifies(&set, signer, signer.jwk()["kid"].as_str().unwrap()));
        }
        assert!(!verifies(&set, &others[3], "same"), "the fifth of its kind");
        assert!(!verifies(&set, &of("same", Algorithm::ES256), "same") && !verifies(&set, &lone, "same"));
        assert!(set.left_out().unwrap().contains("keys[6] (kid same): four keys of its kind"));
        assert_eq!(set.find(Some("same"), Algorithm::ES384).err(), Some(NoKey::Unfit));
        let repeated = parse(&[ec.jwk(), ec.jwk()]).unwrap();
        assert_eq!((repeated.keys().count(), repeated.left_out()), (1, None), "the same key twice");
        assert!(repeated.find(None, Algorithm::ES256).is_ok());
    }

    /// A-075
    #[test]
    fn of_a_long_list_the_first_thousand_serve() {
        let good = key("k");
        let keys = |before: usize| [vec!["{}".to_owned(); before], vec![good.to_string()]].concat();
        let set = KeySet::parse(&document(&keys(KEYS_MAX - 1))).unwrap();
        assert!(set.find(Some("k"), Algorithm::ES256).is_ok());
        let late = KeySet::parse(&document(&keys(KEYS_MAX)));
        assert!(matches!(late, Err(JwksError::Nothing(_))));
        let mut all = vec![good.to_string()];
        all.extend(vec!["{}".to_owned(); 10_000]);
        let set = KeySet::parse(&document(&all)).unwrap();
        assert!(set.left_out().unwrap().ends_with("; and 990 more"));
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
            format!("[[{good}]]"),
            format!(r#"{{"keys":[{good}],"k\u0065ys":[]}}"#),
            format!(r#"{{"keys":[{good}]}} x"#),
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
