use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use writ_verifier::remote::FetchOutcome;

use super::keys::count_fetches;
use super::*;
use crate::limits::MAX_WAITING_FOR_KEYS;
use crate::subject::SubjectFault;
use crate::subject::fixtures::{ISSUER, NOW, SKEW, client, good, policies, settings};
use crate::subject::settings::{IntrospectionSettings, KeySource};

const OTHER: &str = "https://other.example";

/// The order of P-256.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn joined(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed_part = format!("{}.{}", base64(header), base64(claims));
    let signature = sign(signed_part.as_bytes());
    format!("{signed_part}.{}", base64(signature))
}

fn header(alg: &str, kid: &str) -> String {
    json!({"typ": "at+jwt", "alg": alg, "kid": kid}).to_string()
}

struct EcKey(EcdsaKeyPair);

impl EcKey {
    fn new() -> Self {
        Self::on(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn on(curve: &'static EcdsaSigningAlgorithm) -> Self {
        Self(EcdsaKeyPair::generate(curve).unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at((self.0.public_key().as_ref().len() - 1) / 2);
        let curve = if x.len() == 32 { "P-256" } else { "P-384" };
        json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y), "kid": kid})
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    fn token(&self, header: &str, claims: &Value) -> String {
        joined(header, &claims.to_string(), |message| self.sign(message))
    }

    /// A token that is valid if the issuer publishes this key as `kid`.
    fn good(&self, kid: &str) -> String {
        self.token(&header("ES256", kid), &good())
    }
}

struct RsaKey(RsaKeyPair);

impl RsaKey {
    fn jwk(&self, kid: &str, alg: &str) -> Value {
        // PKCS #1 of 2048 bits: two headers, a zero, the modulus; the exponent is 65537.
        let modulus = &self.0.public_key().as_ref()[9..265];
        json!({"kty": "RSA", "n": base64(modulus), "e": "AQAB", "kid": kid, "alg": alg})
    }

    fn token(&self, alg: &str, kid: &str, encoding: &'static dyn RsaEncoding) -> String {
        joined(&header(alg, kid), &good().to_string(), |message| {
            let mut signature = vec![0; self.0.public_modulus_len()];
            self.0.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        })
    }
}

/// Issuers with key files in a folder of their own.
struct Fixture {
    folder: TempDir,
    issuers: Issuers,
}

impl Fixture {
    /// One issuer that publishes `keys`.
    fn new(keys: &[Value]) -> Self {
        Self::with(keys, |_| {})
    }

    fn with(keys: &[Value], change: impl FnOnce(&mut IssuerSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(ISSUER, publish(&folder, "a", keys));
        change(&mut settings);
        let issuers = Issuers::new(vec![settings], SKEW).unwrap();
        Self { folder, issuers }
    }

    #[track_caller]
    fn ask(&self, token: &str) -> Result<OutsideToken, SubjectFault> {
        ask(&self.issuers, token)
    }

    #[track_caller]
    fn refuses(&self, token: &str, expected: &SubjectFault) {
        assert_eq!(self.ask(token).as_ref().err(), Some(expected), "{token:.300}");
    }
}

fn publish(folder: &TempDir, name: &str, keys: &[Value]) -> KeySource {
    let path = folder.path().join(name);
    fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    KeySource::File(path)
}

/// The outcome for a token, which is the same when it is presented again. Keys from files need no waiting.
#[track_caller]
fn ask(issuers: &Issuers, token: &str) -> Result<OutsideToken, SubjectFault> {
    let ask = || {
        issuers.verify(Source::AccessToken, &TokenText::of(token), &client(), &policies(), NOW).now_or_never().unwrap()
    };
    let verified = ask();
    assert_eq!(ask(), verified);
    verified.map_err(|error| error.fault())
}

#[test]
fn a_token_signed_with_a_published_key_is_verified() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[EcKey::new().jwk("other"), key.jwk("k")]);
    assert_eq!(fixture.ask(&key.good("k")).unwrap().sub().as_str(), "alice");
}

