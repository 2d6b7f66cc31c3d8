//! Access tokens of subject issuers: what proves a subject and what does not (CONTRACT 3.2, 6, 7; A-044 to A-064,
//! A-069 to A-076, A-079 to A-082; areas SUBJ and POL).

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::scene::{self, GATEWAY};
use crate::support::answer::Answer;
use crate::support::issuer::{AUDIENCE, Draft, Issuer, Mode};
use crate::support::jose::{self, Key};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, now, wait_until};

const EXECUTE: &str = "trade.execute";

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

/// R-SUBJ-08, R-CLAIM-01 to R-CLAIM-08
#[test]
fn an_access_token_is_exchanged_for_a_txn_token() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().claim("email", "alice@example.com").mint();
    let issued = present(&writ, &token).issued();
    assert_eq!(
        issued.claims,
        json!({
            "iss": crate::support::ISSUER, "iat": issued.iat(), "exp": issued.iat() + 60, "aud": "trust-domain.example",
            "txn": issued.txn(), "sub": "alice", "scope": EXECUTE, "req_wl": "gateway",
        })
    );
}

/// R-CLAIM-03
#[test]
fn every_exchange_starts_a_transaction_of_its_own() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().mint();
    assert_ne!(present(&writ, &token).issued().txn(), present(&writ, &token).issued().txn());
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

/// A-044
#[test]
fn a_token_without_a_signature_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let draft = issuer.access_token().header("alg", alg);
        refused(&writ, &draft.mint(), &["subject_token_malformed", "subject_token_signature_invalid"]);
        refused(&writ, &draft.mint_signed_with(b""), &["subject_token_malformed", "subject_token_signature_invalid"]);
    }
    for alg in ["null", "[]", "[\"ES256\"]", "1"] {
        let token = issuer.access_token().mint_raw_header("alg", alg);
        refused(&writ, &token, &["subject_token_malformed", "subject_token_signature_invalid"]);
    }
    let token = issuer.access_token().without_header("alg").mint();
    refused(&writ, &token, &["subject_token_malformed", "subject_token_signature_invalid"]);
    refused(
        &writ,
        &issuer.access_token().mint_signed_with(b""),
        &["subject_token_malformed", "subject_token_signature_invalid"],
    );
}

/// A-045
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

/// A-046: one key, one algorithm.
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

/// A-047
#[test]
fn keys_in_the_header_are_never_trusted() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let own = Key::es256("own");
    let bait = Issuer::start();
    for (name, value) in [
        ("jwk", own.jwk()),
        ("jku", json!(bait.jwks_uri())),
        ("x5u", json!(format!("{}/certificate", bait.url()))),
        ("x5c", json!(["AAAA"])),
    ] {
        let token = issuer.access_token().header(name, value.clone()).signed_by(&own).mint();
        refused(&writ, &token, &["subject_token_malformed", "subject_token_signature_invalid"]);
        refused(&writ, &issuer.access_token().header(name, value).mint(), &MALFORMED);
    }
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

