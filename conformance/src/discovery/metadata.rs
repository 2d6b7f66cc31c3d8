//! Metadata (RFC 8414).

use serde_json::{Map, Value};
use url::Url;

use crate::args::HttpsUrl;
use crate::http::HttpError;
use crate::report::{Check, Report, Rule, Verdict};
use crate::request::TOKEN_EXCHANGE;
use crate::response::Response;
use crate::target::{Caller, Target};

/// More characters of a value are not shown.
const SHOWN_MAX: usize = 200;

pub(crate) struct Metadata {
    /// The issuer that it was fetched for, as written on the command line.
    requested: String,
    members: Map<String, Value>,
}

const CHECKS: &[Check<Metadata>] = &[
    Check {
        name: "metadata-issuer",
        requirement: "R-META-02",
        action: "compared issuer with the URL that the metadata was fetched for",
        expected: "exactly the same https URL, without query and fragment",
        judge: |metadata| Verdict::required(metadata.issuer().is_some(), metadata.shown("issuer")),
    },
    Check {
        name: "metadata-token-endpoint",
        requirement: "R-META-03",
        action: "checked token_endpoint",
        expected: "an https URL",
        judge: |metadata| Verdict::required(metadata.url("token_endpoint").is_some(), metadata.shown("token_endpoint")),
    },
    Check {
        name: "metadata-jwks-uri",
        requirement: "R-META-03",
        action: "checked jwks_uri",
        expected: "an https URL",
        judge: |metadata| match metadata.members.get("jwks_uri") {
            None => Verdict::noted("absent: verifiers have to be configured with the location of the keys"),
            Some(_) => Verdict::required(metadata.url("jwks_uri").is_some(), metadata.shown("jwks_uri")),
        },
    },
    Check {
        name: "metadata-grant-types",
        requirement: "R-META-03",
        action: "looked for token exchange in grant_types_supported",
        expected: "it is listed; a client that finds no list assumes authorization_code and implicit only",
        judge: |metadata| {
            let is_listed = metadata.list("grant_types_supported").is_some_and(|list| list.contains(&TOKEN_EXCHANGE));
            Verdict::required(is_listed, if is_listed { "listed" } else { "not listed" })
        },
    },
    Check {
        name: "metadata-auth-methods",
        requirement: "R-META-03",
        action: "checked token_endpoint_auth_methods_supported",
        expected: "a list without none; a client that finds no list assumes client_secret_basic only",
        judge: |metadata| match metadata.list("token_endpoint_auth_methods_supported") {
            Some(list) => Verdict::recommended(!list.contains(&"none"), list.join(" ")),
            None => Verdict::noted("not a list of strings"),
        },
    },
    Check {
        name: "metadata-assertion-algorithms",
        requirement: "R-META-03",
        action: "looked for none in token_endpoint_auth_signing_alg_values_supported",
        expected: "a list without it, if clients may authenticate with a JWT",
        judge: Metadata::judge_assertion_algorithms,
    },
    Check {
        name: "metadata-response-types",
        requirement: "R-META-04",
        action: "checked response_types_supported",
        expected: "a list, which may be empty",
        judge: |metadata| match metadata.members.get("response_types_supported") {
            None => Verdict::noted("absent: RFC 8414 section 2 requires the member, and strict clients insist on it"),
            Some(value) => Verdict::required(metadata.list("response_types_supported").is_some(), shorten(value)),
        },
    },
    Check {
        name: "metadata-nothing-else",
        requirement: "R-META-03",
        action: "looked for authorization_endpoint and registration_endpoint",
        expected: "neither: a Transaction Token Service has none",
        judge: |metadata| {
            let mut found = vec!["authorization_endpoint", "registration_endpoint"];
            found.retain(|name| metadata.members.contains_key(*name));
            let actual = if found.is_empty() { "neither".to_owned() } else { found.join(" and ") };
            Verdict::recommended(found.is_empty(), actual)
        },
    },
    Check {
        name: "metadata-mtls-aliases",
        requirement: "R-META-05",
        action: "checked mtls_endpoint_aliases",
        expected: "an object whose token_endpoint is an https URL",
        judge: |metadata| match metadata.members.get("mtls_endpoint_aliases") {
            None => Verdict::not_applicable("absent"),
            Some(aliases) => {
                let is_url = aliases.get("token_endpoint").is_none_or(|alias| parse_https(alias).is_some());
                Verdict::required(aliases.is_object() && is_url, shorten(aliases))
            }
        },
    },
];

