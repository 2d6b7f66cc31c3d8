//! The contract with downstream services: which header values are accepted as a Txn-Token, and which are refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::publisher::{Publisher, Reply};
use common::signer::{Signer, jwks};
use common::{claims, now};
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use writ_verifier::jwks::KeySet;
use writ_verifier::{BuildError, Builder, SingleUse, TxnToken, Verifier, VerifyError};

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new("k1", Algorithm::ES256));

fn builder() -> Builder {
    Verifier::builder("d.example").jwks_json(jwks(&[SIGNER.jwk()]))
}

fn verifier() -> Verifier {
    builder().build().unwrap()
}

/// Valid claims with one changed.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

async fn refusal(verifier: &Verifier, value: &str) -> VerifyError {
    verifier.verify(value).await.expect_err("must be refused")
}

fn verify_at(verifier: &Verifier, token: &str, second: u64) -> Result<TxnToken, VerifyError> {
    let keys = KeySet::parse(&jwks(&[SIGNER.jwk()])).unwrap();
    verifier.verify_at(token, &keys, UNIX_EPOCH + Duration::from_secs(second))
}

#[tokio::test]
async fn every_algorithm_of_the_service_is_verified() {
    for algorithm in [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256] {
        let (signer, other) = (Signer::new("k", algorithm), Signer::new("k", algorithm));
        let verifier = Verifier::builder("d.example").jwks_json(jwks(&[signer.jwk()])).build().unwrap();
        verifier.verify(signer.token(&claims())).await.unwrap();
        assert_eq!(refusal(&verifier, &other.token(&claims())).await, VerifyError::SignatureInvalid, "{algorithm:?}");
    }
}

#[tokio::test]
async fn claims_are_typed() {
    let encoded = SIGNER.token(&claims());
    let token = verifier().verify(&encoded).await.unwrap();
    assert_eq!(token.encoded(), encoded);
    assert_eq!(
        (token.transaction(), token.subject(), token.requesting_workload(), token.trust_domain().as_str()),
        ("t-1", "u-1", "gateway", "d.example")
    );
    assert_eq!((token.issuer(), token.expires_at() - token.issued_at()), (Some("https://tts.example"), 60));
    assert_eq!((token.tctx::<u64>("amount"), token.tctx::<&str>("currency")), (Some(100), Some("EUR")));
    assert_eq!((token.tctx::<u64>("currency"), token.tctx::<u64>("limit")), (None, None));
    assert_eq!(token.rctx::<String>("req_ip").as_deref(), Some("192.0.2.1"));
    assert_eq!((token.delayed(), token.not_before(), token.requesting_workloads().len()), (None, None, 0));
    assert_eq!(token.purposes().len(), 2);
}

/// R-VERIFY-10
#[tokio::test]
async fn a_purpose_is_required_byte_for_byte() {
    let token = verifier().verify(SIGNER.token(&claims())).await.unwrap();
    assert_eq!(token.require_scope("order.refund"), Ok(()));
    for other in ["order", "order.Refund", "order.refund order.read", "", "order.refund "] {
        let error = token.require_scope(other).unwrap_err();
        assert_eq!((error.http_status(), error.reason()), (403, "scope_insufficient"), "{other:?}");
    }
}

#[tokio::test]
async fn only_a_token_that_was_redeemed_late_enough_counts_as_delayed() {
    let plain = verifier().verify(SIGNER.token(&claims())).await.unwrap();
    assert_eq!(plain.require_delayed(Duration::ZERO), Err(VerifyError::NotDelayed));
    let delayed = json!({"delayed": {"iat": now() - 3660, "exp": now() - 3600, "use": 2}});
    let token = verifier().verify(SIGNER.token(&with("rctx", delayed))).await.unwrap();
    assert_eq!(token.require_delayed(Duration::from_secs(3600)).unwrap().use_number, 2);
    assert_eq!(token.require_delayed(Duration::from_secs(3610)), Err(VerifyError::NotDelayed));
    let future = json!({"delayed": {"iat": now(), "exp": now() + 60, "use": 1}});
    let token = verifier().verify(SIGNER.token(&with("rctx", future))).await.unwrap();
    assert_eq!(token.require_delayed(Duration::ZERO), Err(VerifyError::NotDelayed));
    let broken = SIGNER.token(&with("rctx", json!({"delayed": true})));
    assert_eq!(refusal(&verifier(), &broken).await, VerifyError::ClaimsInvalid);
}

