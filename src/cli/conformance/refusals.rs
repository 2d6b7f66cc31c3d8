//! Requests that must not be answered with a Txn-Token: what is refused, with which code, and in which form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use url::Url;
use writ_verifier::json::{self, Limits};

use super::form::Form;
use super::issue::Issued;
use super::report::{Report, Rule, Verdict};
use super::target::{Caller, FORM, Reply, is_of_error};
use super::{Ask, Proof, Scene, TOKEN_TYPE, TXN_TOKEN};
use crate::cli::token::ServiceError;

/// A purpose and a trust domain that nobody has.
const NO_SCOPE: &str = "writ-conformance.no-such-purpose";
const NO_AUDIENCE: &str = "no-such-trust-domain.invalid";
/// A text of fewer characters may be in an answer by coincidence.
const SECRET: usize = 16;

/// A request that asks for a refusal.
pub(super) struct Refusal {
    name: String,
    requirement: &'static str,
    did: String,
    codes: &'static [&'static str],
    /// Whether the standards only advise these codes.
    is_advice: bool,
    leniency: Leniency,
    /// The request, or why it cannot be made.
    form: Result<Form, &'static str>,
}

/// When an answer other than a refusal is not against the draft.
enum Leniency {
    Never,
    /// The draft leaves it open.
    Open,
    /// The target issues tokens of other types as well.
    OtherTokens,
    /// A token for less than was asked for, without this purpose.
    Without(String),
}

/// The refusals that came, for what must hold for all of them.
#[derive(Default)]
pub(super) struct Refused(Vec<One>);

struct One {
    name: String,
    subject_token: Option<String>,
    reply: Reply,
}

/// Tries everything that is refused whatever the subject token is worth.
pub(super) async fn examine(
    scene: &Scene,
    other_scope: Option<&str>,
    hindrance: Option<&Verdict>,
    report: &mut Report,
) {
    let mut refused = Refused::default();
    let mut refusals = parameters(&scene.ask);
    refusals.extend(targets_and_purposes(&scene.ask, other_scope));
    refusals.extend(subject_tokens(&scene.ask));
    refusals.extend(details(&scene.ask));
    for refusal in refusals {
        try_one(scene, refusal, hindrance, &mut refused, report).await;
    }
    ignored(scene, hindrance, report).await;
    http(scene, hindrance, report).await;
    strangers(scene, hindrance, report).await;
    refused.judge(hindrance, report);
}

/// Makes the request and judges the answer.
pub(super) async fn try_one(
    scene: &Scene,
    refusal: Refusal,
    hindrance: Option<&Verdict>,
    refused: &mut Refused,
    report: &mut Report,
) {
    let verdict = match (hindrance, &refusal.form) {
        (Some(hindrance), _) => hindrance.clone(),
        (None, Err(why)) => Verdict::not_applicable(*why),
        (None, Ok(form)) => match scene.ask(form).await {
            Err(error) => Verdict::not_tried(error.to_string()),
            Ok(reply) => {
                let verdict = refusal.judge(&reply);
                let subject_token = form.value("subject_token").map(str::to_owned);
                refused.0.push(One { name: refusal.name.clone(), subject_token, reply });
                verdict
            }
        },
    };
    report.add(refusal.rule(), verdict);
}