/// A-044
#[test]
fn a_token_without_its_signature_is_refused() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    let good = key.good("k");
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    fixture.refuses(&format!("{signed_part}."), &SignatureInvalid);
    fixture.refuses(signed_part, &Malformed);
    let none = format!("{}.{}.", base64(header("none", "k")), base64(good.split('.').nth(1).unwrap()));
    fixture.refuses(&none, &SignatureInvalid);
    let other_claims = key.token(&header("ES256", "k"), &json!({"iss": ISSUER}));
    let (other_part, _) = other_claims.rsplit_once('.').unwrap();
    fixture.refuses(&format!("{other_part}.{signature}"), &SignatureInvalid);
}

/// A-045
#[test]
fn a_public_key_is_not_a_shared_secret() {
    let key = EcKey::new();
    let jwk = key.jwk("k");
    let fixture = Fixture::with(std::slice::from_ref(&jwk), |settings| settings.algorithms.push(Algorithm::RS256));
    let der = key.0.public_key().as_der().unwrap();
    let point = key.0.public_key().as_ref();
    for secret in [vec![], jwk.to_string().into(), jwk["x"].to_string().into(), point.to_vec(), der.as_ref().to_vec()] {
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let token = joined(&header("HS256", "k"), &good().to_string(), |message| {
            aws_lc_rs::hmac::sign(&hmac, message).as_ref().to_vec()
        });
        fixture.refuses(&token, &SignatureInvalid);
    }
}

/// A-046: the issuer's list, and the key's type, curve and `alg` must all allow the algorithm.
#[test]
fn an_algorithm_must_fit_the_issuer_and_the_key() {
    let p256 = EcKey::new();
    let p384 = EcKey::on(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let rsa = RsaKey(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let keys = [p256.jwk("p256"), p384.jwk("p384"), rsa.jwk("rsa", "RS256")];
    let narrow = Fixture::new(&keys);
    let wide = Fixture::with(&keys, |settings| {
        settings.algorithms = vec![Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::PS256];
    });
    let es384 = p384.token(&header("ES384", "p384"), &good());
    let rs256 = rsa.token("RS256", "rsa", &RSA_PKCS1_SHA256);
    for token in [&es384, &rs256] {
        narrow.refuses(token, &SignatureInvalid);
        assert!(wide.ask(token).is_ok());
    }
    for token in [
        rsa.token("PS256", "rsa", &RSA_PSS_SHA256),
        rsa.token("ES256", "rsa", &RSA_PKCS1_SHA256),
        rsa.token("RS256", "p256", &RSA_PKCS1_SHA256),
        p384.token(&header("ES256", "p384"), &good()),
        p256.token(&header("ES384", "p256"), &good()),
        p256.token(&header("ES384", "p384"), &good()),
        p256.token(&header("ES512", "p256"), &good()),
    ] {
        wide.refuses(&token, &SignatureInvalid);
    }
}

/// A-047
#[test]
fn a_key_that_a_token_brings_is_not_trusted() {
    let (ours, own) = (EcKey::new(), EcKey::new());
    let fixture = Fixture::new(&[ours.jwk("k")]);
    for (name, value) in
        [("jwk", own.jwk("k")), ("jku", json!("https://evil.example")), ("x5c", json!([])), ("x5u", json!(""))]
    {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": "k", name: value}).to_string();
        fixture.refuses(&own.token(&header, &good()), &Malformed);
        fixture.refuses(&ours.token(&header, &good()), &Malformed);
    }
}

/// A-048
#[test]
fn a_kid_is_compared_and_nothing_else() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    for kid in ["K", "k ", "../a", "/etc/passwd", "https://evil.example", "' OR 1=1 --", "%6b", &"k".repeat(256)] {
        fixture.refuses(&key.good(kid), &KeyUnknown);
    }
    for kid in ["", "k\0", "k\r\n", "\u{1b}[2J", &"k".repeat(257), &"k".repeat(15_000)] {
        fixture.refuses(&key.good(kid), &Malformed);
    }
    for kid in [json!(1), json!(["k"]), json!(null)] {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": kid}).to_string();
        fixture.refuses(&key.token(&header, &good()), &Malformed);
    }
}

#[test]
fn a_token_without_kid_needs_an_issuer_with_one_key() {
    let key = EcKey::new();
    let token = key.token(r#"{"typ":"at+jwt","alg":"ES256"}"#, &good());
    assert!(Fixture::new(&[key.jwk("k")]).ask(&token).is_ok());
    Fixture::new(&[key.jwk("k"), EcKey::new().jwk("l")]).refuses(&token, &KeyUnknown);
}

/// A-050
#[test]
fn an_impossible_signature_is_refused() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    let der = der_form(&key.sign(b"message"));
    let short = key.sign(b"message")[..63].to_vec();
    for signature in
        [vec![0; 64], [[0; 32], ORDER].concat(), [ORDER, ORDER].concat(), vec![1; 64], der, short, vec![7; 9_000]]
    {
        let token = joined(&header("ES256", "k"), &good().to_string(), |_| signature);
        fixture.refuses(&token, &SignatureInvalid);
    }
    let right = |message: &[u8]| der_form(&key.sign(message));
    fixture.refuses(&joined(&header("ES256", "k"), &good().to_string(), right), &SignatureInvalid);
}

/// The other encoding of an ECDSA signature, RFC 3279 §2.2.3.
fn der_form(fixed: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| [&[2, 33, 0], bytes].concat();
    let (r, s) = fixed.split_at(32);
    [vec![0x30, 70], integer(r), integer(s)].concat()
}

/// A-059
#[test]
fn an_issuer_is_compared_byte_for_byte() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    for iss in [
        "",
        "https://login.example/",
        "https://LOGIN.example",
        "https://login.example:443",
        "https://u@login.example",
        "https://1ogin.example",
        "http://login.example",
        "file:///etc/passwd",
        "http://169.254.169.254",
        "https://127.0.0.1",
    ] {
        let mut claims = good();
        claims["iss"] = json!(iss);
        fixture.refuses(&key.token(&header("ES256", "k"), &claims), &IssuerUnknown);
    }
}