/// A-048
#[test]
fn a_strange_kid_is_only_a_name() {
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
        // Only the first unknown name makes the keys be fetched; of the others nothing can be told for a while.
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

/// A-049
#[test]
fn a_header_that_changes_the_meaning_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
        ("crit", json!(["alg"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
    ] {
        refused(&writ, &issuer.access_token().header(name, value).mint(), &MALFORMED);
    }
}

/// A-050
#[test]
fn degenerate_signatures_are_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let der = [vec![0x30, 0x44, 2, 0x20], vec![1; 32], vec![2, 0x20], vec![1; 32]].concat();
    for signature in
        [vec![0; 64], [order, order].concat(), [[0; 32], order].concat(), der, vec![1; 63], vec![1; 65], vec![1; 7_000]]
    {
        let token = issuer.access_token().mint_signed_with(&signature);
        refused(&writ, &token, &["subject_token_signature_invalid", "subject_token_malformed"]);
    }
}

/// A-051
#[test]
fn anything_but_a_compact_jws_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().mint();
    let nested = issuer.key.token(r#"{"typ":"at+jwt","alg":"ES256","kid":"issuer-1","cty":"JWT"}"#, &token);
    let pbes2 = URL_SAFE_NO_PAD.encode(r#"{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAA"}"#);
    let flattened = json!({"payload": "e30", "protected": "e30", "signature": "AA"}).to_string();
    for bad in [nested, format!("{pbes2}.AA.AA.AA.AA"), flattened, format!("{pbes2}.AA.AA")] {
        refused(&writ, &bad, &MALFORMED);
    }
}

/// CONTRACT 3.2: without two dots it is opaque, and here nobody introspects.
#[test]
fn an_opaque_token_is_malformed_where_nobody_introspects() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for token in ["2YotnFZFEjr1zCsicMWpAA", "a.b", "x", "a~b+c/d=="] {
        refused(&writ, token, &MALFORMED);
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
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let claims = issuer.access_token().claims.to_string();
    let header = issuer.access_token().header.to_string();
    let twice = |object: &str, member: &str| format!("{{{member},{}", object.strip_prefix('{').unwrap());
    for member in [
        "\"sub\":\"mallory\"",
        "\"s\\u0075b\":\"mallory\"",
        "\"scope\":\"trade.stocks\"",
        "\"x\":1,\"x\":1",
        "\"y\":{\"z\":1,\"z\":2}",
    ] {
        refused(&writ, &issuer.key.token(&header, &twice(&claims, member)), &MALFORMED);
    }
    for member in ["\"alg\":\"ES256\"", "\"k\\u0069d\":\"issuer-1\"", "\"x\":1,\"x\":1"] {
        refused(&writ, &issuer.key.token(&twice(&header, member), &claims), &MALFORMED);
    }
}

/// A-054
#[test]
fn claims_that_are_no_json_object_are_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let header = issuer.access_token().header.to_string();
    let good = issuer.access_token().claims.to_string();
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
        refused(&writ, &issuer.key.token(&header, claims), &MALFORMED);
    }
    let utf_16: Vec<u8> = good.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut invalid = good.clone().into_bytes();
    invalid[2] = 0xff;
    for claims in [utf_16, invalid] {
        let token = jose::seal_bytes(header.as_bytes(), &claims, |message| issuer.key.sign(message));
        refused(&writ, &token, &MALFORMED);
    }
}

/// A-055
#[test]
fn deep_and_wide_claims_are_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for depth in [200, 4_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        refused(
            &writ,
            &issuer.access_token().mint_raw("deep", &nested),
            &["subject_token_malformed", "token_too_large"],
        );
    }
    let wide = vec!["0"; 4_000].join(",");
    refused(&writ, &issuer.access_token().mint_raw("wide", &format!("[{wide}]")), &MALFORMED);
    let audiences = vec![json!(AUDIENCE); 257];
    refused(&writ, &issuer.access_token().claim("aud", audiences).mint(), &CLAIMS);
    let long = issuer.access_token().claim("filler", "x".repeat(16 * 1024)).mint();
    refused(&writ, &long, &MALFORMED);
    present(&writ, &issuer.access_token().mint()).issued();
}

/// A-056
#[test]
fn an_expiry_that_is_no_sensible_time_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
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
        let token = issuer.access_token().mint_raw("exp", exp);
        refused(&writ, &token, &["subject_token_claims_invalid", "subject_token_malformed"]);
    }
    refused(&writ, &issuer.access_token().without("exp").mint(), &CLAIMS);
}

/// A-056
#[test]
fn fractions_of_a_second_are_fine() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().mint_raw("exp", &format!("{}.75", now() + 30));
    let issued = present(&writ, &token).issued();
    assert!(issued.exp() <= now() + 30 + 10 + 1, "rounded down, with the tolerated skew");
}

