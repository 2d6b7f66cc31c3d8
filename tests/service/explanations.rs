//! What is said of a refusal, to the client and in the log: what exactly was wrong, and nothing of what was sent that
//! could be a secret (CONTRACT 3.6, 10; R-RESP-05, R-PRIV-01).

use serde_json::{Value, json};
use toml::Table;

use crate::scene::GATEWAY;
use crate::support::answer::{Answer, Refused};
use crate::support::issuer::{Draft, Issuer};
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, spiffe_id};
use crate::support::{now, pki};

const EXECUTE: &str = "trade.execute";

/// Presents every type of subject token.
const EVERY: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token", "jwt", "id_token", "self_signed", "unsigned_json", "txn_token"]
granted_by = ["trade.stocks"]
subjects = ["*"]
"#;

fn every_kind(table: &mut Table) {
    table.insert("token_types".into(), vec!["access_token", "jwt", "id_token"].into());
    table.insert("id_token_audience".into(), vec!["web-app"].into());
    table.insert("scopes".into(), vec!["trade.stocks"].into());
}

fn present(writ: &Writ, kind: &str, token: &str) -> Answer {
    let kind = format!("urn:ietf:params:oauth:token-type:{kind}");
    writ.workload("gateway").token(&Form::token_exchange(token, &kind, EXECUTE))
}

/// Fails the test unless the refusal says `told`, in the answer and in the log, and repeats nothing of `sent`.
#[track_caller]
fn explained(writ: &Writ, answer: &Answer, reason: &str, told: &str, sent: &str) {
    let Refused { answer, request_id } = answer.invalid_request(reason);
    let text = answer["error_description"].as_str().unwrap();
    assert!(text.contains(told), "{told:?} is not in {text:?}");
    for part in sent.split(['.', ' ', '\n']).filter(|part| part.len() > 12) {
        assert!(!text.contains(part), "a part of the token in {text:?}");
    }
    let line = writ.audit_of(&request_id);
    assert_eq!((&line["cause"], &line["reason"]), (&json!(text), &json!(reason)));
}

