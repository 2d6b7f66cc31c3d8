//! Area RESP: responses, errors, headers.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::issuer::{Draft, Issuer, Mode};
use crate::support::jose::Key;
use crate::support::now;
use crate::support::workload::{ACCESS_TOKEN, FORM, Form, TXN_TOKEN};
use crate::support::writ::{Setup, Writ};

const REFUND: &str = "order.refund";
const CLOSE: &str = "account.close";

const GATEWAY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token", "client_credentials"]
granted_by = ["trade.stocks"]
"#;

/// What a later job redeems, so that it must be recorded.
const ACCOUNTS: &str = r#"
[[purpose]]
scope = "account.close"
accept = ["client_credentials"]
"#;

const JOB: &str = r#"
[[purpose]]
scope = "account.close"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["accounts"]
max_age = "30d"
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

/// R-RESP-01
#[test]
fn a_success_is_json_with_a_txn_token() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    for form in [good(), Form::exchange(&issuer.access_token().mint(), REFUND)] {
        let answer = ask(&writ, &form);
        let body = answer.response.json();
        assert_eq!((answer.status(), answer.response.header("content-type")), (200, Some("application/json")));
        assert_eq!((&body["issued_token_type"], &body["token_type"]), (&json!(TXN_TOKEN), &json!("N_A")));
        assert_eq!(answer.issued().header["typ"], "txntoken+jwt");
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

/// R-RESP-03
#[test]
fn a_success_tells_the_scope_and_when_the_token_expires() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let before = now();
    let issued = ask(&writ, &good()).issued();
    let expires_in = issued.answer["expires_in"].as_u64().expect("whole seconds");
    assert!(before + expires_in <= issued.exp() && issued.exp() <= now() + expires_in);
    assert_eq!((&issued.answer["scope"], &issued.claims["scope"]), (&json!(REFUND), &json!(REFUND)));
}

/// R-RESP-04
#[test]
fn no_answer_is_stored_on_its_way() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let client = writ.workload("gateway");
    issuer.be(Mode::Down);
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

/// R-RESP-05
#[test]
fn each_fault_of_a_token_has_its_own_code_and_sentence() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let stranger = Key::es256("issuer-1");
    let draft = || issuer.access_token();
    let faults: [(Draft<'_>, &str); 6] = [
        (draft().claim("exp", now() - 60), "subject_token_expired"),
        (draft().claim("nbf", now() + 60), "subject_token_not_yet_valid"),
        (draft().signed_by(&stranger), "subject_token_signature_invalid"),
        (draft().header("kid", "unheard-of"), "subject_token_key_unknown"),
        (draft().claim("aud", "https://other.example"), "subject_token_audience_mismatch"),
        (draft().claim("iss", "https://other.example"), "subject_token_issuer_unknown"),
    ];
    let mut sentences = BTreeSet::new();
    for (draft, reason) in &faults {
        let refused = ask(&writ, &Form::exchange(&draft.mint(), REFUND)).invalid_request(reason);
        sentences.insert(refused.answer["error_description"].to_string());
        assert_eq!(writ.audit_of(&refused.request_id)["reason"], *reason);
        assert_eq!(writ.metric("writ_token_requests_total", &[("reason", reason)]), Some(1.0));
    }
    let unsupported = Form::token_exchange("x.y.z", "urn:ietf:params:oauth:token-type:saml2", REFUND);
    let refused = ask(&writ, &unsupported).invalid_request("subject_token_type_unsupported");
    sentences.insert(refused.answer["error_description"].to_string());
    assert_eq!(sentences.len(), faults.len() + 1, "{sentences:?}");
}

/// R-RESP-05
#[test]
fn an_error_repeats_nothing_that_was_sent() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let marked = issuer.access_token().claim("sub", "marker").claim("aud", "marker").mint();
    for answer in [
        ask(&writ, &Form::exchange(&marked, REFUND)),
        ask(&writ, &Form::exchange("marker", REFUND)),
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

/// R-RESP-06
#[test]
fn an_unknown_client_is_401_without_a_challenge() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let stranger = writ.workload("nobody");
    let headers = [("Content-Type", FORM), ("Authorization", "Basic eDp5")];
    for answer in [stranger.token(&good()), stranger.post(&headers, good().encode().as_bytes())] {
        answer.refused(401, "invalid_client", "client_unknown");
        assert_eq!(answer.response.header("www-authenticate"), None);
    }
}