/// A-057
#[test]
fn a_token_from_the_future_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    refused(&writ, &issuer.access_token().claim("nbf", now() + 3600).mint(), &["subject_token_not_yet_valid"]);
    refused(
        &writ,
        &issuer.access_token().claim("iat", now() + 3600).mint(),
        &["subject_token_not_yet_valid", "subject_token_claims_invalid"],
    );
    for (name, value) in [("nbf", "\"1\""), ("nbf", "1e400"), ("nbf", "null"), ("iat", "\"1\""), ("iat", "null")] {
        let token = issuer.access_token().mint_raw(name, value);
        refused(&writ, &token, &["subject_token_claims_invalid", "subject_token_malformed"]);
    }
}

/// A-057: the skew is tolerated.
#[test]
fn a_token_from_the_near_future_is_taken() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().claim("nbf", now() + 5).claim("iat", now() + 5).mint()).issued();
}

/// A-058
#[test]
fn an_expired_token_is_refused_with_its_time() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let exp = now() - 11;
    let refused =
        present(&writ, &issuer.access_token().claim("exp", exp).mint()).invalid_request("subject_token_expired");
    assert_eq!(refused.answer["expired_at"], exp);
}

/// A-058, CONTRACT 3.3: what is issued lives no longer than the subject token and the skew.
#[test]
fn a_token_within_the_skew_is_taken_for_what_remains() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let exp = now() - 2;
    let issued = present(&writ, &issuer.access_token().claim("exp", exp).mint()).issued();
    assert_eq!(issued.exp(), exp + 10);
}

/// R-POL-09
#[test]
fn a_txn_token_does_not_outlive_the_subject_token() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let exp = now() + 20;
    assert_eq!(present(&writ, &issuer.access_token().claim("exp", exp).mint()).issued().exp(), exp + 10);
}

/// R-POL-09
#[test]
fn a_purpose_may_let_it_outlive_the_subject_token() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", &format!("{GATEWAY}outlive = true\n")).start();
    let issued = present(&writ, &issuer.access_token().claim("exp", now() + 20).mint()).issued();
    assert_eq!(issued.exp(), issued.iat() + 60);
}

/// A-059
#[test]
fn an_issuer_is_known_byte_for_byte() {
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

/// A-060
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

/// A-061
#[test]
fn a_token_for_another_audience_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
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
        let token = issuer.access_token().claim("aud", aud).mint();
        refused(&writ, &token, &["subject_token_audience_mismatch", "subject_token_claims_invalid"]);
    }
    let token = issuer.access_token().without("aud").mint();
    refused(&writ, &token, &["subject_token_audience_mismatch", "subject_token_claims_invalid"]);
}

/// A-061
#[test]
fn a_token_for_several_audiences_is_taken() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let aud = json!(["https://other.example", AUDIENCE]);
    present(&writ, &issuer.access_token().claim("aud", aud).mint()).issued();
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

/// A-062
#[test]
fn a_subject_is_plain_text_of_sensible_length() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
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
        refused(&writ, &issuer.access_token().claim("sub", sub).mint(), &CLAIMS);
    }
    refused(&writ, &issuer.access_token().without("sub").mint(), &CLAIMS);
    let longest = "ä".repeat(255);
    assert_eq!(
        present(&writ, &issuer.access_token().claim("sub", longest.clone()).mint()).issued().claims["sub"],
        longest
    );
}

/// A-063: exact syntax, no look-alikes.
#[test]
fn a_scope_that_only_looks_alike_covers_nothing() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
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
        let answer = present(&writ, &issuer.access_token().claim("scope", scope.clone()).mint());
        let reason = answer.reason();
        match reason.as_str() {
            "scope_exceeds_subject_token" => drop(answer.invalid_scope(&reason)),
            "subject_token_claims_invalid" => drop(answer.invalid_request(&reason)),
            _ => panic!("{reason} for {scope}"),
        }
    }
}