/// R-RESP-05: the form of a token.
#[test]
fn a_refusal_says_what_is_wrong_with_the_form_of_a_token() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer_with(&issuer, every_kind).client("gateway", EVERY).start();
    let draft = || issuer.access_token();
    let good = draft().mint();
    let (header, claims) = (draft().header.to_string(), draft().claims.to_string());
    let twice = |object: &str, member: &str| format!("{{{member},{}", object.strip_prefix('{').unwrap());
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    for (token, told) in [
        (format!("{good}\n"), "it ends with a newline"),
        (format!("{good} "), "it ends with white space"),
        (format!("Bearer {good}"), "it begins with `Bearer `"),
        (format!("bearer {good}"), "it begins with `Bearer `"),
        (format!(" {good}"), "it begins with white space"),
        (format!("\"{good}\""), "it is in quotation marks"),
        (format!("{{\"access_token\":\"{good}\"}}"), "it is JSON"),
        (format!("{good}%3D"), "as if it were encoded twice"),
        (format!("{good}="), "its third part, the signature, is not base64url without padding"),
        (format!("{signed_part}+/.{signature}"), "its second part, the claims, is not base64url"),
        (format!("{good}.{signature}.{signature}"), "it has five parts: it is encrypted"),
        (format!("{good}.{signature}"), "this is not a JWT (three dot-separated parts)"),
        ("2YotnFZFEjr1zCsicMWpAA".to_owned(), "this is not a JWT (three dot-separated parts)"),
        ("2YotnFZFEjr1zCsicMWpAA\n".to_owned(), "it ends with a newline"),
        ("Bearer 2YotnFZFEjr1zCsicMWpAA".to_owned(), "it begins with `Bearer `"),
        (draft().claim("filler", "x".repeat(17_000)).mint(), "it is longer than 16 KiB"),
        (draft().header("jku", "https://login.example/keys").mint(), "its header has jku"),
        (draft().header("x5u", "https://login.example/cert").mint(), "its header has x5u"),
        (draft().header("x5c", json!(["MIIB"])).mint(), "its header has x5c"),
        (draft().header("jwk", issuer.key.jwk()).mint(), "its header has jwk"),
        (draft().header("crit", json!(["exp"])).mint(), "its header has crit"),
        (draft().header("zip", "DEF").mint(), "its header has zip"),
        (draft().header("cty", "JWT").mint(), "its header has cty `JWT`"),
        (draft().header("kid", json!(1)).mint(), "kid of its header must be a string"),
        (draft().header("typ", json!(1)).mint(), "typ of its header must be a string"),
        (draft().without_header("alg").mint(), "its header has no alg"),
        (issuer.key.token(&twice(&header, "\"kid\":\"issuer-1\""), &claims), "each member name occurs once"),
        (issuer.key.token(&header, &twice(&claims, "\"sub\":\"alice\"")), "the claim `sub` is repeated"),
        (issuer.key.token(&header, &twice(&claims, "\"s\\u0075b\":\"alice\"")), "the claim `sub` is repeated"),
        (issuer.key.token(&header, &twice(&claims, "\"marker-name\":1,\"marker-name\":2")), "at line 1 column"),
        (issuer.key.token(&header, &twice(&claims, "\"x\":\n{\"sub\":1,\"sub\":2}")), "at line 2 column"),
        (issuer.key.token(&header, &claims[..claims.len() - 1]), "at line 1 column"),
        (issuer.key.token(&header, "[]"), "its claims are not a JSON object"),
        (draft().claim("groups", vec!["g"; 2049]).mint(), "has more than 2048 members"),
        (draft().header("typ", "txntoken+jwt").mint(), "its typ is `txntoken+jwt`"),
        (draft().header("typ", "JWT").mint(), "its typ is `JWT`; as access_token it must be `at+jwt`"),
        (draft().header("typ", "logout+jwt").mint(), "its typ is `logout+jwt`; as access_token"),
        (draft().header("typ", "marker-marker").mint(), "its typ is another one; as access_token"),
        (draft().without_header("typ").mint(), "its typ is absent; as access_token"),
    ] {
        let answer = present(&writ, "access_token", &token);
        explained(&writ, &answer, "subject_token_malformed", told, &token);
    }
    for (kind, token, told) in [
        ("jwt", good.clone(), "its typ is `at+jwt`; as jwt it must be `JWT` or absent"),
        ("id_token", good.clone(), "its typ is `at+jwt`; as id_token it must be `JWT` or absent"),
        ("self_signed", good.clone(), "its typ is `at+jwt`; as self_signed it must be `JWT` or absent"),
        ("txn_token", good.clone(), "its typ is `at+jwt`; as txn_token it must be `txntoken+jwt`"),
        ("jwt", issuer.jwt().claim("nonce", "n").mint(), "the claim `nonce` is one of ID tokens"),
        ("jwt", issuer.jwt().claim("events", json!({})).mint(), "the claim `events` is one of security events"),
        ("id_token", issuer.id_token().claim("htu", "x").mint(), "the claim `htu` is one of"),
        ("unsigned_json", "{\"sub\":\"ann\",\"sub\":\"bob\"}".to_owned(), "the claim `sub` is repeated"),
        ("unsigned_json", "{\"sub\":\"ann\"".to_owned(), "at line 1 column"),
    ] {
        let answer = present(&writ, kind, &token);
        explained(&writ, &answer, "subject_token_malformed", told, &token);
    }
}

