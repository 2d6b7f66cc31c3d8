//! What an endpoint answered, and whether it may answer so.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use writ_verifier::jwks::KeySet;
use writ_verifier::{TxnClaims, Verifier};

use super::http::Response;
use super::workload::TXN_TOKEN;
use super::writ::Site;
use super::{TRUST_DOMAIN, jose, now, wait_until};

/// An answer of the token or the introspection endpoint.
pub(crate) struct Answer {
    site: Arc<Site>,
    pub(crate) response: Response,
}

/// A Txn-Token with all that came with it; its signature is verified.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The token as sent.
    pub(crate) token: String,
    pub(crate) header: Value,
    pub(crate) claims: Value,
    /// The same, read as a verifier reads them.
    pub(crate) typed: TxnClaims,
    /// The members of the answer.
    pub(crate) answer: Value,
    pub(crate) request_id: String,
}

/// A refusal with all that came with it.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// The members of the answer.
    pub(crate) answer: Value,
    pub(crate) request_id: String,
}

impl Answer {
    pub(crate) fn new(site: &Arc<Site>, response: Response) -> Self {
        Self { site: Arc::clone(site), response }
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status
    }

    /// `reason` of a refusal, `-` of a success.
    pub(crate) fn reason(&self) -> String {
        self.response.json()["reason"].as_str().unwrap_or("-").to_owned()
    }

    /// A success that is right in every respect that holds for all of them (CONTRACT 3.3).
    #[track_caller]
    pub(crate) fn issued(&self) -> Issued {
        assert_eq!(self.response.status, 200, "refused: {}", self.response.text());
        let request_id = self.check_headers();
        let answer = self.response.json();
        let token = answer["access_token"].as_str().expect("access_token").to_owned();
        let (header, claims) = jose::decode(&token);
        let typed = self.verified(&token, claims["iat"].as_u64().expect("iat"));
        let issued = Issued { token, header, claims, typed, answer, request_id };
        issued.check();
        issued
    }

    /// The claims of a token that verifies, as the verifier crate reads them.
    #[track_caller]
    pub(crate) fn verified_claims(&self) -> TxnClaims {
        assert_eq!(self.response.status, 200, "refused: {}", self.response.text());
        let token = self.response.json()["access_token"].as_str().expect("access_token").to_owned();
        self.verified(&token, now())
    }

    /// The answer about a token that is valid: its claims, and what says so taken away (CONTRACT 4).
    #[track_caller]
    pub(crate) fn active(&self) -> Value {
        assert_eq!(self.response.status, 200, "refused: {}", self.response.text());
        self.check_headers();
        let mut answer = self.response.json();
        let members = answer.as_object_mut().expect("an object");
        assert_eq!(members.remove("active"), Some(json!(true)), "{}", self.response.text());
        assert_eq!(members.remove("token_type"), Some(json!("N_A")));
        answer
    }

