//! Access tokens of subject issuers: which prove a subject and what they cover (CONTRACT 3.2, 6, 7; A-044 to A-064,
//! A-080, A-082; areas SUBJ and POL). Their keys are tested in `issuer_keys`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::scene::{self, GATEWAY, Shared};
use crate::support::answer::Answer;
use crate::support::issuer::{AUDIENCE, Issuer};
use crate::support::jose::{self, Key};
use crate::support::now;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const EXECUTE: &str = "trade.execute";

/// An issuer that signs with ES256, and a service that accepts its access tokens.
struct Gateway {
    writ: Writ,
    issuer: Issuer,
}

fn shared_gateway() -> Arc<Gateway> {
    static GATEWAY: Shared<Gateway> = Shared::new();
    GATEWAY.get(|| {
        let issuer = Issuer::start();
        Gateway { writ: scene::gateway(&issuer), issuer }
    })
}

fn present(writ: &Writ, token: &str) -> Answer {
    writ.workload("gateway").token(&Form::exchange(token, EXECUTE))
}

/// Fails the test unless the token is refused with one of these reasons, all `invalid_request`.
#[track_caller]
fn refused(writ: &Writ, token: &str, reasons: &[&str]) {
    let answer = present(writ, token);
    let reason = answer.reason();
    assert!(reasons.contains(&reason.as_str()), "{reason}, expected {reasons:?}");
    answer.invalid_request(&reason);
}

const MALFORMED: [&str; 1] = ["subject_token_malformed"];
const SIGNATURE: [&str; 1] = ["subject_token_signature_invalid"];
const CLAIMS: [&str; 1] = ["subject_token_claims_invalid"];

/// R-SUBJ-08, R-CLAIM-01 to R-CLAIM-08, R-CLAIM-10, R-META-06: these claims and no others.
#[test]
fn an_access_token_is_exchanged_for_a_txn_token() {
    let gateway = shared_gateway();
    let token = gateway.issuer.access_token().claim("email", "alice@example.com").mint();
    let issued = present(&gateway.writ, &token).issued();
    assert_eq!(
        issued.claims,
        json!({
            "iss": crate::support::ISSUER, "iat": issued.iat(), "exp": issued.iat() + 60, "aud": "trust-domain.example",
            "txn": issued.txn(), "sub": "alice", "scope": EXECUTE, "req_wl": "gateway",
        })
    );
}

/// R-SUBJ-03: RSA beside EC, each with the algorithm of its key.
#[test]
fn an_issuer_may_sign_with_several_keys() {
    let issuer = Issuer::start();
    let rsa = Key::rsa("issuer-rsa");
    issuer.publish(&[issuer.key.jwk(), rsa.jwk()]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let signed_by_rsa = issuer.access_token().header("alg", "RS256").header("kid", "issuer-rsa").signed_by(&rsa).mint();
    present(&writ, &signed_by_rsa).issued();
}

/// CONTRACT 6
#[test]
fn an_issuer_may_sign_with_ed25519() {
    let issuer = Issuer::with_key(Key::ed25519("issuer-1"));
    let writ = Setup::new()
        .issuer_with(&issuer, |table| drop(table.insert("algorithms".into(), vec!["EdDSA"].into())))
        .client("gateway", GATEWAY)
        .start();
    present(&writ, &issuer.access_token().mint()).issued();
}

/// A-044, R-SUBJ-03
#[test]
fn a_token_without_a_signature_is_refused() {
    let gateway = shared_gateway();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let draft = gateway.issuer.access_token().header("alg", alg);
        refused(&gateway.writ, &draft.mint(), &["subject_token_malformed", "subject_token_signature_invalid"]);
        refused(
            &gateway.writ,
            &draft.mint_signed_with(b""),
            &["subject_token_malformed", "subject_token_signature_invalid"],
        );
    }
    for alg in ["null", "[]", "[\"ES256\"]", "1"] {
        let token = gateway.issuer.access_token().mint_raw_header("alg", alg);
        refused(&gateway.writ, &token, &["subject_token_malformed", "subject_token_signature_invalid"]);
    }
    let token = gateway.issuer.access_token().without_header("alg").mint();
    refused(&gateway.writ, &token, &["subject_token_malformed", "subject_token_signature_invalid"]);
    refused(
        &gateway.writ,
        &gateway.issuer.access_token().mint_signed_with(b""),
        &["subject_token_malformed", "subject_token_signature_invalid"],
    );
}