#[test]
fn an_issuer_that_issues_no_access_tokens_is_unknown_for_them() {
    let key = EcKey::new();
    let fixture = Fixture::with(&[key.jwk("k")], |settings| settings.token_types = vec![Source::IdToken, Source::Jwt]);
    fixture.refuses(&key.good("k"), &IssuerUnknown);
}

/// A-060
#[test]
fn a_key_of_another_issuer_with_the_same_kid_does_not_serve() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (EcKey::new(), EcKey::new());
    let first = settings(ISSUER, publish(&folder, "a", &[a.jwk("k")]));
    let mut second = settings(OTHER, publish(&folder, "b", &[b.jwk("k"), b.jwk("l")]));
    second.subject_prefix = "b:".to_owned();
    let issuers = Issuers::new(vec![first, second], SKEW).unwrap();
    let mut of_other = good();
    of_other["iss"] = json!(OTHER);
    assert_eq!(ask(&issuers, &a.good("k")).unwrap().sub().as_str(), "alice");
    let token = b.token(&header("ES256", "k"), &of_other);
    assert_eq!(ask(&issuers, &token).unwrap().sub().as_str(), "b:alice");
    assert_eq!(ask(&issuers, &b.good("k")).err(), Some(SignatureInvalid));
    assert_eq!(ask(&issuers, &b.good("l")).err(), Some(KeyUnknown));
    // The first issuer has no prefix, and may not use subjects that begin with the other's.
    let mut foreign = good();
    foreign["sub"] = json!("b:alice");
    let answer = ask(&issuers, &a.token(&header("ES256", "k"), &foreign));
    assert!(matches!(answer, Err(SubjectFault::ClaimsInvalid)), "{answer:?}");
}