impl Refusal {
    /// A request that is refused with one of these codes.
    pub(super) fn new(
        name: impl Into<String>,
        requirement: &'static str,
        did: impl Into<String>,
        codes: &'static [&'static str],
        form: Form,
    ) -> Self {
        let (name, did) = (name.into(), did.into());
        Self { name, requirement, did, codes, is_advice: false, leniency: Leniency::Never, form: Ok(form) }
    }

    /// The standards advise the code and leave the choice.
    pub(super) fn advised(self) -> Self {
        Self { is_advice: true, ..self }
    }

    fn lenient(self, leniency: Leniency) -> Self {
        Self { leniency, ..self }
    }

    /// The request cannot be made, for this reason.
    pub(super) fn unless(self, cannot: Option<&'static str>) -> Self {
        match cannot {
            Some(why) => Self { form: Err(why), ..self },
            None => self,
        }
    }

    fn rule(&self) -> Rule {
        let codes = self.codes.join(" or ");
        let expected = match &self.leniency {
            Leniency::Never => format!("a refusal with {codes}"),
            Leniency::Open => format!("a refusal with {codes}; the draft leaves it open"),
            Leniency::OtherTokens => format!("a refusal with {codes}, in any case no Txn-Token"),
            Leniency::Without(_) => format!("a refusal with {codes}, in any case no token for that purpose"),
        };
        Rule::new(self.name.clone(), self.requirement, self.did.clone(), expected)
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        let came = reply.summary();
        match reply.status {
            _ if reply.is_issued() => self.judge_issued(reply, came),
            429 | 503 => Verdict::not_tried(came),
            400..=499 => match reply.error() {
                Some(code) if self.codes.contains(&code.as_str()) => Verdict::passed(came),
                Some(_) => Verdict::noted_unless(!self.is_advice, came),
                None => Verdict::noted(came),
            },
            _ => Verdict::failed(came),
        }
    }

    fn judge_issued(&self, reply: &Reply, came: String) -> Verdict {
        let issued = Issued::of(reply);
        let is_lenient = match &self.leniency {
            Leniency::Never => false,
            Leniency::Open => true,
            Leniency::OtherTokens => {
                reply.members().is_some_and(|members| members.get("issued_token_type") != Some(&Value::from(TXN_TOKEN)))
            }
            Leniency::Without(purpose) => {
                issued.as_ref().and_then(Issued::scope).is_some_and(|scope| !scope.contains(purpose))
            }
        };
        Verdict::noted_unless(!is_lenient, came)
    }
}

/// Parameters that are missing, empty, repeated or unknown.
fn parameters(ask: &Ask) -> Vec<Refusal> {
    let mut names = vec!["grant_type", "requested_token_type", "audience", "scope"];
    if ask.subject_token().is_some() {
        names.extend(["subject_token", "subject_token_type"]);
    }
    let mut refusals = Vec::new();
    for &name in &names {
        let (without, requirement) = (ask.form().without(name), requirement_of(name));
        // RFC 8693 lets it out, and an authorization server then issues what it issues.
        let leniency = || if name == "requested_token_type" { Leniency::OtherTokens } else { Leniency::Never };
        let missing = Refusal::new(
            format!("missing-{name}"),
            requirement,
            format!("left {name} out"),
            &["invalid_request"],
            without.clone(),
        );
        refusals.push(missing.lenient(leniency()));
        let empty = Refusal::new(
            format!("empty-{name}"),
            "R-REQ-03",
            format!("sent {name} empty"),
            &["invalid_request"],
            without.add(name, ""),
        );
        refusals.push(empty.lenient(leniency()));
    }
    // RFC 8693 has `audience` as often as there are targets.
    for name in names.into_iter().filter(|&name| name != "audience") {
        let form = ask.form();
        let value = form.value(name).unwrap_or_default().to_owned();
        let did = format!("sent {name} twice");
        refusals.push(Refusal::new(
            format!("repeated-{name}"),
            "R-REQ-03",
            did,
            &["invalid_request"],
            form.add(name, &value),
        ));
    }
    let grant = ask.form().set("grant_type", "urn:example:grant-type:no-such-grant");
    refusals.push(Refusal::new(
        "grant-unknown",
        "R-REQ-05",
        "asked with a grant that nobody knows",
        &["unsupported_grant_type", "unauthorized_client"],
        grant,
    ));
    refusals.extend(requested_types(ask));
    refusals.extend(actors(ask));
    refusals
}

