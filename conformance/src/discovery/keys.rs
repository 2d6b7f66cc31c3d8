//! The published keys (RFC 7517).

use std::collections::HashSet;

use serde_json::Value;
use url::Url;
use writ_verifier::jwks::KeySet;

use crate::report::{Check, Report, Rule, Verdict};
use crate::response::Response;
use crate::target::{Caller, Target};

/// The private members of RFC 7518.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub(crate) struct PublishedKeys {
    /// Every key, usable or not.
    keys: Vec<Value>,
    /// Those that can verify a signature.
    usable: Option<KeySet>,
    /// In lower case; empty if the header is absent.
    cache_control: String,
}

const CHECKS: &[Check<PublishedKeys>] = &[
    Check {
        name: "jwks-public",
        requirement: "R-KEYS-06",
        action: "looked for private and symmetric keys",
        expected: "public keys only",
        judge: |published| {
            let is_private =
                |key: &&Value| key["kty"] == "oct" || PRIVATE_MEMBERS.iter().any(|name| key.get(name).is_some());
            let private = published.keys.iter().filter(is_private).count();
            Verdict::required(private == 0, format!("{private} of {} not public", published.keys.len()))
        },
    },
    Check {
        name: "jwks-usable",
        requirement: "R-KEYS-01",
        action: "read the keys as a verifier does",
        expected: "at least one for ES256, ES384, EdDSA, RS* or PS*, and no kid for two keys",
        judge: |published| {
            let is_usable = published.usable.is_some();
            Verdict::required(is_usable, if is_usable { "usable" } else { "not a usable key set" })
        },
    },
    Check {
        name: "jwks-kid",
        requirement: "R-KEYS-05",
        action: "checked the kid of each key",
        expected: "each has one, and no two are the same",
        judge: PublishedKeys::judge_kids,
    },
    Check {
        name: "jwks-alg-use",
        requirement: "R-KEYS-06",
        action: "checked alg and use of each key",
        expected: "an alg, and use = sig",
        judge: |published| {
            let has_both = |key: &&Value| key["alg"].is_string() && key["use"] == "sig";
            let (count, all) = (published.keys.iter().filter(has_both).count(), published.keys.len());
            Verdict::recommended(count == all, format!("{count} of {all} have both"))
        },
    },
    Check {
        name: "jwks-cache",
        requirement: "R-KEYS-06",
        action: "looked for max-age in Cache-Control",
        expected: "max-age, so that verifiers know how long to keep the keys",
        judge: |published| {
            let header = published.cache_control.as_str();
            let actual = if header.is_empty() { "no Cache-Control" } else { header };
            Verdict::recommended(header.contains("max-age="), actual)
        },
    },
];

/// Fetches the keys and adds their checks; `None` if there are none that can be read.
pub(crate) async fn check(target: &Target, url: Option<&Url>, report: &mut Report) -> Option<PublishedKeys> {
    let rule = Rule::new(
        "jwks-served",
        "R-KEYS-06",
        "fetched the published keys without credentials",
        "200, application/jwk-set+json or application/json, a JWK set",
    );
    let (verdict, keys) = match url {
        None => (Verdict::not_tried("no URL: give --jwks"), None),
        Some(url) => fetch(target, url).await,
    };
    report.add(rule, verdict);
    report.judge(keys.as_ref().ok_or(&Verdict::not_tried("no keys")), CHECKS);
    keys
}

/// First without credentials, then as the client.
async fn fetch(target: &Target, url: &Url) -> (Verdict, Option<PublishedKeys>) {
    let anonymous = target.get(Caller::Anonymous, url).await.ok().filter(|response| response.status == 200);
    let is_public = anonymous.is_some();
    let response = match anonymous {
        Some(response) => Ok(response),
        None => target.get(Caller::Client, url).await,
    };
    match response {
        Err(error) => (Verdict::not_tried(error.to_string()), None),
        Ok(response) => {
            let keys = PublishedKeys::from_response(&response);
            (judge_response(&response, is_public, keys.is_some()), keys)
        }
    }
}

fn judge_response(response: &Response, is_public: bool, is_jwk_set: bool) -> Verdict {
    let media_type = response.media_type();
    let restriction = if is_public { "" } else { ", only to the client" };
    let actual = format!("{}, {media_type}{restriction}", response.status);
    if !is_jwk_set || response.status != 200 {
        return Verdict::failed(actual);
    }
    let is_known_type = ["application/jwk-set+json", "application/json"].contains(&media_type.as_str());
    Verdict::recommended(is_known_type && is_public, actual)
}

impl PublishedKeys {
    fn from_response(response: &Response) -> Option<Self> {
        let members = response.members()?;
        let keys = members.get("keys")?.as_array()?.clone();
        let usable = KeySet::parse(Value::from(members).to_string().as_bytes()).ok();
        Some(Self { keys, usable, cache_control: response.header("cache-control").to_ascii_lowercase() })
    }

    pub(crate) fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key["kid"] == kid)
    }

    /// The keys that can verify a signature, if the set is usable at all.
    pub(crate) fn usable(&self) -> Option<&KeySet> {
        self.usable.as_ref()
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({ "keys": self.keys }).to_string()
    }

    fn judge_kids(&self) -> Verdict {
        let kids: Vec<&str> = self.keys.iter().filter_map(|key| key["kid"].as_str()).collect();
        let different = kids.iter().collect::<HashSet<_>>().len();
        let actual = format!("{} keys, {} with a kid, {different} different", self.keys.len(), kids.len());
        if different < kids.len() {
            return Verdict::failed(actual);
        }
        Verdict::recommended(kids.len() == self.keys.len(), actual)
    }
}