/// R-SUBJ-07
#[test]
fn two_issuers_share_neither_name_nor_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let keys = publish(&folder, "a", &[EcKey::new().jwk("k")]);
    let of = |issuer: &str, prefix: &str| {
        let mut settings = settings(issuer, keys.clone());
        prefix.clone_into(&mut settings.subject_prefix);
        settings
    };
    let set_up = |all: Vec<IssuerSettings>| Issuers::new(all, SKEW).err();
    assert!(matches!(set_up(vec![of("a", ""), of("b", "")]), Some(IssuersError::SharedPrefix(..))));
    assert!(matches!(set_up(vec![of("a", ""), of("a", "")]), Some(IssuersError::Repeated(_))));
    assert!(matches!(set_up(vec![of("a", ""), of("a", "b")]), Some(IssuersError::Repeated(_))));
    assert!(set_up(vec![of("a", ""), of("b", "b")]).is_none());
}

#[test]
fn a_key_file_that_can_not_be_used_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let set_up =
        || Issuers::new(vec![settings(ISSUER, KeySource::File(path.clone()))], SKEW).err().unwrap().to_string();
    assert!(set_up().contains("keys.json"), "missing");
    for text in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA","kid":"k"}]}"#] {
        fs::write(&path, text).unwrap();
        assert!(set_up().contains("keys.json"), "{text}");
    }
}

/// A-076
#[test]
fn a_removed_key_is_no_longer_used_and_a_broken_file_changes_nothing() {
    let (old, new) = (EcKey::new(), EcKey::new());
    let fixture = Fixture::new(&[old.jwk("old")]);
    let path = fixture.folder.path().join("a");
    let token = old.good("old");
    fs::write(&path, "{").unwrap();
    fixture.issuers.reload_files();
    assert!(fixture.ask(&token).is_ok());
    fs::remove_file(&path).unwrap();
    fixture.issuers.reload_files();
    assert!(fixture.ask(&token).is_ok());
    publish(&fixture.folder, "a", &[new.jwk("new")]);
    fixture.issuers.reload_files();
    assert!(fixture.ask(&new.good("new")).is_ok());
    fixture.refuses(&token, &KeyUnknown);
    publish(&fixture.folder, "a", &[new.jwk("old")]);
    fixture.issuers.reload_files();
    fixture.refuses(&token, &SignatureInvalid);
}

/// Whether the issuers remember a token at `now`.
fn is_remembered(issuers: &Issuers, token: &str, now: Timestamp) -> bool {
    issuers.remembered.get(&TokenHash::of(token), now.epoch()).is_some()
}

#[test]
fn only_accepted_tokens_are_remembered_and_none_after_its_exp() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    let of = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        key.token(&header("ES256", "k"), &claims)
    };
    let skewed = of("exp", json!(NOW.epoch() - 5));
    for (token, is_accepted) in [
        (key.good("k"), true),
        (EcKey::new().good("k"), false),
        (of("aud", json!("https://elsewhere.example")), false),
        (of("sub", json!("svc:gateway")), false),
        (of("exp", json!(NOW.epoch() - 11)), false),
        (skewed.clone(), true),
    ] {
        assert_eq!(fixture.ask(&token).is_ok(), is_accepted);
        assert_eq!(is_remembered(&fixture.issuers, &token, NOW), is_accepted && token != skewed, "{token}");
    }
    let token = of("exp", json!(NOW.epoch() + 9));
    assert!(fixture.ask(&token).is_ok());
    assert!(is_remembered(&fixture.issuers, &token, NOW + Duration::from_secs(8)));
    assert!(!is_remembered(&fixture.issuers, &token, NOW + Duration::from_secs(9)));
}

/// The file is read again all the time.
#[test]
fn a_file_that_has_not_changed_keeps_its_keys() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    let find = || {
        let client = client().client_id;
        let keys = fixture.issuers.by_iss[ISSUER].find_keys(Some("k"), Algorithm::ES256, &client);
        keys.now_or_never().unwrap().unwrap()
    };
    let token = key.good("k");
    assert!(fixture.ask(&token).is_ok());
    let known = fixture.issuers.remembered.get(&TokenHash::of(&token), NOW.epoch()).unwrap();
    fixture.issuers.reload_files();
    assert!(known.is_signed_with_one_of(&find()));
    publish(&fixture.folder, "a", &[key.jwk("k"), EcKey::new().jwk("l")]);
    fixture.issuers.reload_files();
    assert!(!known.is_signed_with_one_of(&find()));
    assert!(fixture.ask(&token).is_ok(), "it is verified again");
}