/// A-080
#[test]
fn a_token_without_a_scope_covers_nothing() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().without("scope").mint()).invalid_scope("scope_unknown");
    present(&writ, &issuer.access_token().claim("scope", "").mint()).invalid_scope("scope_unknown");
    present(&writ, &issuer.access_token().claim("scope", "other more").mint())
        .invalid_scope("scope_exceeds_subject_token");
}

/// R-POL-05: the issuer's setting speaks where the token is silent, and only there.
#[test]
fn an_issuer_may_say_what_a_silent_token_covers() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| drop(table.insert("scopes".into(), vec!["trade.stocks"].into())))
        .client("gateway", GATEWAY)
        .start();
    present(&writ, &issuer.access_token().without("scope").mint()).issued();
    present(&writ, &issuer.access_token().claim("scope", "other").mint()).invalid_scope("scope_exceeds_subject_token");
}

/// R-POL-04: equal spelling grants nothing.
#[test]
fn an_outside_scope_is_no_purpose() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().claim("scope", EXECUTE).mint();
    present(&writ, &token).invalid_scope("scope_exceeds_subject_token");
}

/// A-081
#[test]
fn all_purposes_are_granted_or_none() {
    let issuer = Issuer::start();
    let purposes = format!(
        "{GATEWAY}\n[[purpose]]\nscope = \"trade.cancel\"\naccept = [\"access_token\"]\ngranted_by = [\"trade.admin\"]\nlifetime = \"30s\"\n"
    );
    let writ = Setup::new().issuer(&issuer).client("gateway", &purposes).start();
    let ask = |token: &str, scope: &str| writ.workload("gateway").token(&Form::exchange(token, scope));
    let token = issuer.access_token().mint();
    ask(&token, "trade.execute trade.cancel").invalid_scope("scope_exceeds_subject_token");
    ask(&token, "trade.execute trade.unheard").invalid_scope("purpose_not_allowed");
    let token = issuer.access_token().claim("scope", "trade.stocks trade.admin").mint();
    let issued = ask(&token, "trade.cancel trade.execute").issued();
    assert_eq!(issued.claims["scope"], "trade.cancel trade.execute");
    assert_eq!(issued.exp() - issued.iat(), 30, "the shortest lifetime counts");
}

/// CONTRACT 7: where they are given, globs bind outside tokens too.
#[test]
fn subjects_of_outside_tokens_are_bound_by_globs() {
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

/// A-064
#[test]
fn a_token_of_another_kind_is_no_access_token() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for typ in ["JWT", "txntoken+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "id_token+jwt", ""] {
        let token = issuer.access_token().header("typ", typ).mint();
        refused(&writ, &token, &["subject_token_malformed", "subject_token_issuer_unknown"]);
    }
    let untyped = issuer.access_token().without_header("typ").mint();
    refused(&writ, &untyped, &["subject_token_malformed", "subject_token_issuer_unknown"]);
    for typ in ["application/at+jwt", "AT+JWT"] {
        present(&writ, &issuer.access_token().header("typ", typ).mint()).issued();
    }
}

/// A-064
#[test]
fn our_own_txn_token_is_no_access_token() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let txn_token = present(&writ, &issuer.access_token().mint()).issued().token;
    refused(&writ, &txn_token, &["subject_token_malformed", "subject_token_issuer_unknown"]);
}

