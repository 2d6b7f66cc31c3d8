//! What the log and the metrics say of requests, and what they never contain (CONTRACT 10; A-131 to A-135; area PRIV).

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene;
use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::issuer::Issuer;
use crate::support::jose::Key;
use crate::support::workload::{FORM, Form, Workload};
use crate::support::writ::{Setup, Writ};

const PURGE: &str = "account.purge";

/// Starts transactions with access tokens; keeps two members of what it is sent.
const GATEWAY: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["access_token"]
granted_by = ["cancel"]
lifetime = "1s"
request_details = "any.json"
tctx.copy = ["contract"]
tctx.subject = { level = "level" }
rctx.copy = ["req_ip"]
"#;

const BATCH: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["gateway"]
max_age = "1d"
"#;

fn setup(issuer: &Issuer) -> Setup {
    let setup = Setup::new().issuer(issuer).client("gateway", GATEWAY).client("batch", BATCH);
    setup.write("policies/any.json", "{}");
    setup
}

fn access_token(issuer: &Issuer) -> String {
    issuer.access_token().claim("scope", "cancel").claim("level", "gold").claim("email", "alice@mail.example").mint()
}

fn exchange(writ: &Writ, access_token: &str) -> Answer {
    exchange_as(&writ.workload("gateway"), access_token)
}

