use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::keys::SigningAlgorithm;
use crate::keys::signing::KeyPair;

const ISSUED: u64 = 1_790_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_epoch(ISSUED + seconds)
}

/// A key that signed tokens of a minute, from ten seconds before `ISSUED` until a minute after.
struct Ours(KeyPair);

impl Ours {
    fn new() -> Self {
        Self(KeyPair::generate(SigningAlgorithm::ES256).unwrap())
    }

    fn known(&self, state: &'static str) -> KnownKey {
        KnownKey::Signing(self.signed_by(state))
    }

    fn signed_by(&self, state: &'static str) -> SignedBy {
        SignedBy {
            public: self.0.public().verification_key().cloned(),
            published: state != "historical",
            state,
            from: Some(at(0) - Duration::from_secs(10)),
            until: Some(at(60)),
            max_lifetime: Duration::from_secs(60),
        }
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "k"}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed_part = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(signed_part.as_bytes()).unwrap();
        format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://tts.d.example", "iat": ISSUED, "exp": ISSUED + 60, "aud": "d.example", "txn": "t-1",
        "sub": "u-1", "scope": "account.purge", "req_wl": "account-service"
    })
}

/// The claims with one of them replaced.
fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn verified(text: &str, may_redeem: bool, key: KnownKey, now: Timestamp) -> Result<OwnToken, SubjectFault> {
    verify(text, &"d.example".parse().unwrap(), may_redeem, |_| key, now).map_err(|error| error.fault())
}

fn refusal(text: &str, may_redeem: bool, key: KnownKey, now: Timestamp) -> SubjectFault {
    verified(text, may_redeem, key, now).expect_err("refused")
}

/// A-105, R-DELAY-08: to a client that may redeem.
#[test]
fn every_key_that_signed_redeems_and_others_say_why_not() {
    let ours = Ours::new();
    let token = ours.token(&claims());
    for state in ["current", "previous", "historical"] {
        let own = verified(&token, true, ours.known(state), at(3600)).unwrap();
        assert_eq!((own.key_state(), own.is_alive()), (state, false));
        assert_eq!(own.claims().txn, "t-1");
    }
    assert_eq!(refusal(&token, true, KnownKey::Gone, at(3600)), SubjectFault::KeyGone);
    assert_eq!(refusal(&token, true, KnownKey::Unknown, at(3600)), SubjectFault::KeyUnknown);
}

/// R-DELAY-02: a client that may not redeem cannot distinguish a past key from an unknown one.
#[test]
fn an_ordinary_client_learns_nothing_of_the_history() {
    let ours = Ours::new();
    let forged = Ours::new().token(&claims());
    for token in [ours.token(&claims()), forged, ours.token(&with("aud", "e.example"))] {
        for key in [ours.known("historical"), KnownKey::Gone, KnownKey::Unknown] {
            assert_eq!(refusal(&token, false, key, at(3600)), SubjectFault::KeyUnknown);
        }
    }
    let expired_at = at(60);
    let token = ours.token(&claims());
    assert_eq!(refusal(&token, false, ours.known("previous"), at(60)), SubjectFault::Expired { expired_at });
    assert!(verified(&token, false, ours.known("previous"), at(59)).unwrap().is_alive());
}

/// not even to a client that may redeem.
#[test]
fn a_live_token_has_no_use_for_the_history() {
    let ours = Ours::new();
    let token = ours.token(&claims());
    for may_redeem in [true, false] {
        assert_eq!(refusal(&token, may_redeem, ours.known("historical"), at(59)), SubjectFault::KeyUnknown);
    }
    assert!(verified(&token, true, ours.known("historical"), at(60)).is_ok());
    assert!(verified(&token, true, ours.known("previous"), at(59)).unwrap().is_alive());
}

fn live(text: &str, key: KnownKey, now: Timestamp) -> Result<OwnToken, SubjectFault> {
    verify_live(text, &"d.example".parse().unwrap(), |_| key, now).map_err(|error| error.fault())
}

/// The mark of a token that was redeemed.
fn delayed() -> Value {
    json!({"delayed": {"iat": 1, "exp": 2, "use": 1}})
}

