//! A Txn-Token of ours: as subject token, for replacement while it lives and for redemption after; and as what a client
//! wants to know of.
//!
//! Both ask first whether it is genuine, and differ in what they allow then. Whoever only wants to know meets the
//! published keys and live tokens. The history of keys opens to clients that may redeem, for expired tokens, and to
//! nobody else: others hear the same answer for an archived key as for one that was never ours (R-DELAY-02, A-107).

use std::time::Duration;

use jsonwebtoken::DecodingKey;
use writ_verifier::claims::TYP;
use writ_verifier::{TrustDomain, TxnClaims};

use super::issued_jwt::{parse_jws, wrong_typ};
use super::{SubjectError, SubjectFault};
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;

/// Clocks of instances differ: an `iat` this far ahead is accepted.
const INSTANCE_SKEW: Duration = Duration::from_secs(5);

/// What is known of the key that a token names.
pub enum KnownKey {
    /// It may have signed the token.
    Signing(SignedBy),
    /// It was ours, and serves nothing any more: revoked, or past its retention.
    Gone,
    /// It was never ours.
    Unknown,
}

/// A key of ours, and the span in which its private half signed.
pub struct SignedBy {
    /// The public half.
    pub public: DecodingKey,
    /// What it signs with.
    pub algorithm: jsonwebtoken::Algorithm,
    /// Whether the JWKS lists it; else it is historical.
    pub published: bool,
    /// `previous`, `historical` …, for the audit log.
    pub state: &'static str,
    /// The first second in which it signed; `None` if it has not signed yet.
    pub from: Option<Timestamp>,
    /// The last second in which it signed; `None` while it signs.
    pub until: Option<Timestamp>,
    /// The longest lifetime that was allowed while it signed.
    pub longest_lifetime: Duration,
}

impl SignedBy {
    /// Whether it signed in one of the seconds from `first` to `last`. All ends are included: the start of the span was
    /// rounded down, its end is rounded up.
    fn signed_within(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_some_and(|from| from <= last) && self.until.is_none_or(|until| first <= until)
    }
}

/// A Txn-Token that we issued, unaltered.
#[derive(Debug, Clone)]
pub struct OwnToken {
    /// Its claims.
    pub claims: TxnClaims,
    /// SHA-256 of header and payload as signed: what identifies a token, since its signature has a second valid form.
    pub signed_part: [u8; 32],
    /// The key that signed it.
    pub kid: String,
    /// The state of that key, for the audit log.
    pub key_state: &'static str,
    /// Whether it has not expired.
    pub alive: bool,
}

impl OwnToken {
    /// A token with these claims that no key signed, as [`verify`] would have found it: to see what policies make of it.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: trust domain, redeemed before, times.
    pub fn supposed(
        claims: TxnClaims,
        trust_domain: &TrustDomain,
        may_redeem: bool,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        if claims.aud != *trust_domain {
            return Err(SubjectFault::AudienceMismatch.into());
        }
        let alive = serves(&claims, may_redeem, now)?;
        Ok(Self { claims, signed_part: [0; 32], kid: String::new(), key_state: "supposed", alive })
    }
}

#[cfg(test)]
impl OwnToken {
    /// An expired token that no key signed, for tests of what is done with tokens.
    pub(crate) fn expired(txn: &str, signed_part: u8, iat: u64) -> Self {
        let claims = serde_json::json!({
            "iat": iat, "exp": iat + 60, "aud": "d.example", "txn": txn, "sub": "u-1", "scope": "account.purge",
            "req_wl": "account-service", "tctx": {"contract": "C-1"}, "rctx": {"req_ip": "192.0.2.1"}
        });
        let claims = serde_json::from_value(claims).unwrap();
        Self { claims, signed_part: [signed_part; 32], kid: "k".into(), key_state: "historical", alive: false }
    }
}