    /// The answer about any other: exactly this, whatever the reason (R-INTRO-06).
    #[track_caller]
    pub(crate) fn inactive(&self) {
        assert_eq!((self.response.status, self.response.text().as_str()), (200, r#"{"active":false}"#));
        self.check_headers();
    }

    /// A refusal that is right in every respect that holds for all of them (CONTRACT 3.6).
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, error: &str, reason: &str) -> Refused {
        let request_id = self.check_headers();
        let answer = self.response.json();
        let heard = (self.response.status, answer["error"].as_str(), answer["reason"].as_str());
        assert_eq!(heard, (status, Some(error), Some(reason)), "{answer}");
        let description = answer["error_description"].as_str().expect("error_description");
        let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        assert!(!description.is_empty() && description.bytes().all(is_plain), "R-RESP-05: {description:?}");
        if status == 429 || status == 503 {
            let seconds = self.response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
            assert!(seconds.is_some_and(|seconds| seconds >= 1), "Retry-After: {:?}", self.response.headers);
        }
        assert_eq!(self.response.header("www-authenticate"), None, "mTLS has no challenge");
        Refused { answer, request_id }
    }

    /// `400 invalid_request` with that reason.
    #[track_caller]
    pub(crate) fn invalid_request(&self, reason: &str) -> Refused {
        self.refused(400, "invalid_request", reason)
    }

    /// `400 invalid_scope` with that reason.
    #[track_caller]
    pub(crate) fn invalid_scope(&self, reason: &str) -> Refused {
        self.refused(400, "invalid_scope", reason)
    }

    /// `400 unauthorized_client` with that reason.
    #[track_caller]
    pub(crate) fn unauthorized_client(&self, reason: &str) -> Refused {
        self.refused(400, "unauthorized_client", reason)
    }

    /// `401 invalid_client` with that reason.
    #[track_caller]
    pub(crate) fn invalid_client(&self, reason: &str) -> Refused {
        self.refused(401, "invalid_client", reason)
    }

    /// `X-Request-Id`.
    pub(crate) fn request_id(&self) -> String {
        self.response.header("x-request-id").expect("X-Request-Id").to_owned()
    }

    #[track_caller]
    fn check_headers(&self) -> String {
        let media_type = self.response.header("content-type").unwrap_or_default();
        assert!(media_type.split(';').next() == Some("application/json"), "{media_type:?}: {}", self.response.text());
        assert_eq!(self.response.header("cache-control"), Some("no-store"));
        assert_eq!(self.response.header("pragma"), Some("no-cache"));
        self.request_id()
    }

    /// The claims, if a downstream service takes the token at the moment it was issued. A token may live so briefly
    /// that it has expired by now.
    #[track_caller]
    fn verified(&self, token: &str, issued_at: u64) -> TxnClaims {
        let document = json!({"keys": self.site.jwks()}).to_string();
        let keys = KeySet::parse(document.as_bytes()).expect("a key set");
        let verifier = Verifier::builder(TRUST_DOMAIN).jwks_json(document).build().expect("a verifier");
        let then = UNIX_EPOCH + Duration::from_secs(issued_at);
        verifier.verify_at(token, &keys, then).expect("a token that verifies").claims().clone()
    }
}

impl Issued {
    /// Returns as soon as the token has expired.
    pub(crate) fn wait_until_expired(&self) {
        wait_until(self.exp());
    }

    /// `iat`.
    pub(crate) fn iat(&self) -> u64 {
        self.typed.iat
    }

    /// `exp`.
    pub(crate) fn exp(&self) -> u64 {
        self.typed.exp
    }

    /// `kid` of the header.
    pub(crate) fn kid(&self) -> &str {
        self.header["kid"].as_str().expect("kid")
    }

    /// `txn`.
    pub(crate) fn txn(&self) -> &str {
        &self.typed.txn
    }

    /// `rctx.delayed.use`, where the token was redeemed.
    pub(crate) fn use_number(&self) -> Option<u64> {
        self.claims["rctx"]["delayed"]["use"].as_u64()
    }

    #[track_caller]
    fn check(&self) {
        let answer = self.answer.as_object().expect("an object");
        assert_eq!(answer["issued_token_type"], TXN_TOKEN);
        assert_eq!(answer["token_type"], "N_A");
        assert_eq!(answer["scope"], self.claims["scope"]);
        assert_eq!(answer["expires_at"], self.claims["exp"]);
        let remains = answer["expires_in"].as_u64().expect("whole seconds");
        assert!(remains <= self.exp() - self.iat() && self.exp() <= now() + remains, "expires_in {remains}");
        assert_only(
            answer,
            &[
                "access_token",
                "issued_token_type",
                "token_type",
                "scope",
                "expires_at",
                "expires_in",
                "redeemable_until",
            ],
        );

        let header = self.header.as_object().expect("an object");
        assert_eq!(header["typ"], "txntoken+jwt");
        assert_only(header, &["typ", "alg", "kid"]);

        let claims = self.claims.as_object().expect("an object");
        assert_eq!(claims["aud"], TRUST_DOMAIN);
        assert!(self.iat() <= now() && self.exp() > self.iat());
        assert!(is_uuid_v7(self.txn()), "txn {}", self.txn());
        assert_only(
            claims,
            &["iss", "iat", "exp", "aud", "txn", "sub", "scope", "req_wl", "req_wl_chain", "tctx", "rctx"],
        );
        for name in ["tctx", "rctx", "req_wl_chain"] {
            assert!(
                claims.get(name).is_none_or(|value| *value != Value::Null && value.to_string().len() > 2),
                "{name}"
            );
        }
    }
}

#[track_caller]
fn assert_only(members: &Map<String, Value>, allowed: &[&str]) {
    for name in members.keys() {
        assert!(allowed.contains(&name.as_str()), "unexpected member {name}");
    }
}

fn is_uuid_v7(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes[14] == b'7'
        && [8, 13, 18, 23].iter().all(|&at| bytes[at] == b'-')
        && bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}
