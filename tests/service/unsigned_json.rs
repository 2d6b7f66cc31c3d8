//! A client says whom it acts for, in plain JSON (CONTRACT 3.2; R-SUBJ-17, R-SUBJ-18; A-067).

use serde_json::json;

use crate::support::answer::Answer;
use crate::support::now;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const UNSIGNED_JSON: &str = "urn:ietf:params:oauth:token-type:unsigned_json";

const POLICY: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["unsigned_json"]
subjects = ["*@trust-domain.example"]
tctx.subject = { folder = "folder" }

[[purpose]]
scope = "mailbox.report"
accept = ["client_credentials"]

[[purpose]]
scope = "mailbox.sort"
accept = ["unsigned_json"]
subjects = ["*"]
lifetime = "5m"

[[purpose]]
scope = "mailbox.move"
accept = ["unsigned_json"]
"#;

fn mailer() -> Writ {
    Setup::new().client("mailer", POLICY).start()
}

fn ask(writ: &Writ, subject: &str, scope: &str) -> Answer {
    writ.workload("mailer").token(&Form::token_exchange(subject, UNSIGNED_JSON, scope))
}

/// R-SUBJ-17
#[test]
fn a_client_names_a_subject_within_its_policy() {
    let writ = mailer();
    let subject = r#"{"sub":"ann@trust-domain.example","folder":{"id":100000000000000000001},"other":1}"#;
    let issued = ask(&writ, subject, "mailbox.deliver").issued();
    assert_eq!(issued.claims["sub"], "ann@trust-domain.example");
    assert_eq!(issued.typed.tctx.raw("folder"), Some(r#"{"id":100000000000000000001}"#));
    assert_eq!(issued.typed.tctx.iter().count(), 1);
    assert_eq!(ask(&writ, r#" {"sub":"ann"} "#, "mailbox.sort").issued().claims["sub"], "ann", "white space around it");
    assert_eq!(writ.audit_of(&issued.request_id)["source"], "unsigned_json");
}

/// A-067, R-SUBJ-18: what the object says besides is no claim of the token.
#[test]
fn other_members_are_dropped() {
    let writ = mailer();
    let smuggled = json!({
        "sub": "ann@trust-domain.example", "aud": "other.example", "iss": "https://evil.example", "txn": "t-1",
        "req_wl": "gateway", "scope": "account.purge", "tctx": {"a": 1}, "rctx": {"delayed": {"use": 1}}, "iat": "x",
        "nbf": {}, "exp": now() + 60
    });
    let issued = ask(&writ, &smuggled.to_string(), "mailbox.sort").issued();
    assert_eq!((&issued.claims["aud"], &issued.claims["req_wl"]), (&json!("trust-domain.example"), &json!("mailer")));
    assert!(issued.claims.get("tctx").is_none() && issued.claims.get("rctx").is_none());
    assert_ne!(issued.txn(), "t-1");
}

/// A-067, R-SUBJ-17
#[test]
fn anything_but_a_json_object_with_a_subject_is_refused() {
    let writ = mailer();
    for text in [
        "ann@trust-domain.example",
        "[]",
        "\"x\"",
        "null",
        "{",
        r#"{"sub":"a"} x"#,
        r#"{"sub":"a","sub":"b"}"#,
        r#"{"sub":"a","s\u0075b":"b"}"#,
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
        "eyJzdWIiOiJhIn0",
        &format!("{{\"sub\":{}{}}}", "[".repeat(40), "]".repeat(40)),
        &format!("{{\"sub\":\"a\",\"x\":\"{}\"}}", "x".repeat(17_000)),
    ] {
        ask(&writ, text, "mailbox.sort").invalid_request("subject_token_malformed");
    }
    for text in ["{}", r#"{"sub":1}"#, r#"{"sub":null}"#, r#"{"sub":""}"#, r#"{"sub":"a\u0000b"}"#, r#"{"SUB":"a"}"#] {
        ask(&writ, text, "mailbox.sort").invalid_request("subject_token_claims_invalid");
    }
    let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(256));
    ask(&writ, &long, "mailbox.sort").invalid_request("subject_token_claims_invalid");
}

/// R-SUBJ-02, R-SUBJ-17
#[test]
fn an_expiry_is_honoured() {
    let writ = mailer();
    let until = |exp: serde_json::Value| ask(&writ, &json!({"sub": "ann", "exp": exp}).to_string(), "mailbox.sort");
    let refused = until(json!(now() - 30)).invalid_request("subject_token_expired");
    assert!(refused.answer["expired_at"].as_u64().is_some_and(|at| at < now()));
    let exp = now() + 30;
    assert_eq!(until(json!(exp)).issued().exp(), exp + 10, "with the tolerance for other clocks");
    for exp in [json!("soon"), json!(null), json!(0), json!(-1), json!(1e18), json!(true)] {
        until(exp).invalid_request("subject_token_claims_invalid");
    }
}

/// R-SUBJ-18, R-POL-05
#[test]
fn only_subjects_and_purposes_of_the_policy_are_granted() {
    let writ = mailer();
    let stranger = r#"{"sub":"ann@elsewhere.example","folder":1}"#;
    ask(&writ, stranger, "mailbox.deliver").unauthorized_client("subject_not_allowed");
    ask(&writ, r#"{"sub":"ann@trust-domain.example"}"#, "mailbox.move").unauthorized_client("subject_not_allowed");
    ask(&writ, stranger, "mailbox.report").unauthorized_client("source_not_allowed");
    ask(&writ, r#"{"sub":"ann@trust-domain.example"}"#, "mailbox.deliver")
        .invalid_request("subject_token_claims_invalid");
}
