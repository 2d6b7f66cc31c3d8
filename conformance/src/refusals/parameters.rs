//! Requests with a parameter that is missing, empty, repeated or unacceptable.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::attempt::{Leniency, Refusal};
use crate::request::{TOKEN_TYPE, TokenRequest};

const UNKNOWN_SCOPE: &str = "writ-conformance.no-such-purpose";
const UNKNOWN_AUDIENCE: &str = "no-such-trust-domain.invalid";

/// All but [`details`].
pub(super) fn refusals(request: &TokenRequest, other_scope: Option<&str>) -> Vec<Refusal> {
    let mut names = vec!["grant_type", "requested_token_type", "audience", "scope"];
    if request.subject_token.is_some() {
        names.extend(["subject_token", "subject_token_type"]);
    }
    let mut refusals = Vec::new();
    refusals.extend(names.iter().flat_map(|name| absent(request, name)));
    // RFC 8693 allows several audiences.
    refusals.extend(names.into_iter().filter(|&name| name != "audience").map(|name| repeated(request, name)));
    refusals.push(unknown_grant(request));
    refusals.extend(requested_types(request));
    refusals.extend(actors(request));
    refusals.extend(targets(request));
    refusals.extend(scopes(request, other_scope));
    refusals
}

/// Without the parameter, and with an empty one.
fn absent(request: &TokenRequest, name: &'static str) -> [Refusal; 2] {
    const CODES: &[&str] = &["invalid_request"];
    // RFC 8693 makes requested_token_type optional: a general authorization server then issues its usual tokens.
    let leniency = || if name == "requested_token_type" { Leniency::OtherType } else { Leniency::None };
    let form = request.form().without(name);
    let (left_out, sent_empty) = (format!("left out {name}"), format!("sent an empty {name}"));
    let missing = Refusal::new(format!("missing-{name}"), requirement(name), left_out, CODES, form.clone());
    let empty = Refusal::new(format!("empty-{name}"), "R-REQ-03", sent_empty, CODES, form.add(name, ""));
    [missing.lenient(leniency()), empty.lenient(leniency())]
}

fn requirement(parameter: &str) -> &'static str {
    match parameter {
        "grant_type" => "R-REQ-05",
        "requested_token_type" => "R-REQ-06",
        "audience" => "R-REQ-07",
        "scope" => "R-REQ-08",
        _ => "R-REQ-09",
    }
}

fn repeated(request: &TokenRequest, name: &'static str) -> Refusal {
    let form = request.form();
    let value = form.value(name).unwrap_or_default().to_owned();
    let action = format!("sent {name} twice");
    Refusal::new(format!("repeated-{name}"), "R-REQ-03", action, &["invalid_request"], form.add(name, &value))
}

fn unknown_grant(request: &TokenRequest) -> Refusal {
    let form = request.form().set("grant_type", "urn:example:grant-type:no-such-grant");
    let codes = &["unsupported_grant_type", "unauthorized_client"];
    Refusal::new("grant-unknown", "R-REQ-05", "sent an unknown grant_type", codes, form)
}

/// A general authorization server may answer with another token.
fn requested_types(request: &TokenRequest) -> [Refusal; 2] {
    let refusal = |name: &str, action: &str, token_type: &str| {
        let form = request.form().set("requested_token_type", token_type);
        Refusal::new(name, "R-REQ-06", action, &["invalid_request"], form).lenient(Leniency::OtherType)
    };
    let (unknown, access_token) = ("urn:example:token-type:no-such-type", format!("{TOKEN_TYPE}access_token"));
    [
        refusal("requested-type-unknown", "requested an unknown type of token", unknown),
        refusal("requested-type-other", "requested an access token", &access_token),
    ]
}

fn actors(request: &TokenRequest) -> [Refusal; 2] {
    const CODES: &[&str] = &["invalid_request"];
    let form = request.form().set("actor_token_type", &format!("{TOKEN_TYPE}access_token"));
    let pair = form.clone().set("actor_token", "writ-conformance-no-such-actor");
    let alone = "sent actor_token_type without actor_token";
    [
        Refusal::new("actor-type-alone", "R-REQ-15", alone, CODES, form),
        Refusal::new("actor-token", "R-REQ-15", "sent an actor_token that is not a token", CODES, pair)
            .lenient(Leniency::Any),
    ]
}

fn targets(request: &TokenRequest) -> [Refusal; 3] {
    const CODES: &[&str] = &["invalid_target", "invalid_request"];
    let unknown = request.form().set("audience", UNKNOWN_AUDIENCE);
    let several = request.form().add("audience", UNKNOWN_AUDIENCE);
    let resource = request.form().set("resource", "https://service.example/");
    let two = "requested two trust domains, one of them unknown";
    [
        Refusal::new("audience-unknown", "R-REQ-07", "requested an unknown trust domain", &["invalid_target"], unknown)
            .recommended(),
        Refusal::new("audience-several", "R-REQ-07", two, CODES, several).recommended(),
        Refusal::new("resource", "R-REQ-14", "sent a resource", CODES, resource).lenient(Leniency::Any),
    ]
}

fn scopes(request: &TokenRequest, other: Option<&str>) -> [Refusal; 4] {
    let refusal = |name: &str, requirement, action: &str, scope: &str| {
        Refusal::new(name, requirement, action, &["invalid_scope"], request.form().set("scope", scope))
    };
    let no_other = other.is_none().then_some("needs --other-scope");
    let other = other.unwrap_or_default();
    let wider = format!("{} {other}", request.scope);
    let with_quote = "requested a scope with a quotation mark";
    let with_granted = "requested the purpose of --other-scope together with the granted ones";
    [
        refusal("scope-malformed", "R-REQ-08", with_quote, "a\"b"),
        refusal("scope-unknown", "R-POL-02", "requested an unknown purpose", UNKNOWN_SCOPE).recommended(),
        refusal("scope-other", "R-POL-02", "requested the purpose of --other-scope", other)
            .recommended()
            .unless(no_other),
        refusal("scope-wider", "R-POL-02", with_granted, &wider)
            .recommended()
            .lenient(Leniency::Without(other.to_owned()))
            .unless(no_other),
    ]
}

/// `request_details` and `request_context`.
pub(super) fn details(request: &TokenRequest) -> [Refusal; 5] {
    let refusal = |name: &str, action: &str, parameter: &str, value: &str| {
        Refusal::new(name, "R-REQ-12", action, &["invalid_request"], request.form().set(parameter, value))
    };
    let encoded = URL_SAFE_NO_PAD.encode(r#"{"writ":1}"#);
    let duplicates = "sent request_details with a repeated member";
    let base64url = "sent request_details in base64url, as in drafts before -07";
    [
        refusal("details-no-object", "sent an array as request_details", "request_details", "[1]"),
        refusal("details-no-json", "sent request_details that is not JSON", "request_details", "{\"writ\":"),
        refusal("context-no-object", "sent an array as request_context", "request_context", "[1]"),
        refusal("details-duplicates", duplicates, "request_details", r#"{"a":1,"a":2}"#).lenient(Leniency::Any),
        refusal("details-base64url", base64url, "request_details", &encoded).lenient(Leniency::Any),
    ]
}