/// Verifies `text`, a subject token, as a Txn-Token of `trust_domain`. `may_redeem` says whether the history of keys may
/// be used; `find` looks a `kid` up among our own public keys.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, key, signature, claims, redeemed before, times.
pub fn verify(
    text: &str,
    trust_domain: &TrustDomain,
    may_redeem: bool,
    find: impl FnOnce(&str) -> KnownKey,
    now: Timestamp,
) -> Result<OwnToken, SubjectError> {
    let token = Genuine::verify(text, trust_domain, may_redeem, find)?;
    let alive = serves(&token.claims, may_redeem, now)?;
    if alive && !token.key.published {
        return Err(SubjectFault::KeyUnknown.into()); // the history is for expired tokens
    }
    Ok(token.known(alive))
}

/// Whether a genuine token is alive, if it serves as a subject token at all.
fn serves(claims: &TxnClaims, may_redeem: bool, now: Timestamp) -> Result<bool, SubjectError> {
    // Looked at before any time: no chain of redemptions buys time, whoever asks and whenever.
    if is_redeemed(claims) {
        return Err(SubjectFault::Redeemed.into());
    }
    let alive = is_alive(claims, now)?;
    if alive || may_redeem { Ok(alive) } else { Err(expired(claims)) }
}

/// Whatever the mark looks like.
fn is_redeemed(claims: &TxnClaims) -> bool {
    claims.delayed() != Ok(None)
}

/// Whether it has not expired; its time has come.
fn is_alive(claims: &TxnClaims, now: Timestamp) -> Result<bool, SubjectError> {
    let begins = Timestamp::from_epoch(claims.nbf.map_or(claims.iat, |nbf| nbf.max(claims.iat)));
    if begins > now + INSTANCE_SKEW {
        return Err(SubjectFault::NotYetValid.into());
    }
    Ok(now < Timestamp::from_epoch(claims.exp))
}

fn expired(claims: &TxnClaims) -> SubjectError {
    SubjectFault::Expired { expired_at: Timestamp::from_epoch(claims.exp) }.into()
}

/// Verifies `text` as a Txn-Token of `trust_domain` that is valid now, a redeemed one included: as whoever holds the
/// published keys would. `find` looks a `kid` up among our own public keys.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, key, signature, claims, times.
pub fn verify_live(
    text: &str,
    trust_domain: &TrustDomain,
    find: impl FnOnce(&str) -> KnownKey,
    now: Timestamp,
) -> Result<OwnToken, SubjectError> {
    let token = Genuine::verify(text, trust_domain, false, find)?;
    if is_alive(&token.claims, now)? { Ok(token.known(true)) } else { Err(expired(&token.claims)) }
}

/// A Txn-Token that a key of ours signed in its time, unaltered. Of the token's own time nothing is said.
struct Genuine {
    claims: TxnClaims,
    signed_part: [u8; 32],
    kid: String,
    key: SignedBy,
}

impl Genuine {
    fn verify(
        text: &str,
        trust_domain: &TrustDomain,
        from_history: bool,
        find: impl FnOnce(&str) -> KnownKey,
    ) -> Result<Self, SubjectError> {
        let jws = parse_jws(text)?;
        if jws.typ.as_deref() != Some(TYP) {
            return Err(wrong_typ(jws.typ.as_deref(), "txn_token", "`txntoken+jwt`"));
        }
        let kid = jws.kid.as_deref().ok_or(SubjectFault::KeyUnknown)?;
        let key = match find(kid) {
            KnownKey::Signing(key) if key.published || from_history => key,
            KnownKey::Gone if from_history => return Err(SubjectFault::KeyGone.into()),
            KnownKey::Signing(_) | KnownKey::Gone | KnownKey::Unknown => return Err(SubjectFault::KeyUnknown.into()),
        };
        if jws.algorithm != key.algorithm || !jws.verify(&key.public) {
            return Err(SubjectFault::SignatureInvalid.into());
        }
        let claims = TxnClaims::parse(&jws.payload)
            .map_err(|_| SubjectFault::ClaimsInvalid.because("they are not those of a Txn-Token"))?;
        if claims.aud != *trust_domain {
            return Err(SubjectFault::AudienceMismatch.into());
        }
        let token = Self { claims, signed_part: sha256(jws.signed_part.as_bytes()), kid: kid.to_owned(), key };
        token.check_span()?;
        Ok(token)
    }

