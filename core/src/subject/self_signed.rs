//! A JWT that the client signed itself, to vouch for a subject once (TT §11.2.1).
//!
//! Only the client's own keys count: that of its TLS certificate and those of its policy.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use serde_json::{Value, json};
use writ_verifier::Members;
use writ_verifier::jwks::{Candidates, NoKey, VerificationKey};
use writ_verifier::jws::Jws;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::SubjectError;
use super::SubjectFault::{AudienceMismatch, ClaimsInvalid, IssuerUnknown, KeyUnknown, SignatureInvalid};
use super::asserted::AssertedSubject;
use super::facts::{SingleUse, Statement};
use super::jwt::{self, issuer, wrong_typ};
use super::members::{audience, members, subject, text};
use super::times::Times;
use crate::client::{ClientId, PeerCertificate};
use crate::policy::ClientPolicy;
use crate::request::Source;
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;

/// The longest time from `iat` to `exp` (R-SUBJ-16).
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// `id-Ed25519` (RFC 8410 §3).
const ED25519: &str = "1.3.101.112";

/// The circumstances in which a token is presented.
#[derive(Clone, Copy)]
pub(super) struct Presentation<'a> {
    /// The client.
    pub client: &'a ClientPolicy,
    /// The certificate that its connection proved.
    pub certificate: &'a PeerCertificate,
    /// The `iss` of this service, which must be in `aud`.
    pub issuer: &'a str,
    /// The tolerated difference between the client's clock and that of this host.
    pub clock_skew: Duration,
    /// The instant of the request.
    pub now: Timestamp,
}

/// Verifies `text` as a token that its presenter signed. The ledger checks whether its `jti` was used before, when the
/// Txn-Token is recorded: a request that is refused for another reason uses up nothing.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, issuer, key, signature, audience and other claims, times.
pub(super) fn verify(text: &str, by: Presentation<'_>) -> Result<AssertedSubject, SubjectError> {
    let jws = jwt::parse(text)?;
    if !matches!(jws.typ.as_deref(), None | Some("jwt")) {
        return Err(wrong_typ(jws.typ.as_deref(), "self_signed", "`JWT` or absent"));
    }
    let claims = members(&jws.payload)?;
    if issuer(&claims)? != by.client.client_id.as_str() {
        return Err(
            IssuerUnknown.because("`iss` of a self-signed token is the client_id of the client that presents it")
        );
    }
    if !keys(&jws, by)?.verify(&jws) {
        return Err(SignatureInvalid
            .because("it was not made with the key that its header names, or its alg does not fit that key"));
    }
    if !audience(&claims)?.names_one_of(&[by.issuer]) {
        return Err(AudienceMismatch.because("`aud` of a self-signed token must name the issuer of this service"));
    }
    let sub = subject(&claims)?;
    let id = single_use(&by.client.client_id, &claims)?;
    let times = Times::read(&claims, by.now)?;
    let begins = times.iat.ok_or(ClaimsInvalid.because("`iat` is missing"))?;
    let fits = |lifetime: Duration| !lifetime.is_zero() && lifetime <= MAX_TOKEN_LIFETIME;
    let lifetime = times.exp.and_then(|exp| exp.checked_sub(begins)).filter(|&lifetime| fits(lifetime));
    let ends =
        lifetime.ok_or(ClaimsInvalid.because("`exp` must be present and at most ten minutes after `iat`"))? + begins;
    times.hold(by.now, by.clock_skew)?;
    let usable_until = Timestamp::from_epoch(ends.as_secs()) + by.clock_skew;
    let made = Timestamp::from_epoch(begins.as_secs());
    let single_use = Some(SingleUse { id, made, keep_until: usable_until });
    let statement = Statement {
        source: Source::SelfSigned,
        sub,
        claims: claims.into(),
        usable_until: Some(usable_until),
        single_use,
    };
    Ok(AssertedSubject::new(statement))
}

/// The keys that `kid` names; without `kid`, the key of the TLS certificate.
fn keys(jws: &Jws<'_>, by: Presentation<'_>) -> Result<Candidates, SubjectError> {
    const UNKNOWN: SubjectError = KeyUnknown.because(
        "its kid names neither the key of the client's certificate (by its thumbprint, RFC 7638) nor one of the jwks_file \
         in its policy; without kid the certificate's key is meant",
    );
    let of_certificate = certificate_key(by.certificate.public_key());
    let named = |key: &(VerificationKey, String)| jws.kid.as_ref().is_none_or(|kid| *kid == key.1);
    if let Some((key, _)) = of_certificate.filter(named) {
        return Ok(key.into());
    }
    let (Some(kid), Some(registered)) = (&jws.kid, &by.client.keys) else { return Err(UNKNOWN) };
    registered.find(Some(kid), jws.algorithm).map_err(|no_key| match no_key {
        NoKey::Unknown => UNKNOWN,
        NoKey::Unfit => SignatureInvalid.because("its alg does not fit the key that its header names"),
    })
}

/// A certificate's key and its RFC 7638 thumbprint; `None` for a kind that cannot sign tokens.
fn certificate_key(public_key: &[u8]) -> Option<(VerificationKey, String)> {
    let (_, info) = SubjectPublicKeyInfo::from_der(public_key).ok()?;
    let jwk = jwk(&info)?;
    let key = VerificationKey::parse(jwk.to_string().as_bytes()).ok()?;
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    Some((key, jwk.thumbprint(ThumbprintHash::SHA256).ok()?))
}