/// A-050: with `s` negated an ECDSA signature is valid too, but the token is another text, which is verified by itself.
#[test]
fn the_other_form_of_a_signature_is_another_token() {
    let key = EcKey::new();
    let fixture = Fixture::new(&[key.jwk("k")]);
    let token = key.good("k");
    let (signed_part, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (digit, order) in signature[32..].iter_mut().zip(ORDER).rev() {
        let difference = 256 + u16::from(order) - u16::from(*digit) - borrow;
        borrow = u16::from(difference < 256);
        *digit = difference.to_le_bytes()[0];
    }
    let other = format!("{signed_part}.{}", base64(&signature));
    assert!(fixture.ask(&token).is_ok() && !is_remembered(&fixture.issuers, &other, NOW));
    assert!(fixture.ask(&other).is_ok() && is_remembered(&fixture.issuers, &other, NOW));
    signature[63] ^= 1;
    fixture.refuses(&format!("{signed_part}.{}", base64(&signature)), &SignatureInvalid);
}

/// A-070: an unreachable issuer is unavailable and does not delay others.
#[tokio::test]
async fn an_issuer_that_is_away_is_unavailable_and_the_others_serve() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, rcgen::generate_simple_self_signed(["login.example".to_owned()]).unwrap().cert.pem()).unwrap();
    let key = EcKey::new();
    // Nothing listens on port 1 of this host.
    let mut away = settings(ISSUER, KeySource::Uri("https://127.0.0.1:1/jwks".parse().unwrap()));
    away.ca = Some(ca.clone());
    let mut here = settings(OTHER, publish(&folder, "b", &[key.jwk("k")]));
    here.subject_prefix = "b:".to_owned();
    let issuers = Issuers::new(vec![away.clone(), here], SKEW).unwrap();
    issuers.warm();
    let ask = async |token: &str| {
        issuers
            .verify(Source::AccessToken, &TokenText::of(token), &client(), &policies(), NOW)
            .await
            .err()
            .map(|e| e.fault())
    };
    let mut of_other = good();
    of_other["iss"] = json!(OTHER);
    assert_eq!(ask(&key.token(&header("ES256", "k"), &of_other)).await, None);
    assert_eq!(ask(&key.good("k")).await, Some(IssuerUnavailable));
    assert_eq!(ask(&key.token(&header("ES384", "k"), &good())).await, Some(SignatureInvalid));

    away.ca = Some(folder.path().join("missing.pem"));
    let error = Issuers::new(vec![away.clone()], SKEW).err().unwrap();
    assert!(error.to_string().contains("missing.pem"), "{error}");
    away.ca = Some(ca);
    away.keys = KeySource::Uri("http://127.0.0.1:1/jwks".parse().unwrap());
    assert!(matches!(Issuers::new(vec![away], SKEW), Err(IssuersError::Remote { .. })));
}

