//! The Txn-Token itself: header, claims and signature.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use writ_verifier::jws::Jws;
use writ_verifier::{TOKEN_MAX, Verifier, claims};

use crate::discovery::keys::PublishedKeys;
use crate::report::{Check, Outcome, Verdict};
use crate::request::TokenRequest;
use crate::token::{IssuedToken, is_within};

/// How far the clocks may differ, in seconds.
const CLOCK_SKEW: u64 = 30;
/// Seconds. The draft wants "minutes or less" (sections 6 and 13.1): up to 5 minutes is short, more than 15 is not.
const SHORT_LIFETIME: u64 = 300;
const LONG_LIFETIME: u64 = 900;
/// Characters. A shorter part of a subject token may occur in the claims by coincidence.
const CREDENTIAL_PART_MIN: usize = 20;
/// Characters of a `txn` that cannot be guessed.
const TXN_MIN: usize = 16;

/// A token, and what it is compared with.
pub(super) struct TokenUnderTest {
    pub(super) first: IssuedToken,
    /// The token of a second request like the first, or why there is none.
    pub(super) second: Result<IssuedToken, String>,
    pub(super) request: TokenRequest,
    pub(super) keys: Option<PublishedKeys>,
    /// `issuer` of the metadata, if it is the one that the metadata was fetched for.
    pub(super) issuer: Option<String>,
}

