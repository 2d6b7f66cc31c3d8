//! Metadata (RFC 8414) and published keys (RFC 7517).

use std::collections::HashSet;

use serde_json::{Map, Value};
use url::Url;
use writ_verifier::jwks::KeySet;

use super::report::{Check, Report, Rule, Verdict};
use super::target::{Access, Caller, Reply};
use super::{TOKEN_EXCHANGE, Target};
use crate::cli::token::ServiceError;

/// The members of RFC 7518 that are private.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What the service says of itself.
pub(super) struct Metadata {
    /// The issuer that they were fetched for.
    asked: String,
    members: Map<String, Value>,
}

/// The published keys.
#[derive(Clone)]
pub(super) struct Keys {
    document: Vec<Value>,
    /// Those that can verify a signature.
    usable: Option<KeySet>,
    /// What the answer said for caches.
    cache_control: String,
}

const METADATA: &[Check<Metadata>] = &[
    Check {
        name: "metadata-issuer",
        requirement: "R-META-02",
        did: "compared the issuer with the URL that the metadata were fetched for",
        expected: "the very same https URL, without query and fragment",
        judge: |metadata| Verdict::of(metadata.issuer().is_some(), metadata.shown("issuer")),
    },
    Check {
        name: "metadata-token-endpoint",
        requirement: "R-META-03",
        did: "looked for token_endpoint",
        expected: "an https URL",
        judge: |metadata| Verdict::of(metadata.url("token_endpoint").is_some(), metadata.shown("token_endpoint")),
    },
    Check {
        name: "metadata-jwks-uri",
        requirement: "R-META-03",
        did: "looked for jwks_uri",
        expected: "an https URL",
        judge: |metadata| match metadata.members.get("jwks_uri") {
            None => Verdict::noted("absent: services must be told in another way where the keys are"),
            Some(_) => Verdict::of(metadata.url("jwks_uri").is_some(), metadata.shown("jwks_uri")),
        },
    },
    Check {
        name: "metadata-grant-types",
        requirement: "R-META-03",
        did: "looked for token exchange in grant_types_supported",
        expected: "the grant is listed; without the member only authorization_code and implicit would be offered",
        judge: |metadata| {
            let listed = metadata.list("grant_types_supported").is_some_and(|list| list.contains(&TOKEN_EXCHANGE));
            Verdict::of(listed, if listed { "listed" } else { "not listed" })
        },
    },
    Check {
        name: "metadata-auth-methods",
        requirement: "R-META-03",
        did: "looked for token_endpoint_auth_methods_supported",
        expected: "an explicit list without none; without the member only client_secret_basic would be offered",
        judge: |metadata| match metadata.list("token_endpoint_auth_methods_supported") {
            Some(list) => Verdict::advice(!list.contains(&"none"), list.join(" ")),
            None => Verdict::noted("no list of texts"),
        },
    },
    Check {
        name: "metadata-assertion-algorithms",
        requirement: "R-META-03",
        did: "looked for none in token_endpoint_auth_signing_alg_values_supported",
        expected: "a list without it, where clients may authenticate by a JWT",
        judge: |metadata| {
            let methods = metadata.list("token_endpoint_auth_methods_supported").unwrap_or_default();
            let algorithms = metadata.list("token_endpoint_auth_signing_alg_values_supported");
            match algorithms {
                Some(list) => Verdict::of(!list.contains(&"none"), list.join(" ")),
                None if methods.contains(&"private_key_jwt") => Verdict::failed("no list of texts"),
                None => Verdict::not_applicable("no authentication by a JWT"),
            }
        },
    },
    Check {
        name: "metadata-response-types",
        requirement: "R-META-04",
        did: "looked for response_types_supported",
        expected: "a list, which may be empty",
        judge: |metadata| match metadata.members.get("response_types_supported") {
            None => Verdict::noted("absent: strict readers need the member, RFC 8414 section 2"),
            Some(_) => Verdict::of(
                metadata.list("response_types_supported").is_some(),
                metadata.shown("response_types_supported"),
            ),
        },
    },
    Check {
        name: "metadata-nothing-else",
        requirement: "R-META-03",
        did: "looked for authorization_endpoint and registration_endpoint",
        expected: "neither: a Transaction Token Service has none",
        judge: |metadata| {
            let found = ["authorization_endpoint", "registration_endpoint"]
                .into_iter()
                .filter(|name| metadata.members.contains_key(*name))
                .collect::<Vec<_>>();
            let came = if found.is_empty() { "neither".to_owned() } else { found.join(" and ") };
            Verdict::advice(found.is_empty(), came)
        },
    },
    Check {
        name: "metadata-mtls-aliases",
        requirement: "R-META-05",
        did: "looked at mtls_endpoint_aliases",
        expected: "an object whose token_endpoint is an https URL",
        judge: |metadata| match metadata.members.get("mtls_endpoint_aliases") {
            None => Verdict::not_applicable("absent"),
            Some(aliases) => Verdict::of(
                aliases.is_object() && aliases.get("token_endpoint").is_none_or(|alias| https(alias).is_some()),
                shown(aliases),
            ),
        },
    },
];