/// An authorization server that is no Transaction Token Service alone may answer with another token.
fn requested_types(ask: &Ask) -> [Refusal; 2] {
    let refusal = |name: &str, did: &str, kind: &str| {
        let form = ask.form().set("requested_token_type", kind);
        Refusal::new(name, "R-REQ-06", did, &["invalid_request"], form).lenient(Leniency::OtherTokens)
    };
    [
        refusal(
            "requested-type-unknown",
            "asked for a token type that nobody knows",
            "urn:example:token-type:no-such-type",
        ),
        refusal("requested-type-other", "asked for an access token", &format!("{TOKEN_TYPE}access_token")),
    ]
}

fn requirement_of(parameter: &str) -> &'static str {
    match parameter {
        "grant_type" => "R-REQ-05",
        "requested_token_type" => "R-REQ-06",
        "audience" => "R-REQ-07",
        "scope" => "R-REQ-08",
        _ => "R-REQ-09",
    }
}

fn actors(ask: &Ask) -> [Refusal; 2] {
    let form = ask.form().set("actor_token_type", &format!("{TOKEN_TYPE}access_token"));
    let alone = Refusal::new(
        "actor-type-alone",
        "R-REQ-15",
        "sent actor_token_type without actor_token",
        &["invalid_request"],
        form.clone(),
    );
    let pair = form.set("actor_token", "writ-conformance-no-such-actor");
    let pair =
        Refusal::new("actor-token", "R-REQ-15", "sent an actor_token that is no token", &["invalid_request"], pair);
    [alone, pair.lenient(Leniency::Open)]
}

/// Audience, resource and scope.
fn targets_and_purposes(ask: &Ask, other: Option<&str>) -> Vec<Refusal> {
    let unknown = ask.form().set("audience", NO_AUDIENCE);
    let several = ask.form().add("audience", NO_AUDIENCE);
    let resource = ask.form().set("resource", "https://service.example/");
    let scope = |text: &str| ask.form().set("scope", text);
    let more = other.map(|other| format!("{} {other}", ask.scope));
    let no_other = other.is_none().then_some("needs --other-scope");
    vec![
        Refusal::new("audience-unknown", "R-REQ-07", "asked for another trust domain", &["invalid_target"], unknown)
            .advised(),
        Refusal::new(
            "audience-several",
            "R-REQ-07",
            "asked for two trust domains, one of them known",
            &["invalid_target", "invalid_request"],
            several,
        )
        .advised(),
        Refusal::new("resource", "R-REQ-14", "named a resource", &["invalid_target", "invalid_request"], resource)
            .lenient(Leniency::Open),
        Refusal::new(
            "scope-malformed",
            "R-REQ-08",
            "asked for a scope with a quotation mark",
            &["invalid_scope"],
            scope("a\"b"),
        ),
        Refusal::new(
            "scope-unknown",
            "R-POL-02",
            "asked for a purpose that nobody knows",
            &["invalid_scope"],
            scope(NO_SCOPE),
        )
        .advised(),
        Refusal::new(
            "scope-other",
            "R-POL-02",
            "asked for the purpose of --other-scope",
            &["invalid_scope"],
            scope(other.unwrap_or_default()),
        )
        .advised()
        .unless(no_other),
        Refusal::new(
            "scope-wider",
            "R-POL-02",
            "asked for it and for a purpose that is granted",
            &["invalid_scope"],
            scope(more.as_deref().unwrap_or_default()),
        )
        .advised()
        .lenient(Leniency::Without(other.unwrap_or_default().to_owned()))
        .unless(no_other),
    ]
}