/// R-SUBJ-04, A-042: neither one client nor all of them can occupy every place while an issuer hangs.
#[tokio::test]
async fn waiting_for_the_keys_of_an_issuer_is_limited_in_total_and_by_client() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, rcgen::generate_simple_self_signed(["login.example".to_owned()]).unwrap().cert.pem()).unwrap();
    // It accepts connections and never answers.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("https://{}/jwks", hole.local_addr().unwrap());
    let key = EcKey::new();
    let mut hanging = settings(ISSUER, KeySource::Uri(uri.parse().unwrap()));
    hanging.ca = Some(ca);
    let mut here = settings(OTHER, publish(&folder, "b", &[key.jwk("k")]));
    here.subject_prefix = "b:".to_owned();
    let issuers = Issuers::new(vec![hanging, here], SKEW).unwrap();
    let (token, policies) = (TokenText::of(&key.good("k")), policies());
    let clients: Vec<_> =
        (0..9).map(|number| ClientPolicy { client_id: format!("c{number}").parse().unwrap(), ..client() }).collect();
    let mut waiting = Vec::new();
    let mut hoard = |client| {
        let before = waiting.len();
        loop {
            let mut asked = Box::pin(issuers.verify(Source::AccessToken, &token, client, &policies, NOW));
            match asked.as_mut().now_or_never() {
                None => waiting.push(asked),
                Some(refused) => {
                    assert_eq!(refused.err().map(|error| error.fault()), Some(IssuerUnavailable));
                    return waiting.len() - before;
                }
            }
        }
    };
    let held: Vec<_> = clients.iter().map(&mut hoard).collect();
    assert!((MAX_WAITING_FOR_KEYS / 2..MAX_WAITING_FOR_KEYS).contains(&held[0]), "{held:?}");
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
    assert!(held.iter().sum::<usize>() <= MAX_WAITING_FOR_KEYS);
    let mut of_other = good();
    of_other["iss"] = json!(OTHER);
    let elsewhere = key.token(&header("ES256", "k"), &of_other);
    let answer =
        issuers.verify(Source::AccessToken, &TokenText::of(&elsewhere), &clients[0], &policies, NOW).now_or_never();
    assert!(matches!(answer, Some(Ok(_))), "who needs no word of that issuer does not wait");
}

/// CONTRACT 3.2, R-SUBJ-11
#[tokio::test]
async fn an_opaque_token_is_sent_to_at_most_one_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, secret) = (folder.path().join("ca.pem"), folder.path().join("login.secret"));
    fs::write(&ca, rcgen::generate_simple_self_signed(["login.example".to_owned()]).unwrap().cert.pem()).unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let of = |issuer: &str, introspects: bool| {
        let mut settings = settings(issuer, publish(&folder, "keys", &[EcKey::new().jwk("k")]));
        issuer.clone_into(&mut settings.subject_prefix);
        settings.ca = Some(ca.clone());
        settings.introspection = introspects.then(|| IntrospectionSettings {
            // Nothing listens on port 1 of this host.
            endpoint: "https://127.0.0.1:1/introspect".parse().unwrap(),
            client_id: "writ".to_owned(),
            client_secret_file: secret.clone(),
            always: false,
        });
        settings
    };
    let chosen = |settings: Vec<IssuerSettings>, named: Option<&str>| {
        let client = ClientPolicy { opaque_tokens_from: named.map(str::to_owned), ..client() };
        let issuers = Issuers::new(settings, SKEW).unwrap();
        issuers.introspecting(&client).map(|(issuer, _)| issuer.settings.issuer.clone())
    };
    assert_eq!(chosen(vec![of("a", false), of("b", true)], None).as_deref(), Some("b"));
    assert_eq!(chosen(vec![of("a", true), of("b", true)], Some("b")).as_deref(), Some("b"));
    assert_eq!(chosen(vec![of("a", false)], None), None, "none can be asked");
    assert_eq!(chosen(vec![of("a", true), of("b", true)], None), None, "which one?");
    assert_eq!(chosen(vec![of("a", false), of("b", true)], Some("a")), None, "never another than the named one");

    let issuers = Issuers::new(vec![of("a", true)], SKEW).unwrap();
    let ask = async |kind, text: &str| {
        issuers.verify(kind, &TokenText::of(text), &client(), &policies(), NOW).await.err().map(|error| error.fault())
    };
    assert_eq!(ask(Source::AccessToken, "opaque").await, Some(IssuerUnavailable));
    for (kind, text) in [(Source::AccessToken, "opa que"), (Source::Jwt, "opaque"), (Source::IdToken, "opaque")] {
        assert_eq!(ask(kind, text).await, Some(Malformed), "{kind:?}");
    }
    fs::remove_file(&secret).unwrap();
    let error = Issuers::new(vec![of("a", true)], SKEW).err().unwrap();
    assert!(matches!(error, IssuersError::Introspection { .. }), "{error}");
}