const KEYS: &[Check<Keys>] = &[
    Check {
        name: "jwks-public",
        requirement: "R-KEYS-06",
        did: "looked for private and symmetric keys",
        expected: "public keys only",
        judge: |keys| {
            let is_private = |key: &Value| key["kty"] == "oct" || PRIVATE.iter().any(|name| key.get(name).is_some());
            let private = keys.document.iter().filter(|key| is_private(key)).count();
            Verdict::of(private == 0, format!("{private} of {} not public", keys.document.len()))
        },
    },
    Check {
        name: "jwks-usable",
        requirement: "R-KEYS-01",
        did: "read the keys as a service that verifies does",
        expected: "at least one for ES256, ES384, EdDSA, RS* or PS*, and no kid for two keys",
        judge: |keys| {
            Verdict::of(keys.usable.is_some(), if keys.usable.is_some() { "usable" } else { "no usable set of keys" })
        },
    },
    Check {
        name: "jwks-kid",
        requirement: "R-KEYS-05",
        did: "looked at the kid of each key",
        expected: "one each, and no two alike",
        judge: |keys| {
            let kids: Vec<&str> = keys.document.iter().filter_map(|key| key["kid"].as_str()).collect();
            let distinct = kids.iter().collect::<HashSet<_>>().len();
            let came = format!("{} keys, {} with a kid, {distinct} different", keys.document.len(), kids.len());
            if distinct < kids.len() {
                return Verdict::failed(came);
            }
            Verdict::advice(kids.len() == keys.document.len(), came)
        },
    },
    Check {
        name: "jwks-alg-use",
        requirement: "R-KEYS-06",
        did: "looked at alg and use of each key",
        expected: "an alg, and use = sig",
        judge: |keys| {
            let is_told = |key: &&Value| key["alg"].is_string() && key["use"] == "sig";
            let told = keys.document.iter().filter(is_told).count();
            Verdict::advice(told == keys.document.len(), format!("{told} of {} tell both", keys.document.len()))
        },
    },
    Check {
        name: "jwks-cache",
        requirement: "R-KEYS-06",
        did: "looked for a max-age of the keys",
        expected: "Cache-Control with max-age, so that verifiers know how long they may keep them",
        judge: |keys| {
            let came = if keys.cache_control.is_empty() { "no Cache-Control" } else { keys.cache_control.as_str() };
            Verdict::advice(keys.cache_control.contains("max-age="), came)
        },
    },
];

/// Fetches and judges the metadata; `None` if there are none that can be read.
pub(super) async fn metadata(
    access: &Access,
    target: &Target,
    report: &mut Report,
) -> Result<Option<Metadata>, ServiceError> {
    let reply = access.get(Caller::Client, &well_known(&target.url)).await;
    let rule = Rule::new(
        "metadata-served",
        "R-META-01",
        "fetched the metadata of RFC 8414",
        "200, application/json, one object; a service may do without",
    );
    let (verdict, metadata) = match &reply {
        Err(error) => (Verdict::not_tried(error.to_string()), Err(Verdict::not_tried("no metadata"))),
        Ok(reply) if reply.status != 200 => {
            (Verdict::noted(reply.status.to_string()), Err(Verdict::not_applicable("no metadata")))
        }
        Ok(reply) => {
            let members = reply.members();
            let is_right = members.is_some() && reply.media_type() == "application/json";
            let what = if members.is_some() { "an object" } else { "no object" };
            let read = members.map(|members| Metadata { asked: target.text.clone(), members });
            let unread = || Verdict::not_tried("the metadata cannot be read");
            (Verdict::of(is_right, format!("200, {}, {what}", reply.media_type())), read.ok_or_else(unread))
        }
    };
    report.add(rule, verdict);
    report.judge(metadata.as_ref(), METADATA);
    let metadata = metadata.ok();
    reply.map(|_| metadata)
}

/// Fetches and judges the published keys.
pub(super) async fn keys(access: &Access, url: Option<&Url>, report: &mut Report) -> Option<Keys> {
    let rule = Rule::new(
        "jwks-served",
        "R-KEYS-06",
        "fetched the published keys without proof of who asks",
        "200, application/jwk-set+json or application/json, a JWK set",
    );
    let keys = match url {
        None => {
            report.add(rule, Verdict::not_tried("no address: give --jwks"));
            None
        }
        Some(url) => fetch(access, url, rule, report).await,
    };
    report.judge(keys.as_ref().ok_or(&Verdict::not_tried("no keys")), KEYS);
    keys
}