/// R-RESP-05: what a token says.
#[test]
fn a_refusal_says_which_claim_is_wrong_and_how() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer_with(&issuer, every_kind).client("gateway", EVERY).start();
    let draft = || issuer.access_token();
    let claims = "subject_token_claims_invalid";
    let audience = "subject_token_audience_mismatch";
    let unknown = "subject_token_issuer_unknown";
    let signature = "subject_token_signature_invalid";
    let later = "subject_token_not_yet_valid";
    let missing = |name: &str| (draft().without(name), claims, format!("`{name}` is missing"));
    let mut cases: Vec<(Draft<'_>, &str, String)> =
        ["aud", "sub", "client_id", "jti", "iat", "exp"].map(missing).into();
    cases.extend(
        [
            (draft().claim("aud", 1), claims, "`aud` must be a string or an array of strings"),
            (draft().claim("aud", vec!["https://api.example"; 257]), claims, "`aud` has more than 256 names"),
            (draft().claim("sub", 7), claims, "`sub` must be a string"),
            (draft().claim("sub", ""), claims, "`sub` is empty"),
            (
                draft().claim("exp", "1793000000"),
                claims,
                "`exp` must be a number of seconds since 1970: it is not a number",
            ),
            (draft().claim("exp", now() * 1000), claims, "`exp` must be a number of seconds since 1970: it looks like"),
            (draft().claim("exp", 0), claims, "it is before 2001"),
            (draft().claim("nbf", -1), claims, "`nbf` must be a number of seconds since 1970: it is out of range"),
            (draft().claim("scope", json!({})), claims, "an array of words"),
            (draft().claim("cnf", json!({"jkt": "x"})), claims, "vouches_for_bound_tokens"),
            (draft().claim("act", json!({"sub": "x"})), claims, "the claim `act`"),
            (draft().claim("sub", "gateway"), claims, "a client's own"),
            (
                draft().claim("aud", "https://other.example"),
                audience,
                "none of the audiences configured for its issuer",
            ),
            (draft().claim("nbf", now() + 3600), later, "`nbf` is 3"),
            (draft().claim("iat", now() + 3600), later, "`iat` is 3"),
            (draft().without("iss"), unknown, "`iss` is missing"),
            (draft().claim("iss", 1), unknown, "`iss` must be a string"),
            (draft().claim("iss", "https://other.example"), unknown, "no subject issuer is configured"),
            (draft().header("alg", "none"), signature, "its alg is none"),
            (draft().header("alg", "HS256"), signature, "its alg is symmetric"),
            (draft().header("alg", "ES512"), signature, "its alg is not supported"),
            (draft().header("alg", "ES384"), signature, "not one of those configured for its issuer"),
            (draft().header("alg", "RS256"), signature, "its alg does not fit the key"),
        ]
        .map(|(draft, reason, told)| (draft, reason, told.to_owned())),
    );
    for (draft, reason, told) in cases {
        let token = draft.mint();
        explained(&writ, &present(&writ, "access_token", &token), reason, &told, &token);
    }
    let stranger = Key::es256("issuer-1");
    let token = draft().signed_by(&stranger).mint();
    explained(&writ, &present(&writ, "access_token", &token), signature, "was not made with the key", &token);
    let token = draft().header("kid", "unheard-of").mint();
    let answer = present(&writ, "access_token", &token);
    explained(&writ, &answer, "subject_token_key_unknown", "publishes no key with the kid", &token);
    let token = issuer.id_token().claim("aud", vec!["web-app", "other"]).mint();
    explained(&writ, &present(&writ, "id_token", &token), claims, "`azp` is missing", &token);
    let token = issuer.id_token().without("sub").mint();
    explained(&writ, &present(&writ, "id_token", &token), claims, "`sub` is missing", &token);
}

/// R-RESP-05: which parameter, and how; a name that is not known here is not repeated, since it may be anything.
#[test]
fn a_refusal_says_which_parameter_is_wrong_and_how() {
    const SECRET: &str = "2YotnFZFEjr1zCsicMWpAA";
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).start();
    let good = Form::exchange(&issuer.access_token().mint(), EXECUTE);
    let jws = issuer.access_token().mint();
    for (more, reason, told) in [
        ("scope=x".to_owned(), "parameter_repeated", "scope is sent more than once (parameters 4 and 7 of the form)"),
        (format!("{SECRET}=1&{SECRET}=2"), "parameter_repeated", "(parameters 7 and 8 of the form)"),
        (format!("{jws}=1&{jws}=2"), "parameter_repeated", "a parameter is sent more than once"),
        (format!("client_id={SECRET}%"), "parameter_malformed", "client_id is malformed: the percent sign at byte 23"),
        (format!("{SECRET}=%ff"), "parameter_malformed", "in parameter 7, byte 1 is not UTF-8"),
        ("x=%00".to_owned(), "parameter_malformed", "in parameter 7, byte 1 is NUL"),
        (
            "request_details=[1]".to_owned(),
            "parameter_malformed",
            "request_details is malformed: it is not the text of",
        ),
        (format!("request_details={{\"{jws}\":1,%0A\"{jws}\":2}}"), "parameter_malformed", "at line 2 column"),
        (format!("request_context={{\"a\":{SECRET}}}"), "parameter_malformed", "at line 1 column"),
        (format!("actor_token={SECRET}"), "parameter_unsupported", "does not say who acts"),
        (format!("client_secret={SECRET}"), "parameter_unsupported", "known by its TLS certificate alone"),
    ] {
        let body = format!("{}&{more}", good.encode());
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = writ.workload("gateway").post(&headers, body.as_bytes());
        explained(&writ, &answer, reason, told, &format!("{more} {SECRET} {jws}"));
    }
    let log = writ.log_text();
    assert!(!log.contains(SECRET) && jws.split('.').skip(1).all(|part| !log.contains(part)));
}