fn exchange_as(client: &Workload, access_token: &str) -> Answer {
    let form = Form::exchange(access_token, PURGE)
        .set("request_details", r#"{"contract":"C-marker","iban":"DE-marker"}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.7","session":"S-marker"}"#);
    client.token(&form)
}

fn sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// R-PRIV-01: with everything logged that can be. The harness looks through the log of every other test too.
#[test]
fn no_token_is_in_the_log_the_metrics_or_an_error() {
    let login = Issuer::start();
    let writ = setup(&login).environment("WRIT_LOG", "trace").start();
    let presented = access_token(&login);
    let issued = exchange(&writ, &presented).issued();
    issued.wait_until_expired();
    let redeemed = writ.workload("batch").token(&Form::redeem(&issued.token, PURGE)).issued();
    let forged = format!("{}.{}", redeemed.token.rsplit_once('.').unwrap().0, "A".repeat(86));
    let opaque = "opaque-access-token-marker";
    let mut told = String::new();
    for (client, form) in [
        ("gateway", Form::exchange(&issued.token, PURGE)),
        ("gateway", Form::exchange(opaque, PURGE)),
        ("gateway", Form::exchange(opaque, opaque)),
        ("gateway", Form::exchange(&presented, "other")),
        ("batch", Form::redeem(&forged, PURGE)),
        ("batch", Form::redeem(&redeemed.token, PURGE)),
        ("batch", Form::redeem(&issued.token, PURGE).set("client_secret", "secret-marker")),
        ("batch", Form::redeem(&issued.token, PURGE).set("client_assertion", &presented)),
        ("nobody", Form::redeem(&issued.token, PURGE)),
    ] {
        let answer = writ.workload(client).token(&form);
        assert_ne!(answer.status(), 200);
        told += &answer.response.text();
    }
    let log = writ.log_text();
    assert!(log.contains("\"TRACE\""), "everything is logged");
    for (place, text) in [("log", log), ("metrics", writ.metrics()), ("errors", told)] {
        for token in [&presented, &issued.token, &redeemed.token, &forged] {
            for part in token.split('.').skip(1) {
                assert!(!text.contains(part), "a part of a token in the {place}");
            }
        }
        for secret in [opaque, "secret-marker", "eyJ", "PRIVATE KEY"] {
            assert!(!text.contains(secret), "{secret} in the {place}");
        }
    }
}

/// R-PRIV-02, R-PRIV-03: tokens are named by their digests. There is one trust domain, and `client` is `req_wl`.
#[test]
fn an_issued_token_has_one_audit_record_with_everything_about_it() {
    let login = Issuer::start();
    let writ = setup(&login).start();
    let presented = access_token(&login);
    let credentials = writ.setup.credentials("gateway");
    let issued = exchange_as(&writ.workload_with(&credentials), &presented).issued();
    let line = writ.audit_of(&issued.request_id);
    for (name, value) in [
        ("event", json!("token_issued")),
        ("target", json!("audit")),
        ("client", json!("gateway")),
        ("client_certificate", json!(credentials.thumbprint())),
        ("source", json!("access_token")),
        ("subject_issuer", json!(login.url())),
        ("subject_token_sha256", json!(sha256(&presented))),
        ("sub", json!("alice")),
        ("scope", json!(PURGE)),
        ("txn", json!(issued.txn())),
        ("token_sha256", json!(sha256(&issued.token))),
        ("kid", json!(issued.kid())),
        ("exp", json!(issued.exp())),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    for absent in ["reason", "use", "delayed_by", "key_state", "retry"] {
        assert_eq!(line.get(absent), None, "what does not apply is absent");
    }
    let digest = line["policies"].as_str().unwrap();
    assert_eq!(writ.metric("writ_policies_info", &[("digest", digest)]), Some(1.0), "the version of the policies");
    assert!(line["level"].is_string(), "{line}");
    let written = chrono::DateTime::parse_from_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
    assert!(written >= chrono::DateTime::<chrono::Utc>::from(UNIX_EPOCH + Duration::from_secs(issued.iat())));
    assert_eq!(writ.audit().iter().filter(|line| line["request_id"] == issued.request_id.as_str()).count(), 1);
    for member in ["C-marker", "DE-marker", "S-marker", "192.0.2.7", "alice@mail.example"] {
        assert!(!writ.log_text().contains(member), "{member}");
    }
}

/// R-PRIV-03
#[test]
fn a_refusal_has_one_audit_record_with_its_codes() {
    let login = Issuer::start();
    let writ = setup(&login).start();
    let presented = login.access_token().mint();
    let refused = exchange(&writ, &presented).invalid_scope("scope_exceeds_subject_token");
    let line = writ.audit_of(&refused.request_id);
    for (name, value) in [
        ("event", "token_refused"),
        ("error", "invalid_scope"),
        ("reason", "scope_exceeds_subject_token"),
        ("client", "gateway"),
        ("source", "access_token"),
        ("subject_issuer", &login.url()),
        ("subject_token_sha256", &sha256(&presented)),
        ("scope", PURGE),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line["policies"].is_string() && line["timestamp"].is_string(), "{line}");
    assert_eq!(writ.audit().iter().filter(|line| line["request_id"] == refused.request_id.as_str()).count(), 1);
    for absent in ["txn", "token_sha256", "kid", "exp"] {
        assert_eq!(line.get(absent), None, "{absent} in {line}");
    }
}

/// A-132, R-PRIV-04, R-RESP-08: what cannot be recorded does not happen, redemption included.
#[test]
fn no_token_leaves_once_the_audit_log_cannot_be_written() {
    let login = Issuer::start();
    let mut writ = setup(&login).start();
    let presented = access_token(&login);
    let original = exchange(&writ, &presented).issued();
    original.wait_until_expired();
    writ.close_log();
    let unavailable = |answer: &Answer| drop(answer.refused(503, "temporarily_unavailable", "audit_unavailable"));
    eventually("the log is found closed", || {
        let answer = exchange(&writ, &presented);
        (answer.status() != 200).then(|| unavailable(&answer))
    });
    unavailable(&writ.workload("batch").token(&Form::redeem(&original.token, PURGE)));
    let outcome = [("outcome", "error"), ("reason", "audit_unavailable")];
    assert!(writ.metric("writ_token_requests_total", &outcome).is_some(), "to be alerted on");
}

/// R-PRIV-05
#[test]
fn metrics_name_no_subject_transaction_token_or_address() {
    let login = Issuer::start();
    let writ = setup(&login).start();
    let presented = access_token(&login);
    let issued = exchange(&writ, &presented).issued();
    issued.wait_until_expired();
    writ.workload("batch").token(&Form::redeem(&issued.token, PURGE)).issued();
    let metrics = writ.metrics();
    assert!(metrics.contains("client=\"gateway\""), "{metrics}");
    for personal in ["alice", issued.txn(), &sha256(&issued.token), &sha256(&presented), "192.0.2.7", "127.0.0.1"] {
        assert!(!metrics.contains(personal), "{personal}");
    }
}

fn good() -> Form {
    Form::client_credentials("mailbox.deliver")
}

/// CONTRACT 10
#[test]
fn requests_that_are_refused_unread_are_audited_too() {
    let writ = scene::shared_mailer();
    let stranger = writ.workload("nobody").token(&good()).invalid_client("client_unknown");
    let line = writ.audit_of(&stranger.request_id);
    assert_eq!((&line["reason"], line.get("client")), (&json!("client_unknown"), None));
    let client = writ.workload("mailer");
    let json_body = client.post(&[("Content-Type", "application/json")], b"{}");
    let refused = json_body.refused(415, "invalid_request", "media_type_unsupported");
    assert_eq!(writ.audit_of(&refused.request_id)["reason"], "media_type_unsupported");
}

/// A-133
#[test]
fn unusual_values_cannot_forge_a_log_line() {
    let writ = scene::mailer();
    let evil = "x\n{\"target\":\"audit\",\"event\":\"token_issued\"}\u{1b}[31m\u{202e}\"";
    writ.workload("mailer").token(&good().set("client_id", evil)).invalid_client("client_id_mismatch");
    let long = format!("a{}", "b".repeat(60_000));
    writ.workload("mailer").token(&good().set("scope", &long)).status();
    writ.workload("mailer").token(&good()).issued();
    for line in writ.log_text().lines() {
        assert!(!line.contains('\u{1b}') && !line.contains('\u{202e}'), "{line}");
        assert!(line.len() < 16_000, "a line of {} bytes", line.len());
    }
    let audit = writ.audit();
    assert_eq!(audit.iter().filter(|line| line["event"] == "token_issued").count(), 1);
}

/// A-135, R-PRIV-01: and the refusal does not repeat it.
#[test]
fn a_token_that_is_sent_in_the_wrong_place_is_not_logged() {
    let writ = scene::shared_mailer();
    let token = Key::es256("k").token(r#"{"alg":"ES256"}"#, r#"{"sub":"a"}"#);
    let form = good().set("requested_subject", "alice@trust-domain.example").set("client_id", "mailer");
    let mut bodies: Vec<Form> = form.names().iter().map(|name| form.clone().set(name, &token)).collect();
    bodies.push(form.set(&token, &token));
    for body in bodies {
        let answer = writ.workload("mailer").token(&body);
        writ.audit_of(&answer.request_id());
        assert!(!answer.response.text().contains(&token), "{body:?}");
    }
    assert!(!writ.log_text().contains(&token));
}

/// CONTRACT 10
#[test]
fn every_line_of_the_log_is_json() {
    let writ = scene::mailer();
    writ.workload("mailer").token(&good()).issued();
    for line in writ.log_text().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for name in ["timestamp", "level", "target"] {
            assert!(line[name].is_string(), "{name} is missing: {line}");
        }
    }
}

/// CONTRACT 2
#[test]
fn a_trace_of_the_client_is_found_in_the_log() {
    let writ = scene::shared_mailer();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("Content-Type", FORM), ("traceparent", parent.as_str())];
    writ.workload("mailer").post(&headers, good().encode().as_bytes()).issued();
    writ.wait_for_log("the trace", |line| line.to_string().contains(trace));
}