/// A-045, R-SUBJ-03
#[test]
fn symmetric_algorithms_are_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let published = writ.site().jwks()[0].to_string();
    for alg in ["HS256", "HS384", "HS512"] {
        let draft = issuer.access_token().header("alg", alg);
        for secret in [&issuer.key.public_bytes(), issuer.key.jwk().to_string().as_bytes(), b"", published.as_bytes()] {
            refused(&writ, &draft.mac(secret), &["subject_token_malformed", "subject_token_signature_invalid"]);
        }
    }
}

/// A-046, R-SUBJ-03: one key, one algorithm.
#[test]
fn an_algorithm_that_is_not_the_keys_own_is_refused() {
    let issuer = Issuer::with_key(Key::rsa("issuer-1"));
    let p384 = Key::es384("issuer-2");
    issuer.publish(&[issuer.key.jwk(), p384.jwk()]);
    let writ = scene::gateway(&issuer);
    let draft = issuer.access_token();
    let pss = issuer
        .key
        .token_pss(&draft.header("alg", "PS256").header.to_string(), &issuer.access_token().claims.to_string());
    refused(&writ, &pss, &SIGNATURE);
    for alg in ["ES256", "ES384", "EdDSA", "RS384", "PS512"] {
        refused(&writ, &issuer.access_token().header("alg", alg).mint(), &SIGNATURE);
    }
    // ES384 is not in the issuer's list, whatever it publishes
    let unlisted = issuer.access_token().header("alg", "ES384").header("kid", "issuer-2").signed_by(&p384).mint();
    refused(&writ, &unlisted, &SIGNATURE);
    present(&writ, &issuer.access_token().mint()).issued();
}

/// A-046
#[test]
fn a_key_published_for_another_algorithm_does_not_verify() {
    let issuer = Issuer::start();
    let mut jwk = issuer.key.jwk();
    jwk["alg"] = json!("ES384");
    let good = Key::es256("good");
    issuer.publish(&[jwk, good.jwk()]);
    let writ = scene::gateway(&issuer);
    refused(&writ, &issuer.access_token().mint(), &["subject_token_signature_invalid", "subject_token_key_unknown"]);
}

/// A-048
#[test]
fn an_unusual_kid_is_only_a_name() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let long = "k".repeat(9_000);
    for kid in [
        "../../etc/passwd",
        "https://evil.example/jwks",
        "' OR 1=1 --",
        "a\0b",
        "a\r\nb",
        "\u{1b}[31m",
        "",
        "\u{202e}",
        &long,
    ] {
        let token = issuer.access_token().header("kid", kid).mint();
        // Only the first unknown `kid` makes the keys be fetched; for a while the others are neither known nor unknown.
        let reason = present(&writ, &token).reason();
        let expected = ["subject_token_malformed", "subject_token_key_unknown", "issuer_unavailable"];
        assert!(expected.contains(&reason.as_str()), "{reason}");
    }
    for kid in ["1", "[\"issuer-1\"]", "null", "{}"] {
        let token = issuer.access_token().mint_raw_header("kid", kid);
        refused(&writ, &token, &["subject_token_malformed", "subject_token_key_unknown"]);
    }
    present(&writ, &issuer.access_token().mint()).issued();
}