    /// A token from outside the span of its key, or longer than any of its time, is forged or corrupted (R-DELAY-09).
    fn check_span(&self) -> Result<(), SubjectError> {
        let (iat, exp) = (self.claims.iat, self.claims.exp);
        // A free retry repeats the claims of a redemption while they are valid, and another key may be current by then.
        let last = if is_redeemed(&self.claims) { exp - 1 } else { iat };
        if !self.key.signed_within(Timestamp::from_epoch(iat), Timestamp::from_epoch(last)) {
            return Err(SubjectFault::ClaimsInvalid.because("iat lies outside the time in which its key signed"));
        }
        if Duration::from_secs(exp - iat) > self.key.longest_lifetime {
            return Err(SubjectFault::ClaimsInvalid.because("it lives longer than any token of its time"));
        }
        Ok(())
    }

    fn known(self, alive: bool) -> OwnToken {
        let Self { claims, signed_part, kid, key } = self;
        OwnToken { claims, signed_part, kid, key_state: key.state, alive }
    }
}

#[cfg(test)]
mod tests {
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

    /// A key of ours that signed from ten seconds before `ISSUED` until a minute after, for tokens of a minute.
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
                public: self.0.public().decoding_key().clone(),
                algorithm: jsonwebtoken::Algorithm::ES256,
                published: state != "historical",
                state,
                from: Some(at(0) - Duration::from_secs(10)),
                until: Some(at(60)),
                longest_lifetime: Duration::from_secs(60),
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
            assert_eq!((own.key_state, own.alive), (state, false));
            assert_eq!(own.claims.txn, "t-1");
        }
        assert_eq!(refusal(&token, true, KnownKey::Gone, at(3600)), SubjectFault::KeyGone);
        assert_eq!(refusal(&token, true, KnownKey::Unknown, at(3600)), SubjectFault::KeyUnknown);
    }

    /// R-DELAY-02: whoever may not redeem cannot tell a key of the past from one that was never ours.
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
        assert!(verified(&token, false, ours.known("previous"), at(59)).unwrap().alive);
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
        assert!(verified(&token, true, ours.known("previous"), at(59)).unwrap().alive);
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
            assert!((own.claims.txn.as_str(), own.kid.as_str(), own.alive) == ("t-1", "k", true));
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
        for key in [signed(at(60), None), signed(at(0) - Duration::from_secs(9), Some(at(0) - Duration::from_secs(1)))]
        {
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

    /// the other form of the signature is as good, and the token is the same one.
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
    fn what_is_no_txn_token_of_ours_is_refused_in_order() {
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
    fn claims_are_looked_at_before_times() {
        let ours = Ours::new();
        let late = at(3600);
        let outcome =
            |claims: &Value, may_redeem| refusal(&ours.token(claims), may_redeem, ours.known("current"), late);
        for may_redeem in [true, false] {
            assert_eq!(outcome(&with("aud", "e.example"), may_redeem), SubjectFault::AudienceMismatch);
            assert!(matches!(outcome(&with("sub", 1), may_redeem), SubjectFault::ClaimsInvalid));
            assert!(matches!(outcome(&with("iat", ISSUED - 100), may_redeem), SubjectFault::ClaimsInvalid));
        }
    }

    /// A-098, R-DELAY-14: whoever asks, alive or not, and whatever the mark looks like.
    #[test]
    fn a_redeemed_token_serves_nothing_again() {
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
}