/// R-SUBJ-11: each use of such a token is asked about.
#[tokio::test]
async fn nothing_is_remembered_of_an_issuer_that_is_always_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, secret) = (folder.path().join("ca.pem"), folder.path().join("login.secret"));
    fs::write(&ca, rcgen::generate_simple_self_signed(["login.example".to_owned()]).unwrap().cert.pem()).unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let key = EcKey::new();
    let issuers = |always| {
        let mut settings = settings(ISSUER, publish(&folder, "keys", &[key.jwk("k")]));
        settings.token_types.push(Source::Jwt);
        settings.ca = Some(ca.clone());
        settings.introspection = Some(IntrospectionSettings {
            // Nothing listens on port 1 of this host.
            endpoint: "https://127.0.0.1:1/introspect".parse().unwrap(),
            client_id: "writ".to_owned(),
            client_secret_file: secret.clone(),
            always,
        });
        Issuers::new(vec![settings], SKEW).unwrap()
    };
    let access_token = key.good("k");
    let jwt = key.token(&json!({"alg": "ES256", "kid": "k"}).to_string(), &good());
    for always in [true, false] {
        let issuers = issuers(always);
        let ask = async |kind, token: &str| {
            issuers
                .verify(kind, &TokenText::of(token), &client(), &policies(), NOW)
                .await
                .err()
                .map(|error| error.fault())
        };
        assert_eq!(ask(Source::AccessToken, &access_token).await, always.then_some(IssuerUnavailable));
        assert_eq!(ask(Source::Jwt, &jwt).await, None);
        for token in [&access_token, &jwt] {
            assert_eq!(is_remembered(&issuers, token, NOW), !always);
        }
    }
}

#[test]
fn every_fetch_is_counted_by_issuer_and_outcome() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let observe = count_fetches(ISSUER.to_owned());
        for outcome in [FetchOutcome::Ok, FetchOutcome::Ok, FetchOutcome::Unchanged, FetchOutcome::Error] {
            observe(outcome);
        }
    });
    let page = recorder.handle().render();
    for (outcome, count) in [("ok", 2), ("unchanged", 1), ("error", 1)] {
        let line = format!("writ_jwks_fetch_total{{issuer=\"{ISSUER}\",outcome=\"{outcome}\"}} {count}");
        assert!(page.contains(&line), "{page}");
    }
}

static GOOD: LazyLock<(Issuers, String)> = LazyLock::new(|| {
    let key = EcKey::new();
    (Fixture::new(&[key.jwk("k")]).issuers, key.good("k"))
});

fn changed(text: &str, edits: &[(prop::sample::Index, u8, char)]) -> String {
    let mut changed: Vec<char> = text.chars().collect();
    for (at, how, with) in edits {
        let at = at.index(changed.len());
        match how {
            0 => changed[at] = *with,
            1 => changed.insert(at, *with),
            _ => drop(changed.remove(at)),
        }
    }
    changed.into_iter().collect()
}

/// One token in one set of circumstances.
#[derive(Debug, Clone)]
struct Case {
    token: usize,
    kind: Source,
    audience: &'static [&'static str],
    vouches: bool,
    own_subject: &'static str,
    seconds: u64,
    keys: usize,
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    let kind = prop::sample::select(vec![Source::AccessToken, Source::Jwt, Source::IdToken]);
    let audience = prop::sample::select(vec![&[][..], &["https://api.example"], &["https://api2.example"]]);
    let own_subject = prop::sample::select(vec!["svc:gateway", "alice"]);
    let case = (0..12_usize, kind, audience, any::<bool>(), own_subject, 0..40_u64, 0..8_usize).prop_map(
        |(token, kind, audience, vouches, own_subject, seconds, keys)| Case {
            token,
            kind,
            audience,
            vouches,
            own_subject,
            seconds,
            keys,
        },
    );
    prop::collection::vec(case, 1..40)
}