/// R-INTRO-06, A-107, A-112
#[test]
fn what_is_not_valid_now_is_not_live() {
    let ours = Ours::new();
    let token = ours.token(&claims());
    let outcome = |text: &str, key, now| live(text, key, now).expect_err("not live");
    for state in ["current", "previous"] {
        let own = live(&token, ours.known(state), at(59)).unwrap();
        assert!((own.claims().txn.as_str(), own.kid(), own.is_alive()) == ("t-1", "k", true));
    }
    assert_eq!(outcome(&token, ours.known("current"), at(60)), SubjectFault::Expired { expired_at: at(60) });
    assert_eq!(outcome(&token, ours.known("current"), at(0) - Duration::from_secs(6)), SubjectFault::NotYetValid);
    for key in [ours.known("historical"), KnownKey::Gone, KnownKey::Unknown] {
        assert_eq!(outcome(&token, key, at(0)), SubjectFault::KeyUnknown);
    }
    let elsewhere = ours.token(&with("aud", "e.example"));
    assert_eq!(outcome(&elsewhere, ours.known("current"), at(0)), SubjectFault::AudienceMismatch);
    let forged = Ours::new().token(&claims());
    assert_eq!(outcome(&forged, ours.known("current"), at(0)), SubjectFault::SignatureInvalid);
    let waiting = || KnownKey::Signing(SignedBy { from: None, until: None, ..ours.signed_by("next") });
    for token in [ours.token(&with("rctx", delayed())), token] {
        assert!(matches!(outcome(&token, waiting(), at(0)), SubjectFault::ClaimsInvalid));
    }
}

/// CONTRACT 3.5: a free retry repeats the claims of the use, and may be signed by the key after.
#[test]
fn a_redeemed_token_is_live_whichever_key_signed_its_retry() {
    let ours = Ours::new();
    let redeemed = ours.token(&with("rctx", delayed()));
    let signed = |from, until| KnownKey::Signing(SignedBy { from: Some(from), until, ..ours.signed_by("current") });
    for key in [ours.known("current"), signed(at(1), None), signed(at(59), None)] {
        assert!(live(&redeemed, key, at(59)).is_ok());
    }
    for key in [signed(at(60), None), signed(at(0) - Duration::from_secs(9), Some(at(0) - Duration::from_secs(1)))] {
        assert!(live(&redeemed, key, at(59)).is_err());
    }
    assert!(live(&ours.token(&claims()), signed(at(1), None), at(59)).is_err(), "it was signed when it was issued");
    let long = ours.token(&{
        let mut claims = with("rctx", delayed());
        claims["exp"] = (ISSUED + 61).into();
        claims
    });
    assert!(live(&long, ours.known("current"), at(0)).is_err());
    assert_eq!(refusal(&redeemed, true, signed(at(1), None), at(59)), SubjectFault::Redeemed);
}

/// A-106, R-DELAY-09: both ends of the span are inside.
#[test]
fn a_token_from_outside_the_span_of_its_key_is_forged() {
    let ours = Ours::new();
    let outcome = |iat: u64| {
        let mut claims = with("iat", iat);
        claims["exp"] = (iat + 60).into();
        verified(&ours.token(&claims), true, ours.known("historical"), at(3600)).map(|_| ())
    };
    let forged = Err(SubjectFault::ClaimsInvalid);
    assert_eq!(outcome(ISSUED - 10), Ok(()));
    assert_eq!(outcome(ISSUED + 60), Ok(()));
    assert_eq!(outcome(ISSUED - 11), forged);
    assert_eq!(outcome(ISSUED + 61), forged);
    let waiting = SignedBy { from: None, until: None, ..ours.signed_by("next") };
    assert!(verified(&ours.token(&claims()), true, KnownKey::Signing(waiting), at(0)).is_err());
}

/// A-106, R-DELAY-07
#[test]
fn a_token_that_lives_longer_than_any_is_forged() {
    let ours = Ours::new();
    let long = ours.token(&with("exp", ISSUED + 61));
    let forged = SubjectFault::ClaimsInvalid;
    assert_eq!(refusal(&long, true, ours.known("historical"), at(3600)), forged);
}