/// A-049, R-SUBJ-03
#[test]
fn a_header_that_changes_the_meaning_is_refused() {
    let gateway = shared_gateway();
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
        ("crit", json!(["alg"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
    ] {
        refused(&gateway.writ, &gateway.issuer.access_token().header(name, value).mint(), &MALFORMED);
    }
}

/// A-050
#[test]
fn degenerate_signatures_are_refused() {
    let gateway = shared_gateway();
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let der = [vec![0x30, 0x44, 2, 0x20], vec![1; 32], vec![2, 0x20], vec![1; 32]].concat();
    for signature in
        [vec![0; 64], [order, order].concat(), [[0; 32], order].concat(), der, vec![1; 63], vec![1; 65], vec![1; 7_000]]
    {
        let token = gateway.issuer.access_token().mint_signed_with(&signature);
        refused(&gateway.writ, &token, &["subject_token_signature_invalid", "subject_token_malformed"]);
    }
}

/// A-051, R-SUBJ-03
#[test]
fn anything_but_a_compact_jws_is_refused() {
    let gateway = shared_gateway();
    let token = gateway.issuer.access_token().mint();
    let nested = gateway.issuer.key.token(r#"{"typ":"at+jwt","alg":"ES256","kid":"issuer-1","cty":"JWT"}"#, &token);
    let pbes2 = URL_SAFE_NO_PAD.encode(r#"{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAA"}"#);
    let flattened = json!({"payload": "e30", "protected": "e30", "signature": "AA"}).to_string();
    for bad in [nested, format!("{pbes2}.AA.AA.AA.AA"), flattened, format!("{pbes2}.AA.AA")] {
        refused(&gateway.writ, &bad, &MALFORMED);
    }
}

/// CONTRACT 3.2: a token without two dots is opaque, and no issuer is configured to introspect it.
#[test]
fn an_opaque_token_is_malformed_where_no_issuer_introspects() {
    let gateway = shared_gateway();
    for token in ["2YotnFZFEjr1zCsicMWpAA", "a.b", "x", "a~b+c/d=="] {
        refused(&gateway.writ, token, &MALFORMED);
    }
}

/// A-052: one token, one text.
#[test]
fn other_spellings_of_a_good_token_are_refused() {
    let issuer = Issuer::with_key(Key::rsa("issuer-1"));
    let writ = scene::gateway(&issuer);
    let good = issuer.access_token().claim("filler", "???>>>").mint();
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // 256 bytes leave four unused bits in the last character
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let changed = alphabet.chars().nth(alphabet.find(last).unwrap() | 1).unwrap();
    let unused_bits = format!("{}{changed}", good.strip_suffix(last).unwrap());
    for bad in [
        format!("{good}="),
        format!("{good}=="),
        format!("{signed_part}.{}", STANDARD.encode(bytes)),
        unused_bits,
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good} "),
        format!("Bearer {good}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(".{good}"),
        ".".repeat(12_000),
        good.replacen('.', "..", 1),
    ] {
        refused(&writ, &bad, &MALFORMED);
    }
    present(&writ, &good).issued();
}

/// A-053
#[test]
fn a_member_named_twice_is_refused() {
    let gateway = shared_gateway();
    let claims = gateway.issuer.access_token().claims.to_string();
    let header = gateway.issuer.access_token().header.to_string();
    let twice = |object: &str, member: &str| format!("{{{member},{}", object.strip_prefix('{').unwrap());
    for member in [
        "\"sub\":\"mallory\"",
        "\"s\\u0075b\":\"mallory\"",
        "\"scope\":\"trade.stocks\"",
        "\"x\":1,\"x\":1",
        "\"y\":{\"z\":1,\"z\":2}",
    ] {
        refused(&gateway.writ, &gateway.issuer.key.token(&header, &twice(&claims, member)), &MALFORMED);
    }
    for member in ["\"alg\":\"ES256\"", "\"k\\u0069d\":\"issuer-1\"", "\"x\":1,\"x\":1"] {
        refused(&gateway.writ, &gateway.issuer.key.token(&twice(&header, member), &claims), &MALFORMED);
    }
}

/// A-054
#[test]
fn claims_that_are_not_one_json_object_are_refused() {
    let gateway = shared_gateway();
    let header = gateway.issuer.access_token().header.to_string();
    let good = gateway.issuer.access_token().claims.to_string();
    for claims in [
        "[]",
        "\"x\"",
        "null",
        "",
        &format!("\u{feff}{good}"),
        &format!("{good}{good}"),
        &format!("{good} x"),
        &good.replace("\"alice\"", "NaN"),
        &good.replace("\"sub\"", "/* */\"sub\""),
        &good.replace('"', "'"),
    ] {
        refused(&gateway.writ, &gateway.issuer.key.token(&header, claims), &MALFORMED);
    }
    let utf_16: Vec<u8> = good.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut invalid = good.clone().into_bytes();
    invalid[2] = 0xff;
    for claims in [utf_16, invalid] {
        let token = jose::seal_bytes(header.as_bytes(), &claims, |message| gateway.issuer.key.sign(message));
        refused(&gateway.writ, &token, &MALFORMED);
    }
}

/// A-055
#[test]
fn deep_and_wide_claims_are_refused() {
    let gateway = shared_gateway();
    for depth in [200, 4_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        refused(
            &gateway.writ,
            &gateway.issuer.access_token().mint_raw("deep", &nested),
            &["subject_token_malformed", "token_too_large"],
        );
    }
    let wide = vec!["0"; 4_000].join(",");
    refused(&gateway.writ, &gateway.issuer.access_token().mint_raw("wide", &format!("[{wide}]")), &MALFORMED);
    let audiences = vec![json!(AUDIENCE); 257];
    refused(&gateway.writ, &gateway.issuer.access_token().claim("aud", audiences).mint(), &CLAIMS);
    let long = gateway.issuer.access_token().claim("filler", "x".repeat(16 * 1024)).mint();
    refused(&gateway.writ, &long, &MALFORMED);
    present(&gateway.writ, &gateway.issuer.access_token().mint()).issued();
}

/// A-056, A-057, R-SUBJ-06
#[test]
fn a_time_that_makes_no_sense_is_refused() {
    let gateway = shared_gateway();
    let digits = "9".repeat(4_000);
    let milliseconds = (now() * 1000).to_string();
    let text = format!("\"{}\"", now() + 60);
    for exp in [
        text.as_str(),
        "null",
        "true",
        "[]",
        "{}",
        "-1",
        "0",
        "1e18",
        "1e308",
        "1e400",
        "9223372036854775808",
        "18446744073709551616",
        &digits,
        "NaN",
        "Infinity",
        &milliseconds,
        "253402300799",
    ] {
        let token = gateway.issuer.access_token().mint_raw("exp", exp);
        refused(&gateway.writ, &token, &["subject_token_claims_invalid", "subject_token_malformed"]);
    }
    refused(&gateway.writ, &gateway.issuer.access_token().without("exp").mint(), &CLAIMS);
    for name in ["exp", "nbf", "iat"] {
        for value in [&format!("\"{}\"", now() + 1), "\"1\"", "-1", "1e400", "99999999999999", "null", "true", "[]"] {
            let token = gateway.issuer.access_token().mint_raw(name, value);
            assert_eq!(present(&gateway.writ, &token).reason(), "subject_token_claims_invalid", "{name}: {value}");
        }
    }
}

/// A-059, R-SUBJ-08
#[test]
fn an_issuer_is_compared_byte_for_byte() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let url = issuer.url();
    let (host, port) = url.rsplit_once(':').unwrap();
    let seen = (issuer.jwks_fetches(), issuer.other_fetches());
    for iss in [
        format!("{url}/"),
        url.to_uppercase(),
        format!("{host}:0{port}"),
        format!("https://x@localhost:{port}"),
        host.to_owned(),
        format!("https://loc\u{0430}lhost:{port}"),
        "file:///etc/passwd".to_owned(),
        "https://169.254.169.254/".to_owned(),
        format!("https://127.0.0.1:{port}"),
        String::new(),
    ] {
        let token = issuer.access_token().claim("iss", iss).mint();
        refused(&writ, &token, &["subject_token_issuer_unknown", "subject_token_claims_invalid"]);
    }
    for iss in [json!([url]), Value::Null, json!(1)] {
        let token = issuer.access_token().claim("iss", iss).mint();
        refused(
            &writ,
            &token,
            &["subject_token_issuer_unknown", "subject_token_claims_invalid", "subject_token_malformed"],
        );
    }
    refused(
        &writ,
        &issuer.access_token().without("iss").mint(),
        &["subject_token_issuer_unknown", "subject_token_claims_invalid"],
    );
    assert!(issuer.jwks_fetches() <= seen.0 + 1, "nothing is fetched for an issuer that is not known");
    assert_eq!(issuer.other_fetches(), seen.1);
}

/// A-060, R-SUBJ-07
#[test]
fn one_issuers_key_does_not_sign_for_another() {
    let (one, other) = (Issuer::start(), Issuer::start());
    let writ = Setup::new()
        .issuer_with(&one, |table| drop(table.insert("subject_prefix".into(), "one:".into())))
        .issuer_with(&other, |table| drop(table.insert("subject_prefix".into(), "other:".into())))
        .client("gateway", GATEWAY)
        .start();
    // both publish `issuer-1`
    let crossed = one.access_token().signed_by(&other.key).mint();
    refused(&writ, &crossed, &SIGNATURE);
    assert_eq!(present(&writ, &one.access_token().mint()).issued().claims["sub"], "one:alice");
    assert_eq!(present(&writ, &other.access_token().mint()).issued().claims["sub"], "other:alice");
}

/// A-061, R-SUBJ-08
#[test]
fn a_token_for_another_audience_is_refused() {
    let gateway = shared_gateway();
    for aud in [
        json!("https://api.example.evil"),
        json!("https://api"),
        json!("https://API.example"),
        json!("https://api.example/"),
        json!(1),
        json!([[AUDIENCE]]),
        json!([AUDIENCE, 1]),
        json!([]),
        json!(""),
        json!(["https://other.example"]),
        json!({ AUDIENCE: true }),
        Value::Null,
    ] {
        let token = gateway.issuer.access_token().claim("aud", aud).mint();
        refused(&gateway.writ, &token, &["subject_token_audience_mismatch", "subject_token_claims_invalid"]);
    }
    let token = gateway.issuer.access_token().without("aud").mint();
    refused(&gateway.writ, &token, &["subject_token_audience_mismatch", "subject_token_claims_invalid"]);
}

/// A-061, R-SUBJ-08
#[test]
fn a_token_for_several_audiences_is_accepted() {
    let gateway = shared_gateway();
    let aud = json!(["https://other.example", AUDIENCE]);
    present(&gateway.writ, &gateway.issuer.access_token().claim("aud", aud).mint()).issued();
}

/// R-SUBJ-09
#[test]
fn a_client_may_only_present_tokens_that_were_meant_for_it() {
    let issuer = Issuer::start();
    let policy = format!("subject_token_audience = [\"https://gateway.example\"]\n{GATEWAY}");
    let writ = Setup::new().issuer(&issuer).client("gateway", &policy).start();
    refused(&writ, &issuer.access_token().mint(), &["subject_token_audience_mismatch"]);
    let aud = json!([AUDIENCE, "https://gateway.example"]);
    present(&writ, &issuer.access_token().claim("aud", aud).mint()).issued();
}

/// A-062, R-CLAIM-04
#[test]
fn a_subject_is_plain_text_of_sensible_length() {
    let gateway = shared_gateway();
    for sub in [
        json!(""),
        json!(1),
        Value::Null,
        json!(["alice"]),
        json!({}),
        json!("a\0b"),
        json!("a\nb"),
        json!("a\u{7f}b"),
        json!("a\u{85}b"),
        json!("a".repeat(256)),
        json!("a".repeat(8_000)),
    ] {
        refused(&gateway.writ, &gateway.issuer.access_token().claim("sub", sub).mint(), &CLAIMS);
    }
    refused(&gateway.writ, &gateway.issuer.access_token().without("sub").mint(), &CLAIMS);
    let longest = "ä".repeat(255);
    let token = gateway.issuer.access_token().claim("sub", longest.clone()).mint();
    assert_eq!(present(&gateway.writ, &token).issued().claims["sub"], longest);
}

/// A-063: scopes are compared exactly.
#[test]
fn a_scope_that_only_looks_alike_covers_nothing() {
    let gateway = shared_gateway();
    for scope in [
        json!(["trade.stocks x"]),
        json!(["trade.stocks", ""]),
        json!([["trade.stocks"]]),
        json!(["trade", "stocks"]),
        json!({}),
        json!(1),
        json!("x\ttrade.stocks"),
        json!("x\ntrade.stocks"),
        json!("x\u{a0}trade.stocks"),
        json!("trade\u{200b}.stocks"),
        json!("ｔrade.stocks"),
        json!("tr\u{0430}de.stocks"),
        json!("\"trade.stocks\""),
        json!("x,trade.stocks"),
        json!("x+trade.stocks"),
        json!("Trade.Stocks"),
        json!("trade"),
        json!("trade.stocks.x"),
        json!("*"),
        json!("trade.*"),
    ] {
        let answer = present(&gateway.writ, &gateway.issuer.access_token().claim("scope", scope.clone()).mint());
        let reason = answer.reason();
        match reason.as_str() {
            "scope_exceeds_subject_token" => drop(answer.invalid_scope(&reason)),
            "subject_token_claims_invalid" => drop(answer.invalid_request(&reason)),
            _ => panic!("{reason} for {scope}"),
        }
    }
}

/// A-080, R-POL-02, R-POL-05
#[test]
fn a_token_without_a_scope_covers_nothing() {
    let gateway = shared_gateway();
    present(&gateway.writ, &gateway.issuer.access_token().without("scope").mint()).invalid_scope("scope_unknown");
    present(&gateway.writ, &gateway.issuer.access_token().claim("scope", "").mint()).invalid_scope("scope_unknown");
    present(&gateway.writ, &gateway.issuer.access_token().claim("scope", "other more").mint())
        .invalid_scope("scope_exceeds_subject_token");
}

/// R-POL-05: `scopes` of the issuer applies where the token has no scope, and only there.
#[test]
fn the_scopes_of_an_issuer_apply_to_tokens_without_a_scope() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| drop(table.insert("scopes".into(), vec!["trade.stocks"].into())))
        .client("gateway", GATEWAY)
        .start();
    present(&writ, &issuer.access_token().without("scope").mint()).issued();
    present(&writ, &issuer.access_token().claim("scope", "other").mint()).invalid_scope("scope_exceeds_subject_token");
}

/// CONTRACT 7: where `subjects` is given, it restricts outside tokens too.
#[test]
fn subjects_of_outside_tokens_must_match_the_patterns() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer(&issuer)
        .client("gateway", &format!("{GATEWAY}subjects = [\"*@trust-domain.example\"]\n"))
        .start();
    let with_sub = |sub: &str| present(&writ, &issuer.access_token().claim("sub", sub).mint());
    with_sub("alice@trust-domain.example").issued();
    for sub in ["alice", "alice@trust-domain.example.evil", "@trust-domain.example", "alice@Trust-domain.example"] {
        with_sub(sub).unauthorized_client("subject_not_allowed");
    }
}