/// R-RESP-07
#[test]
fn each_condition_has_its_status_and_error() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let token = issuer.access_token().mint();
    let exchange = || Form::exchange(&token, REFUND);
    for (form, status, error) in [
        (good().without("audience"), 400, "invalid_request"),
        (good().add("audience", "x"), 400, "invalid_request"),
        (good().set("request_details", "[]"), 400, "invalid_request"),
        (good().set("client_secret", "x"), 400, "invalid_request"),
        (good().set("client_id", "other"), 401, "invalid_client"),
        (good().set("requested_subject", "ann"), 400, "unauthorized_client"),
        (good().set("grant_type", "password"), 400, "unsupported_grant_type"),
        (good().set("requested_token_type", ACCESS_TOKEN), 400, "invalid_request"),
        (good().set("audience", "other.example"), 400, "invalid_target"),
        (good().set("resource", "https://api.example"), 400, "invalid_target"),
        (good().set("scope", "order.burn"), 400, "invalid_scope"),
        (exchange().set("subject_token", &issuer.access_token().claim("scope", "x").mint()), 400, "invalid_scope"),
        (exchange().set("subject_token", &issuer.access_token().without("scope").mint()), 400, "invalid_scope"),
        (exchange().set("subject_token", "x"), 400, "invalid_request"),
        (exchange().set("subject_token", &issuer.access_token().claim("exp", 1).mint()), 400, "invalid_request"),
        (exchange().set("subject_token_type", TXN_TOKEN), 400, "unauthorized_client"),
    ] {
        let answer = ask(&writ, &form);
        assert_eq!((answer.status(), answer.response.json()["error"].as_str()), (status, Some(error)), "{form:?}");
    }
    let client = writ.workload("gateway");
    client.connect().get("GET", "/token").refused(405, "invalid_request", "method_not_allowed");
    let huge = vec![b'a'; 64 * 1024 + 1];
    client.post(&[("Content-Type", FORM)], &huge).refused(413, "invalid_request", "body_too_large");
    ask(&writ, &exchange()).issued();
}

/// R-RESP-07
#[test]
fn a_client_above_its_rate_is_told_when_to_come_back() {
    let writ = Setup::new().client("gateway", ACCOUNTS).set("limits.requests_per_second_per_client", 1).start();
    let client = writ.workload("gateway");
    let limited = (0..50).map(|_| client.token(&Form::client_credentials(CLOSE))).find(|answer| answer.status() != 200);
    let limited = limited.expect("50 requests are more than 1 a second");
    limited.refused(429, "temporarily_unavailable", "rate_limited");
    assert!(limited.response.header("retry-after").is_some());
}

/// R-RESP-08
#[test]
fn an_issuer_that_cannot_be_asked_is_no_yes() {
    let issuer = Issuer::start();
    issuer.be(Mode::Down);
    let writ = gateway(&issuer);
    let token = issuer.access_token().mint();
    let answer = ask(&writ, &Form::exchange(&token, REFUND));
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// R-RESP-08
#[test]
fn no_token_leaves_that_cannot_be_recorded() {
    let mut writ = Setup::new().client("accounts", ACCOUNTS).client("job", JOB).start();
    assert_eq!(writ.terminate(), 0);
    writ.start();
    let ask = || writ.workload("accounts").token(&Form::client_credentials(CLOSE));
    writ.fill_disk(true);
    let refused = ask().refused(503, "temporarily_unavailable", "store_unavailable");
    assert!(refused.answer.get("access_token").is_none());
    writ.fill_disk(false);
    eventually("the store is back", || (ask().status() == 200).then_some(()));
}

/// R-RESP-08
#[test]
fn no_token_leaves_without_its_line_in_the_log() {
    let mut writ = Setup::new().client("accounts", ACCOUNTS).start();
    writ.close_log();
    let client = writ.workload("accounts");
    let ask = || client.token(&Form::client_credentials(CLOSE));
    let refused = eventually("the log is found closed", || Some(ask()).filter(|answer| answer.status() != 200));
    refused.refused(503, "temporarily_unavailable", "audit_unavailable");
    ask().refused(503, "temporarily_unavailable", "audit_unavailable");
}
