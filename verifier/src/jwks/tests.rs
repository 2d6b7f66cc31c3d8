use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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

#[test]
fn reserved_names_of_libraries_have_no_special_meaning() {
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

/// Unusable keys, each with a part of the expected reason.
fn unusable_keys() -> Vec<(String, &'static str)> {
    let ec = || key("k");
    let padded = |jwk: Value, name: &str| {
        let text = format!("{}=", jwk[name].as_str().unwrap());
        with(jwk, name, json!(text))
    };
    let short = URL_SAFE_NO_PAD.encode([1; 31]);
    let twice = ec().to_string().replacen('{', "{\"x5t\":\"a\",\"x5t\":\"a\",", 1);
    let deep = with(ec(), "x5c", serde_json::from_str(&format!("{}{}", "[".repeat(40), "]".repeat(40))).unwrap());
    let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
    let mut all = vec![(twice, "each member name occurs once"), ("1e999".to_owned(), "JSON object")];
    all.extend(
        [
            (json!(null), "JSON object"),
            (json!("text"), "JSON object"),
            (json!([ec()]), "JSON object"),
            (json!({}), "kty is missing"),
            (deep, "each member name occurs once"),
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
            (with(ec(), "key_ops", json!(["encrypt"])), "key_ops do not include verify"),
            (with(ec(), "key_ops", json!([])), "key_ops do not include verify"),
            (with(ec(), "key_ops", json!("verify")), "key_ops must be an array"),
            (with(ec(), "alg", json!("HS256")), "its alg is not a signature algorithm"),
            (with(ec(), "alg", json!("RS256")), "its alg is not a signature algorithm"),
            (with(ec(), "kid", json!(1)), "kid must be a string"),
            (padded(ec(), "x"), "x is not base64url without padding"),
            (with(ec(), "y", json!("+/+/")), "y is not base64url without padding"),
            (with(ec(), "x", json!(short)), "x has 31 octets, not 32"),
            (with(ec(), "crv", json!("P-384")), "x has 32 octets, not 48"),
            (with(ec(), "y", json!(URL_SAFE_NO_PAD.encode([0; 33]))), "y has 33 octets, not 32"),
            (with(ec(), "y", json!(URL_SAFE_NO_PAD.encode([1; 32]))), "not a point on its curve"),
            (json!({"kty": "RSA"}), "n is missing"),
            (json!({"kty": "RSA", "n": modulus(256)}), "e is missing"),
            (json!({"kty": "RSA", "n": modulus(64), "e": "AQAB"}), "2048 to 8192 bits"),
            (json!({"kty": "RSA", "n": modulus(64 << 10), "e": "AQAB"}), "2048 to 8192 bits"),
            (json!({"kty": "RSA", "n": modulus(256), "e": "AQ"}), "e is not an odd number"),
            (padded(json!({"kty": "RSA", "n": modulus(255), "e": "AQAB"}), "n"), "n is not base64url"),
        ]
        .map(|(jwk, reason)| (jwk.to_string(), reason)),
    );
    all
}

fn document(keys: &[String]) -> Vec<u8> {
    format!("{{\"spiffe_sequence\":1,\"keys\":[{}]}}", keys.join(",")).into_bytes()
}

/// A-075: an unusable key before or after a usable one does not affect it. The report names the unusable key and the
/// reason, and contains none of its key material.
#[test]
fn an_unusable_key_does_not_affect_the_others() {
    let good = key("good").to_string();
    for (bad, reason) in unusable_keys() {
        for keys in [[bad.clone(), good.clone()], [good.clone(), bad.clone()]] {
            let index = usize::from(keys[0] == good);
            let set = KeySet::parse(&document(&keys)).unwrap();
            assert!(set.find(Some("good"), Algorithm::ES256).is_ok(), "{bad:.300}");
            let report = set.left_out();
            if reason == "x509-svid" {
                assert_eq!(report, None, "expected in a SPIFFE bundle");
                continue;
            }
            let report = report.unwrap_or_default();
            assert!(report.starts_with(&format!("keys[{index}]")) && report.contains(reason), "{report}: {bad:.300}");
            assert!(report.len() < 200, "{report:.300}");
        }
        let nothing = KeySet::parse(&document(&[bad])).unwrap_err().to_string();
        assert!(nothing.starts_with("the key set has no usable key: keys[0]") && nothing.contains(reason), "{nothing}");
    }
    let all: Vec<_> = unusable_keys().into_iter().map(|(bad, _)| bad).chain([good]).collect();
    let set = KeySet::parse(&document(&all)).unwrap();
    assert_eq!(set.keys().filter_map(VerificationKey::kid).collect::<Vec<_>>(), ["good"]);
    let report = set.left_out().unwrap();
    assert!(report.contains("keys[9]") && report.ends_with(" more") && report.len() < 2000, "{report}");
}

/// The publisher chooses the `kid`.
#[test]
fn the_kid_of_an_unusable_key_is_escaped_and_cut() {
    let bad = |kid: &str| json!({"kty": "EC", "kid": kid}).to_string();
    let report =
        |kid: &str| KeySet::parse(&document(&[bad(kid), key("good").to_string()])).unwrap().left_out().unwrap();
    assert_eq!(report("a\n\"b"), "keys[0] (kid a\\n\\\"b): crv is missing");
    assert_eq!(report(&"k".repeat(500)), format!("keys[0] (kid {}…): crv is missing", "k".repeat(64)));
}

/// RFC 7518 section 6.3.1.1: leading zeros of a modulus are ignored. So are members that are not used.
#[test]
fn irrelevant_members_make_no_key_unusable() {
    let rsa = Signer::new("k", Algorithm::RS256).jwk();
    let n = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
    for jwk in [
        with(rsa.clone(), "n", json!(URL_SAFE_NO_PAD.encode([&[0], &n[..]].concat()))),
        with(key("k"), "x5c", json!(["not a certificate", 5, null])),
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

fn sign_jws(signer: &Signer, kid: &str) -> String {
    signer.sign(&json!({"typ": "at+jwt", "alg": signer.algorithm, "kid": kid}), "{}")
}

fn verifies(set: &KeySet, signer: &Signer, kid: &str) -> bool {
    let token = sign_jws(signer, kid);
    let jws = Jws::parse(&token, 16 * 1024).unwrap();
    set.find(Some(kid), jws.algorithm).is_ok_and(|keys| keys.verify(&jws))
}

/// A-075, RFC 7517 section 4.5: keys of different types may share a `kid`. Of one type up to four are tried.
#[test]
fn several_keys_may_share_a_kid() {
    let of = |kid: &str, algorithm| Signer::new(kid, algorithm);
    let (ec, rsa, lone) = (of("same", Algorithm::ES256), of("same", Algorithm::RS256), of("lone", Algorithm::ES256));
    let others: Vec<_> = (0..4).map(|_| of("same", Algorithm::ES256)).collect();
    let mut keys = vec![rsa.jwk(), ec.jwk(), lone.jwk()];
    keys.extend(others.iter().map(Signer::jwk));
    let set = parse(&keys).unwrap();
    for signer in [&rsa, &ec, &lone, &others[0], &others[2]] {
        assert!(verifies(&set, signer, signer.jwk()["kid"].as_str().unwrap()));
    }
    assert!(!verifies(&set, &others[3], "same"), "the fifth key of its type");
    assert!(!verifies(&set, &of("same", Algorithm::ES256), "same") && !verifies(&set, &lone, "same"));
    assert!(set.left_out().unwrap().contains("keys[6] (kid same): four earlier keys of the same type"));
    assert_eq!(set.find(Some("same"), Algorithm::ES384).err(), Some(NoKey::Unfit));
    let repeated = parse(&[ec.jwk(), ec.jwk()]).unwrap();
    assert_eq!((repeated.keys().count(), repeated.left_out()), (1, None), "the same key twice");
    assert!(repeated.find(None, Algorithm::ES256).is_ok());
}

/// A-075
#[test]
fn the_first_thousand_keys_of_a_long_set_are_used() {
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
fn documents_that_are_not_a_jwk_set_or_too_large_are_refused() {
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
fn a_token_without_kid_matches_only_a_set_of_one_key() {
    let one = parse(&[key("a")]).unwrap();
    assert!(one.find(None, Algorithm::ES256).is_ok());
    assert!(one.find(Some("a"), Algorithm::ES256).is_ok());
    assert_eq!(one.find(Some("b"), Algorithm::ES256).err(), Some(NoKey::Unknown));
    assert_eq!(one.find(Some("a"), Algorithm::RS256).err(), Some(NoKey::Unfit));
    assert_eq!(one.find(None, Algorithm::RS256).err(), Some(NoKey::Unfit));
    let two = parse(&[key("a"), key("b")]).unwrap();
    assert_eq!(two.find(None, Algorithm::ES256).err(), Some(NoKey::Unknown));
}