/// R-VERIFY-01, A-141
#[tokio::test]
async fn a_header_value_is_one_token_and_nothing_else() {
    let good = SIGNER.token(&claims());
    let verifier = verifier();
    for value in [good.clone(), format!(" \t{good} ")] {
        assert!(verifier.verify(&value).await.is_ok(), "{value:?}");
    }
    for value in [
        String::new(),
        " ".to_owned(),
        format!("{good},{good}"),
        format!("{good}, {good}"),
        format!("{good},"),
        format!("Bearer {good}"),
        format!("\"{good}\""),
        format!("{good}\r\n"),
        format!("{good}\u{a0}"),
        format!("{good}.{good}"),
        format!("{good}="),
        "x".repeat(20_000),
    ] {
        assert_eq!(refusal(&verifier, &value).await, VerifyError::Malformed, "{value:?}");
    }
}

/// R-VERIFY-03
#[tokio::test]
async fn other_kinds_of_jwt_are_refused() {
    let sign = |typ: Value| SIGNER.sign(&json!({"typ": typ, "alg": "ES256", "kid": "k1"}), &claims().to_string());
    let verifier = verifier();
    for typ in ["TxnToken+JWT", "application/txntoken+jwt"] {
        assert!(verifier.verify(sign(json!(typ))).await.is_ok(), "{typ}");
    }
    for typ in ["JWT", "at+jwt", "txn_token", "", "text/txntoken+jwt"] {
        assert_eq!(refusal(&verifier, &sign(json!(typ))).await, VerifyError::TypeWrong, "{typ}");
    }
    let absent = SIGNER.sign(&json!({"alg": "ES256", "kid": "k1"}), &claims().to_string());
    assert_eq!(refusal(&verifier, &absent).await, VerifyError::TypeWrong);
}

///
#[tokio::test]
async fn the_algorithm_and_the_key_are_the_services_choice() {
    let verifier = verifier();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", part(&json!({"typ": "txntoken+jwt", "alg": "none"})), part(&claims()));
    assert_eq!(refusal(&verifier, &none).await, VerifyError::Malformed);

    let header = json!({"typ": "txntoken+jwt", "alg": "HS256", "kid": "k1"});
    let signed = format!("{}.{}", part(&header), part(&claims()));
    let secret = EncodingKey::from_secret(SIGNER.jwk()["x"].as_str().unwrap().as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap();
    assert_eq!(refusal(&verifier, &format!("{signed}.{signature}")).await, VerifyError::Malformed);

    let other = SIGNER.sign(&json!({"typ": "txntoken+jwt", "alg": "RS256", "kid": "k1"}), &claims().to_string());
    assert_eq!(refusal(&verifier, &other).await, VerifyError::SignatureInvalid);

    let historical = Signer::new("k0", Algorithm::ES256);
    assert_eq!(refusal(&verifier, &historical.token(&claims())).await, VerifyError::KeyUnknown);

    let stripped = SIGNER.token(&claims());
    let stripped = format!("{}.", stripped.rsplit_once('.').unwrap().0);
    assert_eq!(refusal(&verifier, &stripped).await, VerifyError::SignatureInvalid);
}

/// R-VERIFY-04
#[tokio::test]
async fn the_audience_is_this_trust_domain_alone() {
    let verifier = verifier();
    assert!(verifier.verify(SIGNER.token(&with("aud", json!(["d.example"])))).await.is_ok());
    for aud in [json!("D.example"), json!("d.example."), json!("e.example"), json!(["e.example"])] {
        let token = SIGNER.token(&with("aud", aud));
        assert_eq!(refusal(&verifier, &token).await, VerifyError::AudienceMismatch);
    }
    for aud in [json!(["d.example", "e.example"]), json!([]), json!(5), json!(null), json!([["d.example"]])] {
        assert_eq!(refusal(&verifier, &SIGNER.token(&with("aud", aud))).await, VerifyError::ClaimsInvalid);
    }
}

/// R-VERIFY-05
#[tokio::test]
async fn required_claims_are_there_and_unknown_ones_do_no_harm() {
    let verifier = verifier();
    assert!(verifier.verify(SIGNER.token(&with("new_claim", json!({"x": [1]})))).await.is_ok());
    for name in ["iat", "aud", "exp", "txn", "sub", "scope", "req_wl"] {
        for value in [json!(null), json!({}), json!(""), json!(-1), json!(true)] {
            assert_eq!(
                refusal(&verifier, &SIGNER.token(&with(name, value))).await,
                VerifyError::ClaimsInvalid,
                "{name}"
            );
        }
        let mut without = claims();
        without.as_object_mut().unwrap().remove(name);
        assert_eq!(refusal(&verifier, &SIGNER.token(&without)).await, VerifyError::ClaimsInvalid, "{name}");
    }
    let header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "k1"});
    let twice = claims().to_string().replacen('{', "{\"sub\":\"root\",", 1);
    for payload in ["[]", "\"x\"", "null", "{", twice.as_str()] {
        assert_eq!(refusal(&verifier, &SIGNER.sign(&header, payload)).await, VerifyError::ClaimsInvalid, "{payload}");
    }
}