pub(super) const CHECKS: &[Check<TokenUnderTest>] = &[
    Check {
        name: "token-typ",
        requirement: "R-CLAIM-01",
        action: "checked typ in the header",
        expected: claims::TYP,
        judge: |token| {
            let value = token.first.header("typ");
            let typ = value.as_str().unwrap_or_default().to_ascii_lowercase();
            Verdict::required(typ.strip_prefix("application/").unwrap_or(&typ) == claims::TYP, value.to_string())
        },
    },
    Check {
        name: "token-algorithm",
        requirement: "R-CLAIM-01",
        action: "checked alg in the header",
        expected: "an asymmetric algorithm",
        judge: |token| Verdict::required(token.first.is_asymmetric(), token.first.header("alg").to_string()),
    },
    Check {
        name: "token-header",
        requirement: "R-CLAIM-01",
        action: "looked for jwk, jku, x5u, x5c, crit, zip and b64 in the header",
        expected: "none: verifiers do not use them",
        judge: |token| {
            let mut found = vec!["jwk", "jku", "x5u", "x5c", "crit", "zip", "b64"];
            found.retain(|name| token.first.has_header(name));
            Verdict::recommended(found.is_empty(), if found.is_empty() { "none".to_owned() } else { found.join(", ") })
        },
    },
    Check {
        name: "token-key",
        requirement: "R-CLAIM-01",
        action: "looked for the kid of the header among the published keys",
        expected: "a kid that is published",
        judge: TokenUnderTest::judge_kid,
    },
    Check {
        name: "token-signature",
        requirement: "R-VERIFY-02",
        action: "verified the signature with the published keys",
        expected: "a signature of the key with that kid, or of any published key if there is no kid",
        judge: TokenUnderTest::judge_signature,
    },
    Check {
        name: "token-times",
        requirement: "R-CLAIM-02",
        action: "checked iat and exp",
        expected: "whole seconds, iat within 30 s of now, exp after iat",
        judge: TokenUnderTest::judge_times,
    },
    Check {
        name: "token-lifetime",
        requirement: "R-POL-08",
        action: "checked exp - iat",
        expected: "minutes or less: up to 300 s is short, more than 900 s is not",
        judge: |token| match token.first.lifetime() {
            _ if token.judge_times().outcome == Outcome::Failed => Verdict::not_tried("iat and exp cannot be used"),
            None => Verdict::not_tried("iat or exp is not in whole seconds"),
            Some(lifetime) if lifetime > LONG_LIFETIME => Verdict::failed(format!("{lifetime} s")),
            Some(lifetime) => Verdict::recommended(lifetime <= SHORT_LIFETIME, format!("{lifetime} s")),
        },
    },
    Check {
        name: "token-audience",
        requirement: "R-CLAIM-02",
        action: "compared aud with the requested audience",
        expected: "the same, as a string and not as a list",
        judge: |token| {
            let aud = token.first.claim("aud");
            Verdict::required(aud.as_str() == Some(&token.request.audience), aud.to_string())
        },
    },
    Check {
        name: "token-issuer",
        requirement: "R-CLAIM-08",
        action: "compared iss with issuer in the metadata",
        expected: "the same, if the token has an iss",
        judge: |token| match (token.first.claims().get("iss"), &token.issuer) {
            (None, _) => Verdict::not_applicable("no iss, which is optional"),
            (Some(_), None) => Verdict::not_tried("no metadata with a valid issuer"),
            (Some(iss), Some(issuer)) => Verdict::required(iss.as_str() == Some(issuer), iss.to_string()),
        },
    },
    Check {
        name: "token-txn",
        requirement: "R-CLAIM-03",
        action: "checked txn",
        expected: "a string that is not empty",
        judge: |token| judge_string(&token.first, "txn"),
    },
    Check {
        name: "token-txn-unique",
        requirement: "R-CLAIM-03",
        action: "repeated the request and compared txn",
        expected: "a different one, of at least 16 characters",
        judge: TokenUnderTest::judge_unique_txn,
    },
    Check {
        name: "token-subject",
        requirement: "R-CLAIM-04",
        action: "checked sub",
        expected: "a string that is not empty",
        judge: |token| judge_string(&token.first, "sub"),
    },
    Check {
        name: "token-requester",
        requirement: "R-CLAIM-06",
        action: "checked req_wl",
        expected: "a string that is not empty",
        judge: |token| judge_string(&token.first, "req_wl"),
    },
    Check {
        name: "token-scope",
        requirement: "R-CLAIM-05",
        action: "compared scope of the token with the requested scope",
        expected: "purposes separated by single spaces, none that was not requested",
        judge: |token| {
            let fits = token.first.scope().is_some_and(|granted| is_within(&granted, &token.request.scope));
            Verdict::required(fits, token.first.claim("scope").to_string())
        },
    },
    Check {
        name: "token-contexts",
        requirement: "R-CLAIM-07",
        action: "checked tctx and rctx",
        expected: "objects, if the token has them",
        judge: |token| {
            let is_wrong = |name: &&str| token.first.claims().get(name).is_some_and(|value| !value.is_object());
            match ["tctx", "rctx"].into_iter().find(is_wrong) {
                None => Verdict::passed("objects or absent"),
                Some(name) => Verdict::failed(format!("{name} is not an object")),
            }
        },
    },
    Check {
        name: "token-no-credential",
        requirement: "R-CLAIM-09",
        action: "looked for the subject token in the claims",
        expected: "no part of it",
        judge: TokenUnderTest::judge_credential,
    },
];

impl TokenUnderTest {
    /// The token as a whole, as the verifier crate reads it: this finds what no single check looks for, such as `nbf`.
    pub(super) fn verify(&self) -> Verdict {
        let Some(keys) = &self.keys else { return Verdict::not_tried("no keys") };
        let Some(set) = keys.usable() else { return Verdict::not_tried("no usable keys") };
        let Ok(verifier) = Verifier::builder(&self.request.audience).jwks_json(keys.to_json()).build() else {
            return Verdict::not_tried("the verifier cannot be built for this audience");
        };
        // Verified as of iat: another check has compared that with the clock.
        let then = UNIX_EPOCH + Duration::from_secs(self.first.claim("iat").as_u64().unwrap_or_default());
        match verifier.verify_at(&self.first.encoded, set, then) {
            Ok(_) => Verdict::passed("accepted"),
            Err(error) => Verdict::failed(error.reason()),
        }
    }