async fn fetch(access: &Access, url: &Url, rule: Rule, report: &mut Report) -> Option<Keys> {
    let open = access.get(Caller::Nobody, url).await.ok().filter(|reply| reply.status == 200);
    let is_open = open.is_some();
    let reply = match open {
        Some(reply) => Ok(reply),
        None => access.get(Caller::Client, url).await,
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            report.add(rule, Verdict::not_tried(error.to_string()));
            return None;
        }
    };
    let keys = Keys::read(&reply);
    let media_type = reply.media_type();
    let came = format!("{}, {media_type}{}", reply.status, if is_open { "" } else { ", only to the client" });
    let known = ["application/jwk-set+json", "application/json"].contains(&media_type.as_str());
    let verdict = match keys {
        Some(_) if reply.status == 200 => Verdict::advice(known && is_open, came),
        _ => Verdict::failed(came),
    };
    report.add(rule, verdict);
    keys
}

impl Metadata {
    /// `issuer`, if it is what they were fetched for. A URL without a path may end in a slash or not.
    pub(super) fn issuer(&self) -> Option<String> {
        let issuer = self.members.get("issuer")?.as_str()?;
        let bare = self.asked.strip_suffix('/').unwrap_or(&self.asked);
        (issuer == self.asked || issuer == bare).then(|| issuer.to_owned())
    }

    /// Where to ask: the alias for mTLS where the client has a certificate.
    pub(super) fn token_endpoint(&self, has_certificate: bool) -> Option<Url> {
        let alias = self.members.get("mtls_endpoint_aliases").and_then(|aliases| aliases.get("token_endpoint"));
        let alias = alias.filter(|_| has_certificate).and_then(https);
        alias.or_else(|| self.url("token_endpoint"))
    }

    /// Where the keys are.
    pub(super) fn jwks_uri(&self) -> Option<Url> {
        self.url("jwks_uri")
    }

    /// The first trust domain that a member of Writ's own names.
    pub(super) fn trust_domain(&self) -> Option<String> {
        self.list("txn_token_trust_domains_supported")?.first().map(|&name| name.to_owned())
    }

    fn url(&self, name: &str) -> Option<Url> {
        https(self.members.get(name)?)
    }

    fn list(&self, name: &str) -> Option<Vec<&str>> {
        self.members.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }

    fn shown(&self, name: &str) -> String {
        self.members.get(name).map_or_else(|| "absent".to_owned(), shown)
    }
}

impl Keys {
    fn read(reply: &Reply) -> Option<Self> {
        let members = reply.members()?;
        let document = members.get("keys")?.as_array()?.clone();
        let usable = KeySet::parse(Value::from(members).to_string().as_bytes()).ok();
        Some(Self { document, usable, cache_control: reply.header("cache-control").to_ascii_lowercase() })
    }

    /// Whether one of that name is published.
    pub(super) fn names(&self, kid: &str) -> bool {
        self.document.iter().any(|key| key["kid"] == kid)
    }

    /// Those that can verify.
    pub(super) fn usable(&self) -> Option<&KeySet> {
        self.usable.as_ref()
    }

    /// The document that they came in.
    pub(super) fn to_json(&self) -> String {
        serde_json::json!({ "keys": self.document }).to_string()
    }
}

/// A value, cut where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 200 { text } else { format!("{}…", text.chars().take(200).collect::<String>()) }
}

fn https(value: &Value) -> Option<Url> {
    Url::parse(value.as_str()?).ok().filter(|url| url.scheme() == "https")
}

/// RFC 8414 section 3.1: between host and path.
fn well_known(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    let path = issuer.path().trim_end_matches('/');
    url.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(members: Value) -> Metadata {
        let Value::Object(members) = members else { panic!("an object") };
        Metadata { asked: "https://t.example/".to_owned(), members }
    }

    #[test]
    fn the_well_known_part_goes_before_the_path() {
        let at = |issuer: &str| well_known(&Url::parse(issuer).unwrap()).to_string();
        assert_eq!(at("https://t.example"), "https://t.example/.well-known/oauth-authorization-server");
        assert_eq!(at("https://t.example/a/b/"), "https://t.example/.well-known/oauth-authorization-server/a/b");
    }

    #[test]
    fn an_issuer_is_compared_as_it_is_written() {
        for (issuer, fits) in [("https://t.example", true), ("https://t.example/", true), ("https://T.example", false)]
        {
            assert_eq!(metadata(serde_json::json!({ "issuer": issuer })).issuer().is_some(), fits, "{issuer}");
        }
    }

    #[test]
    fn a_client_with_a_certificate_uses_the_alias() {
        let metadata = metadata(serde_json::json!({
            "token_endpoint": "https://t.example/token", "mtls_endpoint_aliases": {"token_endpoint": "https://m.example/token"},
        }));
        assert_eq!(metadata.token_endpoint(true).unwrap().host_str(), Some("m.example"));
        assert_eq!(metadata.token_endpoint(false).unwrap().host_str(), Some("t.example"));
    }
}