fn jwk(info: &SubjectPublicKeyInfo<'_>) -> Option<Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let number = |bytes: &[u8]| encode(&bytes[bytes.iter().take_while(|&&byte| byte == 0).count()..]);
    match info.parsed().ok()? {
        PublicKey::RSA(key) => Some(json!({"kty": "RSA", "n": number(key.modulus), "e": number(key.exponent)})),
        PublicKey::EC(point) => {
            let (form, coordinates) = point.data().split_first()?;
            let curve = match (form, coordinates.len()) {
                (4, 64) => "P-256",
                (4, 96) => "P-384",
                _ => return None,
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            Some(json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)}))
        }
        PublicKey::Unknown(point) if info.algorithm.algorithm.to_id_string() == ED25519 => {
            Some(json!({"kty": "OKP", "crv": "Ed25519", "x": encode(point)}))
        }
        _ => None,
    }
}

/// SHA-256 over client and `jti`, so that the same `jti` of another client is distinct.
fn single_use(client: &ClientId, claims: &Members) -> Result<[u8; 32], SubjectError> {
    const FORM: SubjectError = ClaimsInvalid.because("`jti` must have 1 to 255 characters, none a control character");
    let jti = text(claims, "jti")?;
    if jti.chars().any(char::is_control) || !(1..=255).contains(&jti.chars().count()) {
        return Err(FORM);
    }
    Ok(sha256(&[client.as_str().as_bytes(), &[0], jti.as_bytes()].concat()))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    };
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    };

    use super::*;
    use crate::subject::SubjectFault;
    use crate::subject::fixtures::{NOW, SKEW, client};

    const OURS: &str = "https://tts.d.example";

    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

    /// A certificate for each kind of key that TLS clients have, with its signing function.
    struct Signer {
        algorithm: &'static str,
        certificate: PeerCertificate,
        sign: Sign,
    }

    impl Signer {
        fn all() -> Vec<Self> {
            let ecdsa = |curve: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]| {
                let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8).unwrap();
                move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            };
            let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
            let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
            let ed25519_pair = Ed25519KeyPair::from_pkcs8(&ed25519.serialize_der()).unwrap();
            let rsa_pair = RsaKeyPair::from_pkcs8(&rsa.serialize_der()).unwrap();
            vec![
                Self::new("ES256", &p256, ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &p256.serialize_der())),
                Self::new("ES384", &p384, ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &p384.serialize_der())),
                Self::new("EdDSA", &ed25519, move |message| ed25519_pair.sign(message).as_ref().to_vec()),
                Self::new("RS256", &rsa, move |message| {
                    let mut signature = vec![0; rsa_pair.public_modulus_len()];
                    rsa_pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                    signature
                }),
            ]
        }

        fn new(algorithm: &'static str, key: &KeyPair, sign: impl Fn(&[u8]) -> Vec<u8> + 'static) -> Self {
            let certificate = CertificateParams::default().self_signed(key).unwrap();
            let certificate = PeerCertificate::parse(certificate.der()).unwrap();
            Self { algorithm, certificate, sign: Box::new(sign) }
        }

        fn token(&self, kid: Option<&str>) -> String {
            let mut header = json!({"alg": self.algorithm});
            header.as_object_mut().unwrap().extend(kid.map(|kid| ("kid".to_owned(), kid.into())));
            let (iat, exp) = (NOW.epoch() - 5, NOW.epoch() + 60);
            let claims = json!({"iss": "gateway", "sub": "ann", "aud": [OURS], "iat": iat, "exp": exp, "jti": "1"});
            let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
            let signed_part = format!("{}.{}", part(&header), part(&claims));
            let signature = (self.sign)(signed_part.as_bytes());
            format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn verified(&self, token: &str) -> Result<AssertedSubject, SubjectFault> {
            let client = client();
            let certificate = &self.certificate;
            let by = Presentation { client: &client, certificate, issuer: OURS, clock_skew: SKEW, now: NOW };
            verify(token, by).map_err(|error| error.fault())
        }
    }

    /// R-SUBJ-15: for every kind of key, with its thumbprint as `kid` or without `kid`.
    #[test]
    fn the_key_of_any_certificate_signs() {
        for signer in Signer::all() {
            let (_, thumbprint) = certificate_key(signer.certificate.public_key()).unwrap();
            for kid in [None, Some(thumbprint.as_str())] {
                let asserted = signer.verified(&signer.token(kid)).unwrap();
                assert_eq!((asserted.sub().as_str(), asserted.source()), ("ann", Source::SelfSigned));
                assert_eq!(asserted.usable_until(), Some(NOW + Duration::from_secs(60) + SKEW));
            }
            assert_eq!(signer.verified(&signer.token(Some("other"))).unwrap_err(), KeyUnknown);
        }
    }

    /// each key verifies its own tokens and no others.
    #[test]
    fn the_key_of_another_certificate_does_not() {
        let signers = Signer::all();
        for one in &signers {
            for other in signers.iter().filter(|other| other.algorithm != one.algorithm) {
                assert_eq!(one.verified(&other.token(None)).unwrap_err(), SignatureInvalid, "{}", other.algorithm);
            }
        }
        let (first, second) = (&signers[0], &Signer::all()[0]);
        assert_eq!(first.verified(&second.token(None)).unwrap_err(), SignatureInvalid);
    }

    ///
    #[test]
    fn a_jti_counts_for_its_client_alone() {
        let claims = |jti: &str| serde_json::from_value(json!({ "jti": jti })).unwrap();
        let id = |client: &str, jti: &str| single_use(&client.parse().unwrap(), &claims(jti)).unwrap();
        assert_eq!(id("a", "1"), id("a", "1"));
        assert_ne!(id("a", "1"), id("b", "1"));
        assert_ne!(id("a", "b1"), id("ab", "1"));
    }

    #[test]
    fn a_key_that_cannot_sign_tokens_is_refused() {
        assert!(certificate_key(b"").is_none() && certificate_key(&[0x30, 0]).is_none());
    }
}