/// Fetches the metadata and adds its checks; `None` if there is none, or none that can be read.
///
/// # Errors
/// The target cannot be reached.
pub(crate) async fn check(
    target: &Target,
    issuer: &HttpsUrl,
    report: &mut Report,
) -> Result<Option<Metadata>, HttpError> {
    let response = target.get(Caller::Client, &well_known_url(&issuer.url)).await;
    let rule = Rule::new(
        "metadata-served",
        "R-META-01",
        "fetched the metadata of RFC 8414",
        "200, application/json, an object; metadata is optional",
    );
    let (verdict, metadata) = match &response {
        Err(error) => (Verdict::not_tried(error.to_string()), Err(Verdict::not_tried("no metadata"))),
        Ok(response) if response.status != 200 => {
            (Verdict::noted(response.status.to_string()), Err(Verdict::not_applicable("no metadata")))
        }
        Ok(response) => judge_response(response, issuer),
    };
    report.add(rule, verdict);
    report.judge(metadata.as_ref(), CHECKS);
    response.map(|_| metadata.ok())
}

fn judge_response(response: &Response, issuer: &HttpsUrl) -> (Verdict, Result<Metadata, Verdict>) {
    let (media_type, members) = (response.media_type(), response.members());
    let is_right = members.is_some() && media_type == "application/json";
    let body = if members.is_some() { "an object" } else { "not an object" };
    let metadata = members.map(|members| Metadata { requested: issuer.text.clone(), members });
    let verdict = Verdict::required(is_right, format!("200, {media_type}, {body}"));
    (verdict, metadata.ok_or_else(|| Verdict::not_tried("the metadata cannot be read")))
}

impl Metadata {
    /// `issuer`, if it is the one that the metadata was fetched for. A URL without a path may end in a slash or not.
    pub(crate) fn issuer(&self) -> Option<String> {
        let issuer = self.members.get("issuer")?.as_str()?;
        let without_slash = self.requested.strip_suffix('/').unwrap_or(&self.requested);
        (issuer == self.requested || issuer == without_slash).then(|| issuer.to_owned())
    }

    /// For clients with a certificate the alias for mTLS (RFC 8705 section 5), if there is one.
    pub(crate) fn token_endpoint(&self, has_certificate: bool) -> Option<Url> {
        let alias = self.members.get("mtls_endpoint_aliases").and_then(|aliases| aliases.get("token_endpoint"));
        let alias = alias.filter(|_| has_certificate).and_then(parse_https);
        alias.or_else(|| self.url("token_endpoint"))
    }

    pub(crate) fn jwks_uri(&self) -> Option<Url> {
        self.url("jwks_uri")
    }

    /// The first trust domain of a member that only Writ has.
    pub(crate) fn trust_domain(&self) -> Option<String> {
        self.list("txn_token_trust_domains_supported")?.first().map(|&name| name.to_owned())
    }

    fn judge_assertion_algorithms(&self) -> Verdict {
        let methods = self.list("token_endpoint_auth_methods_supported").unwrap_or_default();
        match self.list("token_endpoint_auth_signing_alg_values_supported") {
            Some(list) => Verdict::required(!list.contains(&"none"), list.join(" ")),
            None if methods.contains(&"private_key_jwt") => Verdict::failed("not a list of strings"),
            None => Verdict::not_applicable("no authentication with a JWT"),
        }
    }

    fn url(&self, name: &str) -> Option<Url> {
        parse_https(self.members.get(name)?)
    }

    fn list(&self, name: &str) -> Option<Vec<&str>> {
        self.members.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }

    fn shown(&self, name: &str) -> String {
        self.members.get(name).map_or_else(|| "absent".to_owned(), shorten)
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    format!("{}…", text.chars().take(SHOWN_MAX).collect::<String>())
}

fn parse_https(value: &Value) -> Option<Url> {
    Url::parse(value.as_str()?).ok().filter(|url| url.scheme() == "https")
}

/// The well-known path goes between host and path (RFC 8414 section 3.1).
fn well_known_url(issuer: &Url) -> Url {
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
        Metadata { requested: "https://t.example/".to_owned(), members }
    }

    #[test]
    fn the_well_known_path_goes_before_the_path() {
        let of = |issuer: &str| well_known_url(&Url::parse(issuer).unwrap()).to_string();
        assert_eq!(of("https://t.example"), "https://t.example/.well-known/oauth-authorization-server");
        assert_eq!(of("https://t.example/a/b/"), "https://t.example/.well-known/oauth-authorization-server/a/b");
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
