//! The token response (RFC 8693 section 2.2.1).

use serde_json::{Map, Value};
use writ_verifier::Scope;

use crate::report::{Check, Verdict};
use crate::request::TXN_TOKEN;
use crate::response::Response;
use crate::token::{IssuedToken, is_within};

pub(super) struct TokenResponse {
    response: Response,
    members: Map<String, Value>,
    requested_scope: Scope,
    /// `None` if `access_token` cannot be decoded.
    pub(super) token: Option<IssuedToken>,
}

pub(super) const CHECKS: &[Check<TokenResponse>] = &[
    Check {
        name: "issue-media-type",
        requirement: "R-RESP-01",
        action: "checked Content-Type",
        expected: "application/json",
        judge: |answer| {
            let media_type = answer.response.media_type();
            Verdict::required(media_type == "application/json", media_type)
        },
    },
    Check {
        name: "issue-no-store",
        requirement: "R-RESP-04",
        action: "checked Cache-Control",
        expected: "no-store",
        judge: |answer| Verdict::required(answer.response.is_no_store(), answer.shown_header("cache-control")),
    },
    Check {
        name: "issue-pragma",
        requirement: "R-RESP-04",
        action: "checked Pragma",
        expected: "no-cache, for old intermediaries",
        judge: |answer| {
            let is_no_cache = answer.response.header("pragma").to_ascii_lowercase().contains("no-cache");
            Verdict::recommended(is_no_cache, answer.shown_header("pragma"))
        },
    },
    Check {
        name: "issue-issued-token-type",
        requirement: "R-RESP-01",
        action: "checked issued_token_type",
        expected: TXN_TOKEN,
        judge: |answer| answer.judge_text("issued_token_type", TXN_TOKEN),
    },
    Check {
        name: "issue-token-type",
        requirement: "R-RESP-01",
        action: "checked token_type",
        expected: "N_A",
        judge: |answer| answer.judge_text("token_type", "N_A"),
    },
    Check {
        name: "issue-no-refresh-token",
        requirement: "R-RESP-02",
        action: "looked for a refresh token",
        expected: "none",
        judge: |answer| match answer.members.get("refresh_token") {
            None => Verdict::passed("none"),
            Some(Value::Null) => Verdict::noted("refresh_token is null"),
            Some(_) => Verdict::failed("a refresh token"),
        },
    },
    Check {
        name: "issue-expires-in",
        requirement: "R-RESP-03",
        action: "compared expires_in with the token",
        expected: "whole seconds, at most the lifetime of the token",
        judge: TokenResponse::judge_expires_in,
    },
    Check {
        name: "issue-scope",
        requirement: "R-RESP-03",
        action: "compared scope of the answer with scope of the token",
        expected: "the same purposes; scope may be absent if they are the requested ones",
        judge: TokenResponse::judge_scope,
    },
    Check {
        name: "issue-jwt",
        requirement: "R-CLAIM-01",
        action: "decoded access_token",
        expected: "a JWT in compact form: three parts of base64url, the first two JSON objects without repeated members",
        judge: |answer| {
            let is_jwt = answer.token.is_some();
            Verdict::required(is_jwt, if is_jwt { "a JWT" } else { "not such a JWT" })
        },
    },
];

impl TokenResponse {
    /// `None` if the body is not a JSON object.
    pub(super) fn parse(response: Response, requested_scope: &Scope) -> Option<Self> {
        let members = response.members()?;
        let token = IssuedToken::from_response(&response);
        Some(Self { response, members, requested_scope: requested_scope.clone(), token })
    }

    pub(super) fn access_token(&self) -> Option<&str> {
        self.members.get("access_token")?.as_str()
    }

    fn judge_text(&self, name: &str, expected: &str) -> Verdict {
        let value = self.members.get(name);
        let actual = value.map_or_else(|| "absent".to_owned(), ToString::to_string);
        Verdict::required(value.and_then(Value::as_str) == Some(expected), actual)
    }

    fn judge_expires_in(&self) -> Verdict {
        let lifetime = self.token.as_ref().and_then(IssuedToken::lifetime);
        match (self.members.get("expires_in"), lifetime) {
            (None, _) => Verdict::noted("absent"),
            (Some(value), Some(lifetime)) => {
                // One second more: both are rounded.
                let fits = value.as_u64().is_some_and(|seconds| seconds > 0 && seconds <= lifetime + 1);
                Verdict::required(fits, format!("{value}, exp - iat = {lifetime}"))
            }
            (Some(value), None) if value.as_u64().is_none() => Verdict::failed("not a whole number"),
            (Some(_), None) => Verdict::not_tried("iat and exp of the token cannot be read"),
        }
    }

    fn judge_scope(&self) -> Verdict {
        let Some(granted) = self.token.as_ref().and_then(IssuedToken::scope) else {
            return Verdict::not_tried("scope of the token cannot be read");
        };
        let is_granted = |scope: &Scope| is_within(scope, &granted) && is_within(&granted, scope);
        match self.members.get("scope") {
            None => Verdict::required(is_granted(&self.requested_scope), "absent"),
            Some(value) => {
                let scope = value.as_str().and_then(|text| text.parse::<Scope>().ok());
                Verdict::required(scope.as_ref().is_some_and(is_granted), value.to_string())
            }
        }
    }

    fn shown_header(&self, name: &str) -> String {
        let value = self.response.header(name);
        if value.is_empty() { "no such header".to_owned() } else { value }
    }
}