/// R-VERIFY-05
#[test]
fn expiry_is_exact_and_clocks_may_differ_by_30_seconds_ahead() {
    let token = SIGNER.token(&json!({
        "iat": 1_790_000_000, "exp": 1_790_000_060, "nbf": 1_790_000_010, "aud": "d.example", "txn": "t", "sub": "u",
        "scope": "p", "req_wl": "w",
    }));
    let strict = verifier();
    assert!(verify_at(&strict, &token, 1_790_000_059).is_ok());
    assert_eq!(
        verify_at(&strict, &token, 1_790_000_060).unwrap_err(),
        VerifyError::Expired { expired_at: 1_790_000_060 }
    );
    assert!(verify_at(&strict, &token, 1_789_999_980).is_ok(), "nbf is 30 seconds ahead");
    assert_eq!(verify_at(&strict, &token, 1_789_999_979).unwrap_err(), VerifyError::NotYetValid);
    assert_eq!(verify_at(&strict, &token, 0).unwrap_err(), VerifyError::NotYetValid);

    let lenient = builder().leeway(Duration::from_secs(5)).build().unwrap();
    assert!(verify_at(&lenient, &token, 1_790_000_064).is_ok());
    assert!(verify_at(&lenient, &token, 1_790_000_065).is_err());
    assert!(verify_at(&lenient, &token, 1_790_000_005).is_ok());
    assert_eq!(verify_at(&lenient, &token, 1_790_000_004).unwrap_err(), VerifyError::NotYetValid);

    assert!(matches!(builder().leeway(Duration::from_secs(31)).build(), Err(BuildError::Leeway)));
}

#[test]
fn times_at_the_end_of_the_range_do_not_wrap() {
    let token = SIGNER.token(&json!({
        "iat": 1, "exp": u64::MAX, "aud": "d.example", "txn": "t", "sub": "u", "scope": "p", "req_wl": "w",
    }));
    assert!(verify_at(&builder().leeway(Duration::from_secs(30)).build().unwrap(), &token, 1_790_000_000).is_ok());
    let future = SIGNER.token(&json!({
        "iat": u64::MAX - 1, "exp": u64::MAX, "aud": "d.example", "txn": "t", "sub": "u", "scope": "p", "req_wl": "w",
    }));
    assert_eq!(verify_at(&verifier(), &future, 1_790_000_000).unwrap_err(), VerifyError::NotYetValid);
}

/// R-VERIFY-06
#[tokio::test]
async fn the_issuer_is_checked_where_it_is_configured() {
    let named = SIGNER.token(&claims());
    let mut anonymous = claims();
    anonymous.as_object_mut().unwrap().remove("iss");
    let anonymous = SIGNER.token(&anonymous);
    let build = |builder: Builder| builder.build().unwrap();

    assert!(verifier().verify(&anonymous).await.is_ok());
    let ours = build(builder().issuer("https://tts.example"));
    assert!(ours.verify(&named).await.is_ok());
    assert!(ours.verify(&anonymous).await.is_ok());
    let other = build(builder().issuer("https://tts.example/"));
    assert_eq!(refusal(&other, &named).await, VerifyError::IssuerMismatch);
    let required = build(builder().issuer("https://tts.example").require_issuer(true));
    assert!(required.verify(&named).await.is_ok());
    assert_eq!(refusal(&required, &anonymous).await, VerifyError::IssuerMismatch);
}

/// R-VERIFY-11
#[tokio::test]
async fn single_use_refuses_the_same_token_or_the_same_transaction() {
    let by_token = builder().single_use(SingleUse::SignedPart).build().unwrap();
    let first = SIGNER.token(&claims());
    assert!(by_token.verify(&first).await.is_ok());
    assert_eq!(refusal(&by_token, &first).await, VerifyError::Replayed);
    let signed_again = SIGNER
        .token(&serde_json::from_slice(&URL_SAFE_NO_PAD.decode(first.split('.').nth(1).unwrap()).unwrap()).unwrap());
    assert_ne!(first, signed_again);
    assert_eq!(refusal(&by_token, &signed_again).await, VerifyError::Replayed, "the same token with another signature");
    assert!(by_token.verify(SIGNER.token(&with("req_wl", json!("other")))).await.is_ok());

    let by_transaction = builder().single_use(SingleUse::Transaction).build().unwrap();
    assert!(by_transaction.verify(&first).await.is_ok());
    let replaced = SIGNER.token(&with("req_wl", json!("other")));
    assert_eq!(refusal(&by_transaction, &replaced).await, VerifyError::Replayed);
    assert!(by_transaction.verify(SIGNER.token(&with("txn", json!("t-2")))).await.is_ok());
}

