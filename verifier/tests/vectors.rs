//! Runs the test vectors of `tests/vectors/`, which are meant for verifiers in other languages, against this verifier.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;
use writ_verifier::json::{Limits, Members};
use writ_verifier::jwks::KeySet;
use writ_verifier::{Builder, TxnToken, Verifier};

#[derive(Deserialize)]
struct Vector {
    name: String,
    token: String,
    now: u64,
    audience: String,
    issuer: Option<String>,
    expect: String,
    claims: Option<Members>,
    why: String,
}

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name)).unwrap()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_slice(&file("tokens.json")).unwrap()
}

/// Whether every known claim is equal to the signed one; `tctx` and `rctx` digit for digit.
fn has_claims(token: &TxnToken, claims: &Members) -> bool {
    let parsed = serde_json::to_string(token.claims()).unwrap();
    let parsed = Members::parse(&parsed, Limits::DEFAULT).unwrap();
    claims.iter().all(|(name, signed)| match (name, parsed.raw(name)) {
        ("tctx" | "rctx", text) => text == Some(signed),
        ("jti" | "cnf" | "new_claim", text) => text.is_none(),
        (_, text) => {
            let (signed, text): (Value, Value) =
                (serde_json::from_str(signed).unwrap(), text.unwrap().parse().unwrap());
            text == signed || signed == Value::Array(vec![text])
        }
    })
}

/// R-VERIFY-01 to R-VERIFY-06
#[test]
fn every_vector_is_judged_as_it_says() {
    let jwks = file("jwks.json");
    let keys = KeySet::parse(&jwks).unwrap();
    let mut differences = Vec::new();
    for vector in vectors() {
        let builder = Verifier::builder(&vector.audience).jwks_json(jwks.clone());
        let builder = vector.issuer.iter().fold(builder, Builder::issuer);
        let now = UNIX_EPOCH + Duration::from_secs(vector.now);
        let verdict = match builder.build().unwrap().verify_at(&vector.token, &keys, now) {
            Ok(token) if vector.claims.is_some_and(|claims| has_claims(&token, &claims)) => "valid",
            Ok(_) => "valid, with other claims",
            Err(error) => error.reason(),
        };
        if verdict != vector.expect {
            differences.push(format!("{}: {verdict}, expected {}", vector.name, vector.expect));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn the_vectors_are_described_and_cover_every_reason() {
    let vectors = vectors();
    let names: BTreeSet<_> = vectors.iter().map(|vector| &vector.name).collect();
    assert_eq!(names.len(), vectors.len(), "names are unique");
    assert!(
        vectors.iter().all(|vector| !vector.why.is_empty() && vector.claims.is_some() == (vector.expect == "valid"))
    );
    let verdicts: BTreeSet<_> = vectors.iter().map(|vector| vector.expect.as_str()).collect();
    let all = [
        "token_audience_mismatch",
        "token_claims_invalid",
        "token_expired",
        "token_issuer_mismatch",
        "token_key_unknown",
        "token_malformed",
        "token_not_yet_valid",
        "token_signature_invalid",
        "token_type_wrong",
        "valid",
    ];
    assert_eq!(verdicts, BTreeSet::from(all));
    assert!(vectors.iter().filter(|vector| vector.expect != "valid").count() >= 50);
}