/// An issuer of all kinds of tokens, its tokens, and the key sets that it may publish.
struct Scene {
    settings: IssuerSettings,
    folder: TempDir,
    tokens: Vec<String>,
    key_sets: Vec<Vec<Value>>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let (a, b) = (EcKey::new(), EcKey::new());
    let of = |key: &EcKey, header: Value, name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        key.token(&header.to_string(), &claims)
    };
    let at = |kid: &str| json!({"typ": "at+jwt", "alg": "ES256", "kid": kid});
    let jwt = |kid: &str| json!({"alg": "ES256", "kid": kid});
    let tokens = vec![
        a.good("a"),
        b.good("b"),
        a.good("b"),
        of(&a, at("a"), "aud", json!(["https://api.example", "https://api2.example"])),
        of(&a, at("a"), "cnf", json!({"jkt": "x"})),
        of(&a, at("a"), "exp", json!(NOW.epoch() + 10)),
        of(&a, at("a"), "nbf", json!(NOW.epoch() + 20)),
        of(&a, json!({"typ": "at+jwt", "alg": "ES256"}), "sub", json!("bob")),
        of(&a, jwt("a"), "sub", json!("bob")),
        of(&b, jwt("b"), "aud", json!("web")),
        of(&b, jwt("b"), "exp", json!(NOW.epoch() + 15)),
        of(&a, at("a"), "sub", json!("alice")),
    ];
    let key_sets = vec![
        vec![a.jwk("a"), b.jwk("b")],
        vec![a.jwk("a")],
        vec![b.jwk("b")],
        vec![b.jwk("a"), a.jwk("b")],
        vec![a.jwk("a"), b.jwk("a"), b.jwk("b")],
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(ISSUER, publish(&folder, "keys", &key_sets[0]));
    settings.token_types = vec![Source::AccessToken, Source::Jwt, Source::IdToken];
    settings.id_token_audience = vec!["web".to_owned()];
    Scene { settings, folder, tokens, key_sets }
});

impl Case {
    fn outcome(&self, issuers: &Issuers) -> Result<OutsideToken, SubjectError> {
        let client = ClientPolicy {
            subject_token_audience: self.audience.iter().map(|&name| name.to_owned()).collect(),
            vouches_for_bound_tokens: self.vouches,
            subject: self.own_subject.parse().unwrap(),
            ..client()
        };
        let policies = PolicySet::new(vec![client.clone()], String::new());
        let (token, now) = (&SCENE.tokens[self.token], NOW + Duration::from_secs(self.seconds));
        issuers.verify(self.kind, &TokenText::of(token), &client, &policies, now).now_or_never().unwrap()
    }
}

proptest! {
    /// Whatever was verified before, with whichever keys, for whom and when: each outcome is the one that issuers who
    /// remember nothing would give.
    #[test]
    fn remembered_tokens_change_no_outcome(cases in cases()) {
        let Scene { settings, folder, key_sets, .. } = &*SCENE;
        let remembering = Issuers::new(vec![settings.clone()], SKEW).unwrap();
        for case in cases {
            if let Some(keys) = key_sets.get(case.keys) {
                publish(folder, "keys", keys);
                remembering.reload_files();
            }
            let forgetful = Issuers::new(vec![settings.clone()], SKEW).unwrap();
            prop_assert_eq!(case.outcome(&remembering), case.outcome(&forgetful), "{:?}", case);
        }
    }
}

proptest! {
    /// R-SUBJ-01
    #[test]
    fn a_token_changed_anywhere_is_never_verified(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, "[-A-Za-z0-9_.=+/ \\n\u{e9}]"), 1..4)
    ) {
        let (issuers, good) = &*GOOD;
        let edits: Vec<_> = edits.into_iter().map(|(at, how, with)| (at, how, with.chars().next().unwrap())).collect();
        let text = changed(good, &edits);
        prop_assert_eq!(ask(issuers, &text).is_ok(), text == *good);
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        prop_assert!(ask(&GOOD.0, &text).is_err());
    }
}