/// Subject tokens that are not what they are said to be.
fn subject_tokens(ask: &Ask) -> Vec<Refusal> {
    const CODES: &[&str] = &["invalid_request"];
    let (token, token_type, absent) = match &ask.proof {
        Proof::Subject { token, token_type } => (token.as_str(), token_type.as_str(), None),
        Proof::Client => ("", "", Some("needs --subject-token")),
    };
    let kind = |name: &str| ask.form().set("subject_token_type", &format!("{TOKEN_TYPE}{name}"));
    let unknown = ask.form().set("subject_token_type", "urn:example:token-type:no-such-type");
    let is_json = token_type.ends_with(":unsigned_json");
    let not_json = is_json.then_some("the subject token is not signed");
    let malformed = if is_json { "{\"sub\":" } else { "not.a.token" };
    let (broken, unsigned) = (with_broken_signature(token), unsigned(token));
    let no_jwt = "the subject token is no JWT";
    let refusals = vec![
        Refusal::new(
            "subject-type-refresh-token",
            "R-REQ-11",
            "said that the subject token is a refresh token",
            CODES,
            kind("refresh_token"),
        ),
        Refusal::new(
            "subject-type-saml",
            "R-SUBJ-13",
            "said that the subject token is a SAML assertion",
            CODES,
            kind("saml2"),
        ),
        Refusal::new(
            "subject-type-unknown",
            "R-REQ-10",
            "gave the subject token a type that nobody knows",
            CODES,
            unknown,
        ),
        Refusal::new(
            "subject-token-malformed",
            "R-SUBJ-01",
            "sent a subject token that cannot be read",
            CODES,
            ask.exchange(malformed, token_type),
        ),
        Refusal::new(
            "subject-token-signature",
            "R-SUBJ-01",
            "sent the subject token with another signature",
            CODES,
            ask.exchange(broken.as_deref().unwrap_or_default(), token_type),
        )
        .unless(not_json.or(broken.is_none().then_some(no_jwt))),
        Refusal::new(
            "subject-token-unsigned",
            "R-SUBJ-03",
            "sent the subject token with alg none and without signature",
            CODES,
            ask.exchange(unsigned.as_deref().unwrap_or_default(), token_type),
        )
        .unless(not_json.or(unsigned.is_none().then_some(no_jwt))),
    ];
    refusals.into_iter().map(|refusal| refusal.unless(absent)).collect()
}

