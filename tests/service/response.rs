//! Answers of the token endpoint: members, headers, errors (CONTRACT 3.3, 3.6; A-135; area RESP). What a refusal says
//! in its description is tested in `explanations`, that each reason can be provoked in `reasons`.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::answer::Answer;
use crate::support::issuer::{Issuer, Mode};
use crate::support::jose::Key;
use crate::support::now;
use crate::support::workload::{FORM, Form, TXN_TOKEN};
use crate::support::writ::{Setup, Writ};

const REFUND: &str = "order.refund";

const GATEWAY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token", "client_credentials"]
granted_by = ["trade.stocks"]
"#;

fn gateway(issuer: &Issuer) -> Writ {
    Setup::new().issuer(issuer).client("gateway", GATEWAY).start()
}

#[track_caller]
fn ask(writ: &Writ, form: &Form) -> Answer {
    writ.workload("gateway").token(form)
}

fn good() -> Form {
    Form::client_credentials(REFUND)
}

/// R-RESP-01, R-RESP-03
#[test]
fn a_success_is_json_with_a_txn_token_its_scope_and_its_expiry() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    for form in [good(), Form::exchange(&issuer.access_token().mint(), REFUND)] {
        let before = now();
        let answer = ask(&writ, &form);
        let body = answer.response.json();
        assert_eq!((answer.status(), answer.response.header("content-type")), (200, Some("application/json")));
        assert_eq!((&body["issued_token_type"], &body["token_type"]), (&json!(TXN_TOKEN), &json!("N_A")));
        let issued = answer.issued();
        assert_eq!((&issued.header["typ"], issued.exp() - issued.iat()), (&json!("txntoken+jwt"), 60));
        let expires_in = issued.answer["expires_in"].as_u64().expect("whole seconds");
        assert!(before + expires_in <= issued.exp() && issued.exp() <= now() + expires_in);
        assert_eq!((&issued.answer["scope"], &issued.claims["scope"]), (&json!(REFUND), &json!(REFUND)));
    }
}

/// R-RESP-02
#[test]
fn there_is_never_a_refresh_token() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    for form in [good(), Form::exchange(&issuer.access_token().mint(), REFUND)] {
        let body = ask(&writ, &form).issued().answer;
        assert!(!body.to_string().contains("refresh"), "{body}");
    }
    ask(&writ, &good().set("scope", "order.refund offline_access")).invalid_scope("purpose_not_allowed");
    let refresh = "urn:ietf:params:oauth:token-type:refresh_token";
    ask(&writ, &good().set("requested_token_type", refresh)).invalid_request("parameter_unsupported");
}

/// R-RESP-04
#[test]
fn no_answer_may_be_cached() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let client = writ.workload("gateway");
    issuer.set_mode(Mode::Down);
    let body = good().encode();
    let answers = [
        client.token(&good()),
        client.token(&good().without("scope")),
        client.token(&good().set("client_id", "other")),
        client.connect().get("GET", "/token"),
        client.post(&[("Content-Type", FORM)], format!("{body}&x={}", "a".repeat(64 * 1024)).as_bytes()),
        client.post(&[], body.as_bytes()),
        client.token(&Form::exchange(&issuer.access_token().header("kid", "new").mint(), REFUND)),
    ];
    assert_eq!(answers.each_ref().map(Answer::status), [200, 400, 401, 405, 413, 415, 503]);
    for answer in answers {
        assert_eq!(answer.response.header("cache-control"), Some("no-store"));
        assert_eq!(answer.response.header("pragma"), Some("no-cache"));
    }
}

/// R-RESP-05, R-SUBJ-01: `invalid_request` for each of them, counted and logged by its reason.
#[test]
fn each_fault_of_a_subject_token_has_its_own_reason_and_description() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let stranger = Key::es256("issuer-1");
    let draft = || issuer.access_token();
    let faults = [
        ("a.b.c".to_owned(), "subject_token_malformed"),
        (draft().without("sub").mint(), "subject_token_claims_invalid"),
        (draft().claim("exp", now() - 60).mint(), "subject_token_expired"),
        (draft().claim("nbf", now() + 60).mint(), "subject_token_not_yet_valid"),
        (draft().signed_by(&stranger).mint(), "subject_token_signature_invalid"),
        (draft().header("kid", "unheard-of").mint(), "subject_token_key_unknown"),
        (draft().claim("aud", "https://other.example").mint(), "subject_token_audience_mismatch"),
        (draft().claim("iss", "https://other.example").mint(), "subject_token_issuer_unknown"),
    ];
    let mut descriptions = BTreeSet::new();
    for (token, reason) in &faults {
        let refused = ask(&writ, &Form::exchange(token, REFUND)).invalid_request(reason);
        descriptions.insert(refused.answer["error_description"].to_string());
        assert_eq!(writ.audit_of(&refused.request_id)["reason"], *reason);
        assert_eq!(writ.metric("writ_token_requests_total", &[("reason", reason)]), Some(1.0));
    }
    let unsupported = Form::token_exchange("x.y.z", "urn:ietf:params:oauth:token-type:saml2", REFUND);
    let refused = ask(&writ, &unsupported).invalid_request("subject_token_type_unsupported");
    descriptions.insert(refused.answer["error_description"].to_string());
    assert_eq!(descriptions.len(), faults.len() + 1, "{descriptions:?}");
}

/// A-135, R-RESP-05
#[test]
fn an_error_repeats_nothing_that_was_sent() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let marked = issuer.access_token().claim("sub", "marker").claim("aud", "marker").mint();
    for answer in [
        ask(&writ, &Form::exchange(&marked, REFUND)),
        ask(&writ, &Form::exchange("marker", REFUND)),
        ask(&writ, &Form::exchange(&issuer.access_token().claim("sub", "marker\u{1}subject").mint(), REFUND)),
        ask(&writ, &good().set("scope", "marker")),
        ask(&writ, &good().set("scope", "marker \"\\ \u{1}")),
        ask(&writ, &good().set("audience", "marker")),
        ask(&writ, &good().set("grant_type", "marker")),
        ask(&writ, &good().set("requested_subject", "marker")),
        ask(&writ, &good().set("client_id", "marker")),
        ask(&writ, &good().set("request_details", "marker")),
        ask(&writ, &good().set("marker", "1").add("marker", "2")),
    ] {
        let text = answer.response.text();
        assert!(answer.status() >= 400 && !text.contains("marker"), "{text}");
        answer.refused(answer.status(), answer.response.json()["error"].as_str().unwrap(), &answer.reason());
    }
}