/// R-SUBJ-08
#[test]
fn every_claim_of_rfc_9068_is_required() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    for name in ["client_id", "iat", "jti"] {
        refused(&writ, &issuer.access_token().without(name).mint(), &CLAIMS);
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

/// R-SUBJ-10
#[test]
fn a_sender_constrained_token_needs_a_client_that_vouches() {
    let issuer = Issuer::start();
    let careful = format!("vouches_for_bound_tokens = true\n{GATEWAY}");
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).client("careful", &careful).start();
    let bound =
        issuer.access_token().claim("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})).mint();
    refused(&writ, &bound, &CLAIMS);
    let issued = writ.workload("careful").token(&Form::exchange(&bound, EXECUTE)).issued();
    assert_eq!(issued.claims.get("cnf"), None);
}

/// R-SUBJ-07
#[test]
fn an_issuer_says_which_claim_is_the_subject_and_which_the_scope() {
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

/// CONTRACT 6, `subject_prefix`: `sub` stays unique.
#[test]
fn an_outside_subject_cannot_take_a_clients_own() {
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

/// CONTRACT 6, `subject_prefix`
#[test]
fn an_outside_subject_cannot_take_another_issuers_prefix() {
    let (plain, prefixed) = (Issuer::start(), Issuer::start());
    let writ = Setup::new()
        .issuer(&plain)
        .issuer_with(&prefixed, |table| drop(table.insert("subject_prefix".into(), "partner:".into())))
        .client("gateway", GATEWAY)
        .start();
    refused(&writ, &plain.access_token().claim("sub", "partner:alice").mint(), &CLAIMS);
    assert_eq!(present(&writ, &prefixed.access_token().mint()).issued().claims["sub"], "partner:alice");
}

/// A-070
#[test]
fn an_issuer_that_is_away_at_the_start_harms_no_other() {
    let (away, present_one) = (Issuer::start(), Issuer::start());
    away.be(Mode::Down);
    let writ = Setup::new()
        .issuer_with(&away, |table| drop(table.insert("subject_prefix".into(), "away:".into())))
        .issuer(&present_one)
        .client("gateway", GATEWAY)
        .start();
    assert_eq!(writ.site().ops("/readyz").status, 200);
    present(&writ, &present_one.access_token().mint()).issued();
    let answer = present(&writ, &away.access_token().mint());
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
    away.be(Mode::Up);
    eventually("the issuer is asked again", || {
        (present(&writ, &away.access_token().mint()).status() == 200).then_some(())
    });
}

/// A-069: an outage must not become "your token is invalid".
#[test]
fn known_keys_serve_while_the_issuer_is_away() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let unusable = json!({"keys": [{"kty": "EC"}]}).to_string();
    for mode in [
        Mode::Down,
        Mode::Status(500),
        Mode::Status(429),
        Mode::Status(404),
        Mode::Body("<html>".into()),
        Mode::Body("{\"keys\":[".into()),
        Mode::Body(json!({"keys": []}).to_string()),
        Mode::Body(unusable),
    ] {
        issuer.be(mode);
        wait_until(now() + 2);
        present(&writ, &issuer.access_token().mint()).issued();
    }
}

/// A-069
#[test]
fn an_unknown_key_is_not_called_unknown_unless_the_issuer_was_asked() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.be(Mode::Down);
    let token = issuer.access_token().header("kid", "newer").mint();
    present(&writ, &token).refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// R-SUBJ-04
#[test]
fn a_new_key_of_an_issuer_is_fetched_when_it_is_first_seen() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let newer = Key::es256("newer");
    issuer.publish(&[issuer.key.jwk(), newer.jwk()]);
    let token = issuer.access_token().header("kid", "newer").signed_by(&newer).mint();
    let before = Instant::now();
    eventually("the new key is fetched", || {
        let answer = present(&writ, &token);
        (answer.status() == 200 || before.elapsed() > Duration::from_secs(29)).then_some(answer)
    });
}

/// R-SUBJ-04
#[test]
fn a_key_that_the_issuer_does_not_publish_is_unknown() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    refused(&writ, &issuer.access_token().header("kid", "unheard-of").mint(), &["subject_token_key_unknown"]);
}

/// A-073
#[test]
fn random_kids_do_not_multiply_into_fetches() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let seen = issuer.jwks_fetches();
    let mut session = writ.workload("gateway").connect();
    for index in 0..100 {
        let token = issuer.access_token().header("kid", format!("random-{index}")).mint();
        let answer = session.token(&Form::exchange(&token, EXECUTE));
        let reason = answer.reason();
        assert!(["subject_token_key_unknown", "issuer_unavailable"].contains(&reason.as_str()), "{reason}");
    }
    assert!(issuer.jwks_fetches() <= seen + 2, "{} fetches", issuer.jwks_fetches() - seen);
    session.token(&Form::exchange(&issuer.access_token().mint(), EXECUTE)).issued();
}