    fn judge_kid(&self) -> Verdict {
        match (self.first.has_header("kid"), &self.keys) {
            (false, _) => Verdict::noted("no kid, which the draft recommends"),
            (true, None) => Verdict::not_tried("no keys"),
            (true, Some(_)) if !self.first.is_asymmetric() => Verdict::not_tried("not an asymmetric algorithm"),
            (true, Some(keys)) => {
                let is_published = self.first.header("kid").as_str().is_some_and(|kid| keys.has_kid(kid));
                Verdict::required(is_published, if is_published { "published" } else { "not published" })
            }
        }
    }

    fn judge_signature(&self) -> Verdict {
        let Some(keys) = self.keys.as_ref().and_then(PublishedKeys::usable) else {
            return Verdict::not_tried("no usable keys");
        };
        if !self.first.is_asymmetric() {
            return Verdict::not_tried("not an asymmetric algorithm");
        }
        let Ok(jws) = Jws::parse(&self.first.encoded, TOKEN_MAX) else {
            return Verdict::not_tried("the verifier does not support the algorithm or the header");
        };
        let named: Vec<_> = keys.keys().filter(|key| jws.kid.is_none() || key.kid() == jws.kid.as_deref()).collect();
        if named.is_empty() {
            return Verdict::not_tried("the key is not published");
        }
        let is_valid = named.iter().any(|key| key.verify_jws(&jws));
        Verdict::required(is_valid, if is_valid { "valid" } else { "not a signature of that key" })
    }

    fn judge_times(&self) -> Verdict {
        let (iat, exp, now) = (self.first.claim("iat"), self.first.claim("exp"), self.first.received_at);
        let actual = format!("iat {iat}, exp {exp}, now {now}");
        let (Some(iat_seconds), Some(exp_seconds)) = (iat.as_f64(), exp.as_f64()) else {
            return Verdict::failed(actual);
        };
        let is_now =
            Duration::try_from_secs_f64(iat_seconds).is_ok_and(|iat| iat.as_secs().abs_diff(now) <= CLOCK_SKEW);
        if !is_now || exp_seconds <= iat_seconds {
            return Verdict::failed(actual);
        }
        Verdict::recommended(iat.is_u64() && exp.is_u64(), actual)
    }

    fn judge_unique_txn(&self) -> Verdict {
        let txn = |token: &IssuedToken| token.claim("txn").as_str().filter(|txn| !txn.is_empty()).map(str::to_owned);
        match self.second.as_ref().map(txn) {
            Err(reason) => Verdict::not_tried(reason.clone()),
            Ok(None) => Verdict::not_tried("txn cannot be read"),
            Ok(second) if txn(&self.first) == second => Verdict::failed("the same one"),
            Ok(Some(second)) => {
                let length = second.len();
                Verdict::recommended(length >= TXN_MIN, format!("a different one of {length} characters"))
            }
        }
    }

    fn judge_credential(&self) -> Verdict {
        let Some(subject) = &self.request.subject_token else { return Verdict::not_applicable("no subject token") };
        if subject.is_unsigned_json() || subject.token.len() < CREDENTIAL_PART_MIN {
            return Verdict::not_applicable("the subject token is not a credential");
        }
        let claims = self.first.claims().to_string();
        let mut parts = subject.token.split('.').filter(|part| part.len() >= CREDENTIAL_PART_MIN);
        let is_copied = claims.contains(subject.token.as_str()) || parts.any(|part| claims.contains(part));
        Verdict::required(!is_copied, if is_copied { "a part of it" } else { "none" })
    }
}

/// The claim itself is not shown: it may be about a person.
fn judge_string(token: &IssuedToken, claim: &str) -> Verdict {
    match token.claims().get(claim) {
        None => Verdict::failed("absent"),
        Some(Value::String(text)) => Verdict::required(!text.is_empty(), format!("a string of {} bytes", text.len())),
        Some(_) => Verdict::failed("not a string"),
    }
}