/// R-PRIV-01
#[test]
fn debug_and_errors_show_nothing_of_the_token() {
    let encoded = SIGNER.token(&with("iat", json!(now())));
    let keys = KeySet::parse(&jwks(&[SIGNER.jwk()])).unwrap();
    let token = verifier().verify_at(&encoded, &keys, SystemTime::now()).unwrap();
    let shown = format!("{token:?}");
    for part in encoded.split('.').chain(["u-1", "EUR", "192.0.2.1"]) {
        assert!(!shown.contains(part), "{part}");
    }
}

#[test]
fn every_error_has_its_own_reason_and_a_status() {
    let errors = [
        (VerifyError::Malformed, 401),
        (VerifyError::TypeWrong, 401),
        (VerifyError::KeyUnknown, 401),
        (VerifyError::KeysUnavailable, 503),
        (VerifyError::SignatureInvalid, 401),
        (VerifyError::ClaimsInvalid, 401),
        (VerifyError::AudienceMismatch, 401),
        (VerifyError::IssuerMismatch, 401),
        (VerifyError::Expired { expired_at: 1 }, 401),
        (VerifyError::NotYetValid, 401),
        (VerifyError::Replayed, 401),
        (VerifyError::ScopeInsufficient, 403),
        (VerifyError::NotDelayed, 403),
    ];
    let reasons: std::collections::HashSet<_> = errors.iter().map(|(error, _)| error.reason()).collect();
    assert_eq!(reasons.len(), errors.len());
    for (error, status) in errors {
        assert_eq!(error.http_status(), status, "{error}");
    }
}

#[test]
fn a_verifier_that_cannot_work_is_not_built() {
    let none = Verifier::builder("d.example").build();
    assert!(matches!(none, Err(BuildError::Source)));
    assert!(matches!(builder().jwks_url("https://tts.example/jwks").build(), Err(BuildError::Source)));
    let url = |url: &str| Verifier::builder("d.example").jwks_url(url).build();
    assert!(matches!(url("tts.example"), Err(BuildError::Address(_))));
    assert!(matches!(url("http://tts.example/jwks"), Err(BuildError::Setup(_))));
    assert!(matches!(Verifier::builder("d.example").jwks_file("/nowhere").build(), Err(BuildError::File(_))));
    assert!(matches!(Verifier::builder("d.example").jwks_json("{}").build(), Err(BuildError::Jwks(_))));
    let domain = Verifier::builder("two words").jwks_json(jwks(&[SIGNER.jwk()])).build();
    assert!(matches!(domain, Err(BuildError::TrustDomain(_))));
    assert!(matches!(Verifier::builder("d.example").root_certificate_pem("none"), Err(BuildError::Setup(_))));
}

#[tokio::test]
async fn keys_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, jwks(&[SIGNER.jwk()])).unwrap();
    let verifier = Verifier::builder("d.example").jwks_file(&path).build().unwrap();
    assert!(verifier.verify(SIGNER.token(&claims())).await.is_ok());
}