/// the other form of the signature is also valid, and identifies the same token.
#[test]
fn a_token_is_known_by_what_was_signed() {
    let ours = Ours::new();
    let token = ours.token(&claims());
    let (signed_part, _) = token.rsplit_once('.').unwrap();
    let signature = ours.0.sign(signed_part.as_bytes()).unwrap();
    let again = format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_ne!(token, again, "ECDSA signs the same in many ways");
    let digest = |text: &str| verified(text, true, ours.known("previous"), at(3600)).unwrap().signed_part;
    assert_eq!(digest(&token), digest(&again));
    assert_ne!(digest(&token), digest(&ours.token(&with("txn", "t-2"))));
}

/// R-SUBJ-19: form, then key, then signature.
#[test]
fn other_tokens_are_refused_in_order() {
    let ours = Ours::new();
    let outcome = |text: &str, key| refusal(text, true, key, at(0));
    let header = |typ: Value, alg: &str| ours.token_with(&json!({"typ": typ, "alg": alg, "kid": "k"}), &claims());
    assert_eq!(outcome("a.b", KnownKey::Unknown), SubjectFault::Malformed);
    assert_eq!(outcome(&header("at+jwt".into(), "ES256"), KnownKey::Unknown), SubjectFault::Malformed);
    assert_eq!(outcome(&header(Value::Null, "ES256"), KnownKey::Unknown), SubjectFault::Malformed);
    assert_eq!(outcome(&header(TYP.into(), "none"), KnownKey::Unknown), SubjectFault::SignatureInvalid);
    let nameless = ours.token_with(&json!({"typ": TYP, "alg": "ES256"}), &claims());
    assert_eq!(outcome(&nameless, ours.known("current")), SubjectFault::KeyUnknown);
    let forged = Ours::new().token(&with("aud", "e.example"));
    assert_eq!(outcome(&forged, ours.known("current")), SubjectFault::SignatureInvalid);
    let other = ours.token_with(&json!({"typ": TYP, "alg": "ES384", "kid": "k"}), &claims());
    assert_eq!(outcome(&other, ours.known("current")), SubjectFault::SignatureInvalid);
}

/// A-112, R-SUBJ-19, and the order of claims: audience, then marks and spans, then times.
#[test]
fn claims_are_checked_before_times() {
    let ours = Ours::new();
    let late = at(3600);
    let outcome = |claims: &Value, may_redeem| refusal(&ours.token(claims), may_redeem, ours.known("current"), late);
    for may_redeem in [true, false] {
        assert_eq!(outcome(&with("aud", "e.example"), may_redeem), SubjectFault::AudienceMismatch);
        assert!(matches!(outcome(&with("sub", 1), may_redeem), SubjectFault::ClaimsInvalid));
        assert!(matches!(outcome(&with("iat", ISSUED - 100), may_redeem), SubjectFault::ClaimsInvalid));
    }
}

/// A-098, R-DELAY-14: for every client, alive or expired, and for any form of the mark.
#[test]
fn a_redeemed_token_is_not_accepted_again() {
    let ours = Ours::new();
    for mark in [json!({"iat": 1, "exp": 2, "use": 1}), json!({}), json!(null)] {
        let token = ours.token(&with("rctx", json!({"delayed": mark})));
        for now in [at(0), at(3600)] {
            assert_eq!(refusal(&token, true, ours.known("previous"), now), SubjectFault::Redeemed);
            assert_eq!(refusal(&token, false, ours.known("previous"), now), SubjectFault::Redeemed);
        }
    }
}

/// R-DELAY-07
#[test]
fn clocks_of_instances_may_differ_by_five_seconds() {
    let ours = Ours::new();
    let token = ours.token(&claims());
    let before = |seconds| at(0) - Duration::from_secs(seconds);
    assert!(verified(&token, false, ours.known("current"), before(5)).is_ok());
    assert_eq!(refusal(&token, false, ours.known("current"), before(6)), SubjectFault::NotYetValid);
    assert_eq!(refusal(&token, true, ours.known("current"), before(6)), SubjectFault::NotYetValid);
    let pre_dated = ours.token(&with("nbf", ISSUED + 30));
    assert_eq!(refusal(&pre_dated, false, ours.known("current"), at(24)), SubjectFault::NotYetValid);
}