/// A-064, R-SUBJ-08
#[test]
fn a_token_of_another_kind_is_no_access_token() {
    let gateway = shared_gateway();
    for typ in ["JWT", "txntoken+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "id_token+jwt", ""] {
        let token = gateway.issuer.access_token().header("typ", typ).mint();
        refused(&gateway.writ, &token, &["subject_token_malformed", "subject_token_issuer_unknown"]);
    }
    let untyped = gateway.issuer.access_token().without_header("typ").mint();
    refused(&gateway.writ, &untyped, &["subject_token_malformed", "subject_token_issuer_unknown"]);
    for typ in ["application/at+jwt", "AT+JWT"] {
        present(&gateway.writ, &gateway.issuer.access_token().header("typ", typ).mint()).issued();
    }
}

/// R-SUBJ-08
#[test]
fn a_legacy_issuer_needs_fewer_claims() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| drop(table.insert("jwt_access_tokens".into(), "legacy".into())))
        .client("gateway", GATEWAY)
        .start();
    let legacy = || issuer.access_token().without("client_id").without("iat").without("jti");
    present(&writ, &legacy().header("typ", "JWT").mint()).issued();
    present(&writ, &legacy().without_header("typ").mint()).issued();
    refused(
        &writ,
        &legacy().header("typ", "txntoken+jwt").mint(),
        &["subject_token_malformed", "subject_token_issuer_unknown"],
    );
    for name in ["sub", "aud", "exp"] {
        let answer = present(&writ, &legacy().header("typ", "JWT").without(name).mint());
        assert_eq!(answer.status(), 400, "{name}");
    }
}