///
#[tokio::test]
async fn keys_are_fetched_once_and_used_while_the_service_is_unreachable() {
    let publisher = Publisher::start().await;
    let build = || {
        Verifier::builder("d.example")
            .jwks_url(publisher.url("/jwks"))
            .root_certificate_pem(&publisher.root_pem)
            .unwrap()
            .build()
            .unwrap()
    };
    publisher.publish("/jwks", Reply::status(503));
    let early = refusal(&build(), &SIGNER.token(&claims())).await;
    assert_eq!((early, early.http_status()), (VerifyError::KeysUnavailable, 503));

    publisher.publish("/jwks", Reply::ok(jwks(&[SIGNER.jwk()])));
    let requests = publisher.count();
    let verifier = std::sync::Arc::new(build());
    verifier.warm();
    let good = SIGNER.token(&claims());
    let shared = std::sync::Arc::clone(&verifier);
    let task = tokio::spawn(async move { shared.verify(good).await.map(|_| ()) });
    assert_eq!(task.await.unwrap(), Ok(()));

    publisher.publish("/jwks", Reply::status(503));
    let unknown = Signer::new("k2", Algorithm::ES256);
    for _ in 0..100 {
        assert_eq!(refusal(&verifier, &unknown.token(&claims())).await, VerifyError::KeysUnavailable);
        assert!(verifier.verify(SIGNER.token(&claims())).await.is_ok());
    }
    assert_eq!(publisher.count(), requests + 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_token_with_one_character_changed_is_refused(place in any::<prop::sample::Index>(), to in any::<char>()) {
        let mut token: Vec<char> = SIGNER.token(&with("iat", json!(now()))).chars().collect();
        let place = place.index(token.len());
        prop_assume!(token[place] != to);
        token[place] = to;
        let token: String = token.into_iter().collect();
        prop_assert!(verify_at(&verifier(), &token, now()).is_err());
    }

    #[test]
    fn a_token_with_one_character_of_its_own_alphabet_changed_is_refused(
        place in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]"
    ) {
        let token = SIGNER.token(&claims());
        let place = place.index(token.len());
        prop_assume!(token[place..=place] != *to);
        let changed = format!("{}{to}{}", &token[..place], &token[place + 1..]);
        prop_assert!(verify_at(&verifier(), &token, now()).is_ok());
        prop_assert!(verify_at(&verifier(), &changed, now()).is_err());
    }

    #[test]
    fn no_text_makes_the_verifier_panic(text in any::<String>()) {
        prop_assert!(verify_at(&verifier(), &text, now()).is_err());
    }
}

/// Every header value of the table has the same outcome as without remembering, however often it is presented.
#[tokio::test]
async fn remembered_tokens_change_no_outcome() {
    let another = Signer::new("k1", Algorithm::ES256);
    let tokens = [
        SIGNER.token(&claims()),
        another.token(&claims()),
        SIGNER.token(&with("aud", json!("e.example"))),
        SIGNER.token(&with("iss", json!("https://other.example"))),
        SIGNER.token(&with("exp", json!(now() - 1))),
        SIGNER.token(&with("iat", json!(now() + 40))),
        SIGNER.token(&with("nbf", json!(now() + 40))),
        SIGNER.token(&with("rctx", json!({"delayed": {"iat": 1, "exp": 2, "use": 1}}))),
        SIGNER.token(&with("rctx", json!({"delayed": {}}))),
        SIGNER.sign(&json!({"typ": "JWT", "alg": "ES256", "kid": "k1"}), &claims().to_string()),
        "x".repeat(20_000),
    ];
    let remembering = builder().issuer("https://tts.example").build().unwrap();
    let forgetful = builder().issuer("https://tts.example").cached_tokens(0).build().unwrap();
    let outcome = async |verifier: &Verifier, token: &str| {
        let verified = verifier.verify(token).await;
        verified.map(|token| (token.claims().clone(), token.delayed(), token.encoded().to_owned()))
    };
    for token in &tokens {
        let expected = outcome(&forgetful, token).await;
        for _ in 0..3 {
            assert_eq!(outcome(&remembering, token).await, expected, "{token:.300}");
        }
    }
    let used = builder().single_use(SingleUse::SignedPart).build().unwrap();
    assert!(used.verify(&tokens[0]).await.is_ok());
    assert_eq!(refusal(&used, &tokens[0]).await, VerifyError::Replayed);
}

///
#[tokio::test]
async fn a_remembered_token_needs_the_key_that_verified_it() {
    let publisher = Publisher::start().await;
    let (next, last) = (Signer::new("k2", Algorithm::ES256), Signer::new("k1", Algorithm::ES256));
    publisher.publish("/jwks.json", Reply::ok(jwks(&[SIGNER.jwk()])));
    let build = || {
        let builder = Verifier::builder("d.example").jwks_url(publisher.url("/jwks.json"));
        builder.root_certificate_pem(&publisher.root_pem).unwrap().build().unwrap()
    };
    let token = SIGNER.token(&claims());
    for (keys, reason) in
        [(vec![next.jwk()], VerifyError::KeyUnknown), (vec![next.jwk(), last.jwk()], VerifyError::SignatureInvalid)]
    {
        publisher.publish("/jwks.json", Reply::ok(jwks(&[SIGNER.jwk()])));
        let verifier = build();
        for _ in 0..2 {
            assert!(verifier.verify(&token).await.is_ok());
        }
        publisher.publish("/jwks.json", Reply::ok(jwks(&keys)));
        assert!(verifier.verify(next.token(&claims())).await.is_ok(), "its unknown key causes a fetch");
        assert_eq!(refusal(&verifier, &token).await, reason);
    }
}