/// An unknown client learns nothing; the log says what it presented, and which policy nearly matches.
#[test]
fn the_log_says_what_an_unknown_client_presented_and_which_policy_is_similar() {
    let writ = Setup::new().client("gateway", GATEWAY).client("mailer", "").start();
    let mut told = Vec::new();
    for (uri, near) in [
        (spiffe_id("Gateway"), Some("gateway has tls_client_auth_san_uri")),
        (spiffe_id("gateway").replace("spiffe://", "spiffe://other-"), Some("in another trust domain")),
        (spiffe_id("gatewai"), Some("differs in at most two characters")),
        (format!("{}/", spiffe_id("mailer")), Some("mailer has")),
        (spiffe_id("something-else-altogether"), None),
    ] {
        let mut params = pki::client("somebody");
        params.subject_alt_names = vec![pki::uri(&uri)];
        let credentials = writ.setup.ca.issue(params);
        let answer = writ.workload_with(&credentials).token(&Form::client_credentials(EXECUTE));
        let refused = answer.invalid_client("client_unknown");
        told.push(refused.answer.to_string());
        let line = writ.wait_for_log("what it offered", |line| {
            line["request_id"] == refused.request_id.as_str() && line["names"].is_string()
        });
        let names = line["names"].as_str().unwrap();
        assert!(names.contains(&format!("san_uri {uri}")) && names.contains("subject_dn CN=somebody"), "{names}");
        assert_eq!(line["thumbprint"], writ.audit_of(&refused.request_id)["client_certificate"]);
        match near {
            Some(near) => assert!(line["near"].as_str().unwrap().contains(near), "{line}"),
            None => assert!(line["near"].is_null(), "{line}"),
        }
    }
    assert!(told.iter().all(|answer| *answer == told[0]), "{told:?}");
}

/// CONTRACT 10: `WRIT_LOG=debug` explains a decision step by step, each line with its request, and no token among it.
#[test]
fn the_debug_log_explains_a_decision_and_contains_no_token() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).environment("WRIT_LOG", "debug").start();
    let token = issuer.access_token().mint();
    let issued = writ.workload("gateway").token(&Form::exchange(&token, EXECUTE)).issued();
    let lines = |request_id: &str| -> Vec<Value> {
        writ.audit_of(request_id);
        let lines = writ.log_text();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_request = |line: &Value| line["request_id"] == request_id || line["span"]["request_id"] == request_id;
        lines.filter(of_request).collect()
    };
    let steps = lines(&issued.request_id);
    let step =
        |message: &str| steps.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message}"));
    assert_eq!(step("the certificate is a client's")["name"], spiffe_id("gateway"));
    assert_eq!(step("the subject token is signed by its issuer")["kid"], "issuer-1");
    assert_eq!(step("the subject is verified")["sub"], "alice");
    step("a token is issued");
    let rules = |steps: &[Value]| -> Vec<(String, bool)> {
        let rules = steps.iter().filter(|line| line["message"] == "a rule was applied");
        rules.map(|line| (line["rule"].as_str().unwrap().to_owned(), line["passed"].as_bool().unwrap())).collect()
    };
    let passed = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect::<Vec<_>>();
    assert_eq!(rules(&steps), passed(&["scope", "accept", "granted_by"]));

    let narrow = issuer.access_token().claim("scope", "other").mint();
    let pasted = format!("{EXECUTE} {token}");
    for (form, last) in [
        (Form::exchange(&narrow, EXECUTE), "granted_by"),
        (Form::exchange(&token, &pasted), "scope"),
        (Form::client_credentials(EXECUTE), "accept"),
    ] {
        let answer = writ.workload("gateway").token(&form);
        let steps = lines(&answer.request_id());
        assert_eq!(rules(&steps).last(), Some(&(last.to_owned(), false)));
        assert!(steps.iter().any(|line| line["message"] == "the request is refused"));
    }
    let log = writ.log_text();
    for token in [&token, &narrow, &issued.token] {
        assert!(token.split('.').all(|part| !log.contains(part)), "a part of a token in the log");
    }
}