/// R-SUBJ-07
#[test]
fn the_claims_for_subject_and_scope_are_configured_for_each_issuer() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| {
            table.insert("subject_claim".into(), "employee".into());
            table.insert("scope_claim".into(), "rights".into());
            table.insert("subject_prefix".into(), "staff:".into());
        })
        .client("gateway", GATEWAY)
        .start();
    let token = issuer.access_token().claim("employee", "e-7").without("scope").claim("rights", "trade.stocks");
    assert_eq!(present(&writ, &token.mint()).issued().claims["sub"], "staff:e-7");
    refused(&writ, &issuer.access_token().claim("rights", "trade.stocks").mint(), &CLAIMS);
}

/// R-SUBJ-07; CONTRACT 6 (`subject_prefix`): `sub` stays unique.
#[test]
fn an_outside_subject_cannot_be_the_subject_of_a_client() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer(&issuer)
        .client("gateway", GATEWAY)
        .client("mailer", &format!("subject = \"svc:mail\"\n{}", scene::MAILER))
        .start();
    for sub in ["svc:mail", "gateway"] {
        refused(&writ, &issuer.access_token().claim("sub", sub).mint(), &CLAIMS);
    }
}

/// R-SUBJ-07; CONTRACT 6 (`subject_prefix`)
#[test]
fn an_outside_subject_cannot_begin_with_the_prefix_of_another_issuer() {
    let (plain, prefixed) = (Issuer::start(), Issuer::start());
    let writ = Setup::new()
        .issuer(&plain)
        .issuer_with(&prefixed, |table| drop(table.insert("subject_prefix".into(), "partner:".into())))
        .client("gateway", GATEWAY)
        .start();
    refused(&writ, &plain.access_token().claim("sub", "partner:alice").mint(), &CLAIMS);
    assert_eq!(present(&writ, &prefixed.access_token().mint()).issued().claims["sub"], "partner:alice");
}