/// `request_details` and `request_context`.
fn details(ask: &Ask) -> Vec<Refusal> {
    let sent = |name: &str, text: &str| ask.form().set(name, text);
    let refusal = |name: &str, did: &str, form| Refusal::new(name, "R-REQ-12", did, &["invalid_request"], form);
    let encoded = URL_SAFE_NO_PAD.encode(r#"{"writ":1}"#);
    vec![
        refusal("details-no-object", "sent an array as request_details", sent("request_details", "[1]")),
        refusal("details-no-json", "sent request_details that are no JSON", sent("request_details", "{\"writ\":")),
        refusal("context-no-object", "sent an array as request_context", sent("request_context", "[1]")),
        refusal(
            "details-duplicates",
            "sent request_details with a member twice",
            sent("request_details", r#"{"a":1,"a":2}"#),
        )
        .lenient(Leniency::Open),
        refusal(
            "details-base64url",
            "sent request_details in base64url, as drafts before -07 had it",
            sent("request_details", &encoded),
        )
        .lenient(Leniency::Open),
    ]
}

/// What must not change the answer to a good request.
async fn ignored(scene: &Scene, hindrance: Option<&Verdict>, report: &mut Report) {
    let form = scene.ask.form().set("writ_conformance", "1");
    let rule =
        Rule::new("unknown-parameter", "R-REQ-04", "sent a parameter that nobody knows", "a token, as without it");
    let verdict = match hindrance {
        Some(hindrance) => hindrance.clone(),
        None => judged(scene.ask(&form).await, |reply| Verdict::of(reply.is_issued(), reply.summary())),
    };
    report.add(rule, verdict);
}

/// Methods, media types and the query string. What is secret is in none of these URLs, since they end up in logs.
async fn http(scene: &Scene, hindrance: Option<&Verdict>, report: &mut Report) {
    let get = Rule::new("http-get", "R-REQ-01", "sent GET to the token endpoint", "405 with Allow: POST");
    let json = Rule::new("http-json", "R-REQ-02", "sent a good request as JSON", "a refusal");
    let query = Rule::new(
        "http-query",
        "R-REQ-02",
        "sent scope in the query string and not in the body",
        "a refusal: scope is missing",
    );
    if let Some(hindrance) = hindrance {
        for rule in [get, json, query] {
            report.add(rule, hindrance.clone());
        }
        return;
    }
    let form = scene.ask.form();
    let reply = scene.access.get(Caller::Client, &with_query(&scene.endpoint, &form)).await;
    report.add(
        get,
        judged(reply, |reply| match reply.status {
            405 => Verdict::advice(!reply.header("allow").is_empty(), format!("405, Allow: {}", reply.header("allow"))),
            400..=499 => Verdict::noted(reply.summary()),
            _ => Verdict::failed(reply.summary()),
        }),
    );

    let reply = scene.access.post(Caller::Client, &scene.endpoint, "application/json", form.to_json()).await;
    report.add(json, judged(reply, |reply| Verdict::of((400..500).contains(&reply.status), reply.summary())));

    let mut url = scene.endpoint.clone();
    url.query_pairs_mut().append_pair("scope", &scene.ask.scope.to_string());
    let reply = scene.access.post(Caller::Client, &url, FORM, form.without("scope").encode()).await;
    report.add(query, judged(reply, |reply| Verdict::of((400..500).contains(&reply.status), reply.summary())));
}

/// A URL with all of the form that is no secret.
fn with_query(endpoint: &Url, form: &Form) -> Url {
    let mut url = endpoint.clone();
    for name in ["grant_type", "requested_token_type", "audience", "scope"] {
        url.query_pairs_mut().append_pair(name, form.value(name).unwrap_or_default());
    }
    url
}

/// Callers that nothing proves.
async fn strangers(scene: &Scene, hindrance: Option<&Verdict>, report: &mut Report) {
    let expected = "an end of the handshake, or a refusal with invalid_client";
    let nobody =
        Rule::new("client-nobody", "R-AUTHN-01", "made a good request without any proof of who asks", expected);
    let stranger =
        Rule::new("client-stranger", "R-AUTHN-03", "made it with a certificate that nobody signed", expected);
    let has_proof =
        scene.access.has_proof().then_some(()).ok_or(Verdict::not_applicable("the client has no proof either"));
    let has_certificate =
        scene.access.has_certificate().then_some(()).ok_or(Verdict::not_applicable("needs --cert and --key"));
    for (rule, caller, applies) in [(nobody, Caller::Nobody, has_proof), (stranger, Caller::Stranger, has_certificate)]
    {
        let verdict = match (hindrance, applies) {
            (Some(hindrance), _) => hindrance.clone(),
            (None, Err(not_applicable)) => not_applicable,
            (None, Ok(())) => match scene.access.token(caller, &scene.endpoint, &scene.ask.form()).await {
                Err(ServiceError::Unreachable(_)) => Verdict::passed("no answer"),
                Err(error) => Verdict::not_tried(error.to_string()),
                Ok(reply) => judge_stranger(&reply),
            },
        };
        report.add(rule, verdict);
    }
}

fn judge_stranger(reply: &Reply) -> Verdict {
    let is_client_error = reply.error().as_deref() == Some("invalid_client");
    match reply.status {
        400 | 401 => Verdict::advice(is_client_error, reply.summary()),
        402..=499 => Verdict::noted(reply.summary()),
        _ => Verdict::failed(reply.summary()),
    }
}

fn judged(reply: Result<Reply, ServiceError>, judge: impl FnOnce(&Reply) -> Verdict) -> Verdict {
    match reply {
        Err(error) => Verdict::not_tried(error.to_string()),
        Ok(reply) if matches!(reply.status, 429 | 503) => Verdict::not_tried(reply.summary()),
        Ok(reply) => judge(&reply),
    }
}

impl Refused {
    /// What holds for every refusal of a request that is well-formed HTTP.
    pub(super) fn judge(&self, hindrance: Option<&Verdict>, report: &mut Report) {
        type Holds = fn(&One) -> bool;
        let rules: [(Rule, Holds); 5] = [
            (
                Rule::new("refusals-json", "R-RESP-05", "read every refusal", "application/json, an object with error"),
                |one| one.reply.media_type() == "application/json" && one.reply.error().is_some(),
            ),
            (
                Rule::new(
                    "refusals-status",
                    "R-RESP-07",
                    "looked at the status of every refusal",
                    "400; 401 only with invalid_client",
                ),
                |one| match one.reply.status {
                    400 => true,
                    401 => one.reply.error().is_none_or(|error| error == "invalid_client"),
                    _ => one.reply.error().is_none(),
                },
            ),
            (
                Rule::new("refusals-no-store", "R-RESP-04", "looked at Cache-Control of every refusal", "no-store"),
                |one| one.reply.is_no_store(),
            ),
            (
                Rule::new(
                    "refusals-description",
                    "R-RESP-05",
                    "looked at error_description of every refusal",
                    "printable ASCII without quotation mark and backslash, where there is one",
                ),
                |one| {
                    let members = one.reply.members().unwrap_or_default();
                    members
                        .get("error_description")
                        .is_none_or(|text| text.as_str().is_some_and(|text| text.bytes().all(is_of_error)))
                },
            ),
            (
                Rule::new(
                    "refusals-keep-secrets",
                    "R-RESP-05",
                    "looked for the subject token in every refusal",
                    "no refusal repeats it",
                ),
                |one| {
                    let secret = one.subject_token.as_deref().filter(|token| token.len() >= SECRET);
                    secret.is_none_or(|token| !one.reply.repeats(token))
                },
            ),
        ];
        let refused: Vec<&One> =
            self.0.iter().filter(|one| (400..500).contains(&one.reply.status) && one.reply.status != 429).collect();
        for (rule, holds) in rules {
            let verdict = match hindrance {
                Some(hindrance) => hindrance.clone(),
                None if refused.is_empty() => Verdict::not_tried("nothing was refused"),
                None => {
                    let bad: Vec<_> = refused
                        .iter()
                        .filter(|one| !holds(one))
                        .map(|one| format!("{} ({})", one.name, one.reply.summary()))
                        .collect();
                    let came = match bad.first() {
                        None => format!("so in all {}", refused.len()),
                        Some(first) => format!("not so in {} of {}, first {first}", bad.len(), refused.len()),
                    };
                    Verdict::of(bad.is_empty(), came)
                }
            };
            report.add(rule, verdict);
        }
    }
}

/// A JWT with another signature of the same length.
pub(super) fn with_broken_signature(token: &str) -> Option<String> {
    let (signed_part, signature) = token.rsplit_once('.').filter(|(rest, _)| rest.contains('.'))?;
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).ok().filter(|bytes| !bytes.is_empty())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Some(format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The same JWT, said to need no signature.
fn unsigned(token: &str) -> Option<String> {
    let (header, rest) = token.split_once('.')?;
    let (claims, _) = rest.split_once('.')?;
    let mut header: Value = json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?, Limits::DOCUMENT).ok()?;
    header.as_object_mut()?.insert("alg".to_owned(), "none".into());
    Some(format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(header.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_signature_is_another_one() {
        let token = format!("e30.e30.{}", URL_SAFE_NO_PAD.encode([1, 2, 3]));
        assert_eq!(with_broken_signature(&token), Some(format!("e30.e30.{}", URL_SAFE_NO_PAD.encode([1, 3, 3]))));
        assert_eq!(with_broken_signature("opaque"), None);
        assert_eq!(with_broken_signature("a.b."), None);
    }

    #[test]
    fn an_unsigned_token_keeps_its_claims() {
        let token = format!("{}.Y2xhaW1z.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#));
        let expected = format!("{}.Y2xhaW1z.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#));
        assert_eq!(unsigned(&token), Some(expected));
        assert_eq!(unsigned("not.a.token"), None);
    }

    #[test]
    fn no_secret_gets_into_a_url() {
        let form =
            Form::new(vec![("subject_token".into(), "s3cret".into()), ("client_secret".into(), "s3cret".into())]);
        let url = with_query(&Url::parse("https://t.example/token").unwrap(), &form);
        assert!(!url.as_str().contains("s3cret"), "{url}");
    }
}