/// A-071: a known key waits for nobody.
#[test]
fn a_slow_issuer_does_not_hold_up_known_keys() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.be(Mode::Slow(Duration::from_secs(8)));
    wait_until(now() + 2);
    let before = Instant::now();
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
}

/// A-071
#[test]
fn a_huge_key_document_is_refused() {
    let issuer = Issuer::start();
    let filler = json!({"keys": [issuer.key.jwk()], "filler": "x".repeat(3 << 20)}).to_string();
    issuer.be(Mode::Body(filler));
    let writ = scene::gateway(&issuer);
    let answer = present(&writ, &issuer.access_token().mint());
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// A-072
#[test]
fn a_redirect_is_not_followed() {
    let (issuer, bait) = (Issuer::start(), Issuer::start());
    issuer.be(Mode::Redirect(bait.jwks_uri()));
    let writ = scene::gateway(&issuer);
    let answer = present(&writ, &issuer.access_token().mint());
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

fn discovered(issuer: &Issuer) -> Writ {
    Setup::new().issuer_with(issuer, |table| drop(table.remove("jwks_uri"))).client("gateway", GATEWAY).start()
}

/// CONTRACT 6
#[test]
fn keys_are_discovered_from_the_issuer() {
    let issuer = Issuer::start();
    let writ = discovered(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(issuer.other_fetches() > 0);
}

/// A-072
#[test]
fn metadata_of_another_issuer_or_with_plain_http_are_refused() {
    let issuer = Issuer::start();
    let jwks_uri = issuer.jwks_uri();
    for metadata in [
        json!({"issuer": format!("{}/", issuer.url()), "jwks_uri": jwks_uri}),
        json!({"issuer": "https://other.example", "jwks_uri": jwks_uri}),
        json!({"jwks_uri": jwks_uri}),
        json!({"issuer": issuer.url(), "jwks_uri": jwks_uri.replace("https", "http")}),
        json!({"issuer": issuer.url()}),
    ] {
        issuer.describe(metadata);
        let writ = discovered(&issuer);
        let answer = present(&writ, &issuer.access_token().mint());
        answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
    }
    assert_eq!(issuer.jwks_fetches(), 0);
}

/// CONTRACT 6
#[test]
fn keys_may_come_from_a_file() {
    let issuer = Issuer::start();
    let setup = Setup::new().client("gateway", GATEWAY).issuer_with(&issuer, |table| {
        table.remove("jwks_uri");
        table.remove("ca");
        table.insert("jwks_file".into(), "issuer.jwks.json".into());
    });
    setup.write("issuer.jwks.json", &json!({"keys": [issuer.key.jwk()]}).to_string());
    let writ = setup.start();
    present(&writ, &issuer.access_token().mint()).issued();
    assert_eq!((issuer.jwks_fetches(), issuer.other_fetches()), (0, 0));
    let newer = Key::es256("newer");
    writ.setup.write("issuer.jwks.json", &json!({"keys": [newer.jwk()]}).to_string());
    writ.hup();
    let draft = || issuer.access_token().header("kid", "newer").signed_by(&newer).mint();
    eventually("the changed file is read", || (present(&writ, &draft()).status() == 200).then_some(()));
    refused(&writ, &issuer.access_token().mint(), &["subject_token_key_unknown"]);

    // The file is looked at every second; the log has its fault once.
    let complaints = || writ.log_text().matches("were not reloaded").count();
    writ.setup.write("issuer.jwks.json", "{");
    eventually("the fault is in the log", || (complaints() > 0).then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((present(&writ, &draft()).status(), complaints()), (200, 1));
}

/// A-075: what cannot be used is left out; the good key beside it serves.
#[test]
fn unusable_keys_beside_a_good_one_do_no_harm() {
    let issuer = Issuer::start();
    let mut keys = vec![issuer.key.jwk()];
    let changed = |name: &str, value: Value| {
        let mut jwk = Key::es256(name).jwk();
        jwk[name] = value;
        jwk
    };
    keys.extend([
        json!({"kty": "oct", "kid": "secret", "k": "AAAA", "alg": "HS256"}),
        json!({"kty": "AKP", "kid": "modern", "alg": "ML-DSA-44", "pub": "AAAA"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "off-curve", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kty": "RSA", "kid": "short", "n": URL_SAFE_NO_PAD.encode([255; 64]), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "one", "n": URL_SAFE_NO_PAD.encode([255; 256]), "e": "AQ"}),
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("d", json!(URL_SAFE_NO_PAD.encode([1; 32]))),
        json!("no key"),
    ]);
    issuer.publish(&keys);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let mac = issuer.access_token().header("alg", "HS256").header("kid", "secret").mac(&[0, 0, 0]);
    refused(&writ, &mac, &["subject_token_malformed", "subject_token_signature_invalid", "subject_token_key_unknown"]);
}

/// A-075
#[test]
fn a_key_for_another_use_does_not_verify() {
    let issuer = Issuer::start();
    let good = Key::es256("good");
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"]))] {
        let mut jwk = issuer.key.jwk();
        jwk[name] = value;
        issuer.publish(&[jwk, good.jwk()]);
        let writ = scene::gateway(&issuer);
        refused(&writ, &issuer.access_token().mint(), &["subject_token_key_unknown"]);
    }
}

/// A-075: keys that share a name are told apart by their kind, else tried; no other key suffers.
#[test]
fn one_kid_for_several_keys_costs_no_key() {
    let issuer = Issuer::start();
    let (rsa, second, lone) = (Key::rsa("issuer-1"), Key::es256("issuer-1"), Key::es256("lone"));
    issuer.publish(&[rsa.jwk(), issuer.key.jwk(), second.jwk(), lone.jwk(), issuer.key.jwk()]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&second).mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&lone).header("kid", "lone").mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&rsa).header("alg", "RS256").mint()).issued();
    refused(&writ, &issuer.access_token().signed_by(&lone).mint(), &SIGNATURE);
    refused(&writ, &issuer.access_token().signed_by(&Key::es256("issuer-1")).mint(), &SIGNATURE);
}

/// A-075: the log says which key is left out and why, once for each change of the set.
#[test]
fn the_log_says_once_which_keys_are_left_out() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let padded = {
        let mut jwk = Key::es256("padded").jwk();
        jwk["x"] = json!(format!("{}=", jwk["x"].as_str().unwrap()));
        jwk
    };
    issuer.publish(&[json!({"kty": "EC", "kid": "a\nb"}), issuer.key.jwk(), padded]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let told = || writ.log_text().lines().filter(|line| line.contains("cannot be used; the others remain in use")).count();
    let line = writ.wait_for_log("the keys that are left out", |line| line["left_out"].is_string());
    let expected = "keys[0] (kid a\\nb): crv is missing; \
                    keys[2] (kid padded): x is not base64url without padding (RFC 7518 section 2)";
    assert_eq!(line["left_out"], expected, "{line}");
    let seen = issuer.jwks_fetches();
    eventually("it is fetched again", || (issuer.jwks_fetches() >= seen + 3).then_some(()));
    assert_eq!(told(), 1);
    issuer.publish(&[issuer.key.jwk(), json!({"kty": "oct", "kid": "s", "k": "AAAA"})]);
    writ.wait_for_log("the change", |line| line["left_out"] == "keys[1] (kid s): it is not public: it has kty oct");
    assert_eq!(told(), 2);
}

/// SPIFFE bundles: keys for JWT-SVIDs serve, those for X.509-SVIDs belong there and need no word.
#[test]
fn the_keys_of_a_spiffe_bundle_serve() {
    let issuer = Issuer::start();
    let with_use = |mut jwk: Value, name: &str| {
        jwk["use"] = json!(name);
        jwk
    };
    let certificate = with_use(Key::es256("x").jwk(), "x509-svid");
    issuer.publish(&[certificate, with_use(issuer.key.jwk(), "jwt-svid")]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(!writ.log_text().contains("left_out"));
}

/// R-SUBJ-08, CONTRACT 6: the scope as an array of words; more members than a request may have; a name that is none of
/// an https address. What is issued is what a string would have got.
#[test]
fn what_other_issuers_write_otherwise_is_taken() {
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

/// A-076
#[test]
fn a_key_that_the_issuer_withdraws_stops_being_accepted() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.publish(&[Key::es256("newer").jwk()]);
    eventually("the key is gone", || {
        let answer = present(&writ, &issuer.access_token().mint());
        (answer.status() != 200).then(|| answer.invalid_request("subject_token_key_unknown"))
    });
}

/// CONTRACT 10
#[test]
fn fetches_of_keys_are_counted() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(writ.metric("writ_jwks_fetch_total", &[("issuer", &issuer.url()), ("outcome", "ok")]).unwrap() >= 1.0);
}

/// The declared type decides which rules apply; an issuer signs only what it is configured for.
#[test]
fn an_issuer_that_issues_no_access_tokens_is_unknown_for_them() {
    let issuer = Issuer::start();
    let writ = Setup::new()
        .issuer_with(&issuer, |table| {
            table.insert("token_types".into(), vec!["id_token"].into());
            table.insert("id_token_audience".into(), vec!["web-app"].into());
        })
        .client("gateway", GATEWAY)
        .start();
    refused(&writ, &issuer.access_token().mint(), &["subject_token_issuer_unknown"]);
}

/// Sources that are not built yet say so before they look at anything.
#[test]
fn sources_that_are_not_there_yet_are_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().mint();
    for kind in ["self_signed", "unsigned_json"] {
        let form = Form::token_exchange(&token, &format!("urn:ietf:params:oauth:token-type:{kind}"), EXECUTE);
        let answer = writ.workload("gateway").token(&form);
        assert!(
            ["subject_token_type_unsupported", "source_not_allowed"].contains(&answer.reason().as_str()),
            "{}",
            answer.reason()
        );
        assert_eq!(answer.status(), 400);
    }
}

/// Errors name neither the token nor what is in it (A-135).
#[test]
fn a_refusal_repeats_nothing_of_the_token() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let draft: Draft<'_> = issuer.access_token().claim("sub", "marker\u{1}subject").claim("jti", "marker-jti");
    let answer = present(&writ, &draft.mint());
    answer.invalid_request("subject_token_claims_invalid");
    assert!(!answer.response.text().contains("marker"));
    assert!(!writ.log_text().contains("marker-jti"));
}

/// R-SUBJ-04, A-074: however many need a key that is still being fetched, there is one fetch, and all get their answer.
#[test]
fn many_requests_wait_for_one_fetch_and_all_are_answered() {
    let issuer = Issuer::start();
    issuer.be(Mode::Slow(Duration::from_secs(2)));
    let writ = scene::gateway(&issuer);
    let ask_at_once = |token: &str| {
        thread::scope(|scope| {
            let asking: Vec<_> = (0..150).map(|_| scope.spawn(|| present(&writ, token).status())).collect();
            asking.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(ask_at_once(&issuer.access_token().mint()), [200; 150], "the first fetch");
    assert_eq!(issuer.jwks_fetches(), 1);
    let new = Key::es256("issuer-2");
    issuer.publish(&[issuer.key.jwk(), new.jwk()]);
    let token = issuer.access_token().header("kid", "issuer-2").signed_by(&new).mint();
    assert_eq!(ask_at_once(&token), [200; 150], "a fetch for a key that is not known yet");
    assert_eq!(issuer.jwks_fetches(), 2);
}