/// R-SUBJ-08, CONTRACT 6: the scope as an array; more members than a request may have; an issuer whose name is not an
/// https URL. The Txn-Token is the same as for a scope that is a string.
#[test]
fn variations_of_other_issuers_are_accepted() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| {
            table.insert("issuer".into(), "http://sts.example/adfs/services/trust".into());
            table.insert("scope_claim".into(), "scp".into());
        })
        .client("gateway", GATEWAY)
        .start();
    let draft = || issuer.access_token().claim("iss", "http://sts.example/adfs/services/trust").without("scope");
    let groups: Vec<_> = (0..600).map(|n| format!("group-{n}")).collect();
    let token = draft().claim("scp", json!(["openid", "trade.stocks"])).claim("groups", groups).mint();
    assert_eq!(present(&writ, &token).issued().claims["sub"], "alice");
    present(&writ, &draft().claim("scp", json!(["openid"])).mint()).invalid_scope("scope_exceeds_subject_token");
    present(&writ, &draft().claim("scp", json!([])).mint()).invalid_scope("scope_unknown");
}

/// R-SUBJ-08
#[test]
fn every_claim_of_rfc_9068_is_required() {
    let gateway = shared_gateway();
    for name in ["exp", "aud", "sub", "client_id", "iat", "jti"] {
        refused(&gateway.writ, &gateway.issuer.access_token().without(name).mint(), &CLAIMS);
    }
    refused(&gateway.writ, &gateway.issuer.access_token().without("iss").mint(), &["subject_token_issuer_unknown"]);
}
