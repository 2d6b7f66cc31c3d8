//! The introspection endpoint: whether a Txn-Token is valid now, and who may ask (CONTRACT 4; R-INTRO-05 to R-INTRO-07;
//! A-022 to A-039, A-107, A-112, A-116). Issuers that Writ asks are tested in `issuer_introspection`.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{ACCOUNTS, MAILER, PURGE, READER, Shared, batch, batch_living, delayed, expired, redeem};
use crate::support::answer::{Answer, Issued};
use crate::support::issuer::Issuer;
use crate::support::jose::Key;
use crate::support::workload::{FORM, Form, TXN_TOKEN, Workload};
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, eventually, now};

const DELIVER: &str = "mailbox.deliver";

fn setup() -> Setup {
    Setup::new().client("mailer", MAILER).client("reader", READER)
}

/// The same for tests that do not change it.
fn shared() -> Arc<Writ> {
    static WRIT: Shared<Writ> = Shared::new();
    WRIT.get(|| setup().start())
}

fn issue(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials(DELIVER)).issued()
}

/// Asks as `reader`.
fn ask(writ: &Writ, token: &str) -> Answer {
    writ.workload("reader").introspect(token)
}

fn about(token: &str) -> Form {
    Form::default().set("token", token)
}

fn post_body(writ: &Writ, body: &[u8]) -> Answer {
    writ.workload("reader").connect().post("/introspect", &[("Content-Type", FORM)], body)
}

fn sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// R-INTRO-05, R-INTRO-07: the permission covers all claims, `tctx` and `rctx` too (CONTRACT 4).
#[test]
fn a_valid_token_is_active_with_all_its_claims() {
    let mailer = MAILER.replacen(
        "subjects",
        "request_details = \"any.json\"\ntctx.copy = [\"size\"]\nrctx.copy = [\"req_ip\"]\nsubjects",
        1,
    );
    let setup = Setup::new().client("mailer", &mailer).client("reader", READER);
    setup.write("policies/any.json", "{}");
    let writ = setup.start();
    let form = Form::client_credentials(DELIVER)
        .set("requested_subject", "ann@trust-domain.example")
        .set("request_details", r#"{"size":7}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#);
    let issued = writ.workload("mailer").token(&form).issued();
    let answer = ask(&writ, &issued.token);
    let expected = json!({
        "active": true, "token_type": "N_A", "iss": ISSUER, "aud": "trust-domain.example",
        "sub": "ann@trust-domain.example", "scope": DELIVER, "req_wl": "mailer", "txn": issued.txn(),
        "iat": issued.iat(), "exp": issued.exp(), "tctx": {"size": 7}, "rctx": {"req_ip": "192.0.2.1"},
    });
    assert_eq!(answer.response.json(), expected);
    assert_eq!(answer.active(), issued.claims);
    let several = Form::client_credentials(&format!("{DELIVER} mailbox.report"));
    let issued = writ.workload("mailer").token(&several).issued();
    assert_eq!(ask(&writ, &issued.token).active(), issued.claims);
}

/// R-INTRO-07: a number is the text that was signed, not what a machine makes of it.
#[test]
fn numbers_are_returned_digit_for_digit() {
    let trader = r#"
[[purpose]]
scope = "trade.execute"
accept = ["client_credentials"]
request_details = "trade.json"
tctx.copy = ["amount", "rate"]
rctx.copy = ["seen"]
"#;
    let setup = setup().client("trader", trader);
    setup.write("policies/trade.json", "{}");
    let writ = setup.start();
    let form = Form::client_credentials("trade.execute")
        .set("request_details", r#"{"amount":100000000000000000001,"rate":0.10}"#)
        .set("request_context", r#"{"seen":1.0e2}"#);
    let issued = writ.workload("trader").token(&form).issued();
    let answer = ask(&writ, &issued.token);
    answer.active();
    let text = answer.response.text();
    assert!(text.contains(r#""tctx":{"amount":100000000000000000001,"rate":0.10}"#), "{text}");
    assert!(text.contains(r#""rctx":{"seen":1.0e2}"#), "{text}");
}

/// RFC 7662 §2.1: a hint, and what else is sent, changes nothing.
#[test]
fn a_hint_and_unknown_parameters_are_ignored() {
    let writ = shared();
    let issued = issue(&writ);
    let mut session = writ.workload("reader").connect();
    for hint in ["access_token", "refresh_token", TXN_TOKEN, "x", ""] {
        let form = about(&issued.token).set("token_type_hint", hint).set("scope", "a  b").set("grant_type", "x");
        assert_eq!(session.introspect(&form).active(), issued.claims);
    }
}

/// R-INTRO-06: even for the client that could redeem it.
#[test]
fn an_expired_token_is_inactive_though_it_can_be_redeemed() {
    let writ = Setup::new()
        .client("accounts", ACCOUNTS)
        .client("batch", &format!("{READER}{}", batch("")))
        .client("reader", READER)
        .start();
    let original = expired(&writ);
    for client in ["reader", "batch"] {
        writ.workload(client).introspect(&original.token).inactive();
    }
    writ.workload("batch").token(&redeem(&original)).issued();
}

/// It is refused as subject token, and otherwise a Txn-Token like any other.
#[test]
fn a_redeemed_token_is_active_while_it_lives() {
    let batch = batch_living("2s", "");
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &batch).client("reader", READER).start();
    let original = expired(&writ);
    let redeemed = writ.workload("batch").token(&redeem(&original)).issued();
    let claims = ask(&writ, &redeemed.token);
    if now() < redeemed.exp() {
        assert_eq!(claims.active(), redeemed.claims);
        assert_eq!(redeemed.claims["rctx"]["delayed"]["use"], 1);
    }
    redeemed.wait_until_expired();
    ask(&writ, &redeemed.token).inactive();
}

/// CONTRACT 3.5: the retry has the times of the use that it repeats and the signature of a younger key.
#[test]
fn a_free_retry_is_active_whichever_key_signed_it() {
    let writ = delayed("").client("reader", READER).set("tokens.jwks_max_age", "1s").start();
    let original = expired(&writ);
    let first = writ.workload("batch").token(&redeem(&original)).issued();
    writ.rotate();
    let retry = writ.workload("batch").token(&redeem(&original)).issued();
    assert_eq!(first.claims, retry.claims);
    assert_ne!(first.kid(), retry.kid());
    for token in [first, retry] {
        assert_eq!(ask(&writ, &token.token).active(), token.claims);
    }
}

/// R-KEYS-03
#[test]
fn a_token_whose_key_has_stopped_signing_is_active() {
    let writ = setup().set("tokens.jwks_max_age", "1s").start();
    let issued = issue(&writ);
    writ.rotate();
    assert_eq!(writ.key_state(issued.kid()).as_deref(), Some("previous"));
    assert_eq!(ask(&writ, &issued.token).active(), issued.claims);
}

/// A-107: historical keys are for the redemption of expired tokens only. Imported keys are historical here, though
/// their tokens may not have expired.
#[test]
fn a_live_token_with_a_historical_key_is_inactive() {
    let elsewhere = setup().client("accounts", &ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"60s\"")).start();
    let live = elsewhere.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    let export = elsewhere.run(&["keys", "export"]).exits(0).stdout;
    let setup = delayed("require_record = false").client("reader", READER);
    setup.write("export.json", &export);
    setup.run(&["keys", "import", setup.path("export.json").to_str().unwrap()]).exits(0);
    let writ = setup.start();
    assert_eq!(writ.key_state(live.kid()).as_deref(), Some("historical"));
    ask(&writ, &live.token).inactive();
    writ.workload("batch").token(&redeem(&live)).invalid_request("subject_token_key_unknown");
    assert_eq!(ask(&elsewhere, &live.token).active(), live.claims);
}

/// A-107
#[test]
fn an_expired_token_with_a_historical_key_is_inactive() {
    let writ = setup().shortest_keys(3600).set("tokens.lifetime", "1s").start();
    let issued = issue(&writ);
    writ.rotate();
    writ.rotate();
    assert_eq!(writ.key_state(issued.kid()).as_deref(), Some("historical"));
    ask(&writ, &issued.token).inactive();
}

/// A-116, R-INTRO-06
#[test]
fn a_revoked_key_ends_its_tokens_at_once() {
    let writ = setup().set("tokens.jwks_max_age", "1s").start();
    let (first, reader) = (issue(&writ), writ.workload("reader"));
    writ.rotate();
    let second = issue(&writ);
    for token in [first, second] {
        assert_eq!(reader.introspect(&token.token).active(), token.claims);
        writ.run(&["keys", "revoke", token.kid()]).exits(0);
        reader.introspect(&token.token).inactive();
    }
    ask(&writ, &issue(&writ).token).active();
}

/// CONTRACT 4, 8: by every selector.
#[test]
fn a_blocked_token_is_inactive_until_the_block_is_removed() {
    let writ = setup().start();
    let (issued, other) = (issue(&writ), issue(&writ));
    let mut session = writ.workload("reader").connect();
    let mut ask = |token: &Issued| session.introspect(&about(&token.token));
    let sub = issued.claims["sub"].as_str().unwrap();
    for block in [["--txn", issued.txn()], ["--sub", sub], ["--client", "mailer"], ["--purpose", DELIVER]] {
        writ.run(&["block", "add", block[0], block[1]]).exits(0);
        ask(&issued).inactive();
        if block[0] == "--txn" {
            assert_eq!(ask(&other).active(), other.claims);
        }
        writ.run(&["block", "remove", block[0], block[1]]).exits(0);
        assert_eq!(ask(&issued).active(), issued.claims);
    }
    writ.run(&["block", "add", "--all"]).exits(0);
    ask(&issued).inactive();
}

/// CONTRACT 8: `--client` matches whoever asked for a token of the transaction.
#[test]
fn a_token_is_inactive_if_any_client_of_its_transaction_is_blocked() {
    let writ = delayed("").client("reader", READER).start();
    let original = expired(&writ);
    let redeemed = writ.workload("batch").token(&redeem(&original)).issued();
    ask(&writ, &redeemed.token).active();
    for client in ["accounts", "batch"] {
        writ.run(&["block", "add", "--client", client]).exits(0);
        ask(&writ, &redeemed.token).inactive();
        writ.run(&["block", "remove", "--client", client]).exits(0);
    }
    writ.run(&["block", "add", "--client", "reader"]).exits(0);
    assert_eq!(ask(&writ, &redeemed.token).active(), redeemed.claims, "whoever asks gets no token");
}

/// A-112, R-INTRO-06
#[test]
fn a_token_of_another_service_is_inactive() {
    let writ = shared();
    let twin = setup().start();
    ask(&writ, &issue(&twin).token).inactive();
    let other = setup().set("trust_domain", "other.example").start();
    let form = Form::client_credentials(DELIVER).set("audience", "other.example");
    let foreign = other.workload("mailer").token(&form).response.json();
    ask(&writ, foreign["access_token"].as_str().unwrap()).inactive();
}

/// A-044, A-051, A-064, R-INTRO-06
#[test]
fn anything_but_a_txn_token_of_this_service_is_inactive() {
    let issuer = Issuer::start();
    let writ = setup().issuer(&issuer).start();
    let issued = issue(&writ);
    let [header, claims, signature] = issued.token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let mut widened = issued.claims.clone();
    widened["scope"] = json!("account.purge");
    let widened = URL_SAFE_NO_PAD.encode(widened.to_string());
    let retyped =
        |typ: &str| URL_SAFE_NO_PAD.encode(json!({"typ": typ, "alg": "ES256", "kid": issued.kid()}).to_string());
    let unsigned =
        URL_SAFE_NO_PAD.encode(json!({"typ": "txntoken+jwt", "alg": "none", "kid": issued.kid()}).to_string());
    let forger = Key::es256(issued.kid());
    let mut session = writ.workload("reader").connect();
    for token in [
        issuer.access_token().mint(),
        issuer.access_token().header("typ", "txntoken+jwt").mint(),
        forger.token(&issued.header.to_string(), &issued.claims.to_string()),
        format!("{header}.{widened}.{signature}"),
        format!("{header}.{claims}.{}", "A".repeat(86)),
        format!("{}.{claims}.{signature}", retyped("at+jwt")),
        format!("{unsigned}.{claims}."),
        format!("{header}.{claims}"),
        format!("{}=", issued.token),
        format!(" {}", issued.token),
        format!("{}.{}", issued.token, issued.token),
        format!("{header}..{claims}.{signature}.x"),
        r#"{"payload":"e30","signatures":[]}"#.to_owned(),
        "opaque".to_owned(),
        ".".repeat(30_000),
        "a".repeat(60_000),
    ] {
        session.introspect(&about(&token)).inactive();
    }
    session.introspect(&about(&issued.token)).active();
}

/// R-INTRO-05, R-INTRO-06 (CONTRACT 3.6: a client learns that its policy lacks the permission)
#[test]
fn a_client_without_permission_is_refused() {
    let writ = shared();
    let token = issue(&writ).token;
    let mut session = writ.workload("mailer").connect();
    for form in [about(&token), about("opaque"), Form::default()] {
        session.introspect(&form).refused(403, "unauthorized_client", "introspection_not_allowed");
    }
}

/// R-INTRO-05: the permission to introspect allows no purpose.
#[test]
fn a_client_that_may_ask_about_tokens_gets_none() {
    let writ = shared();
    writ.workload("reader").token(&Form::client_credentials(DELIVER)).invalid_scope("purpose_not_allowed");
}

/// CONTRACT 7: a change of policy is in force for the next request.
#[test]
fn a_permission_can_be_taken_away_and_given() {
    let writ = setup().start();
    let token = issue(&writ).token;
    let mut session = writ.workload("reader").connect();
    session.introspect(&about(&token)).active();
    writ.change_client("reader", "introspect = false\n");
    session.introspect(&about(&token)).refused(403, "unauthorized_client", "introspection_not_allowed");
    writ.change_client("mailer", &format!("{READER}{MAILER}"));
    writ.workload("mailer").introspect(&token).active();
    writ.change_policy("reader.toml", None);
    session.introspect(&about(&token)).invalid_client("client_unknown");
}

/// A-023, R-AUTHN-01, R-INTRO-05, R-INTRO-06: a client without a policy is refused as at the token endpoint.
#[test]
fn an_unknown_client_is_refused() {
    let writ = shared();
    let token = issue(&writ).token;
    writ.workload("nobody").introspect(&token).invalid_client("client_unknown");
    let headers = [("Content-Type", FORM), ("X-Forwarded-Client-Cert", "URI=spiffe://trust-domain.example/reader")];
    let body = about(&token).set("client_id", "reader").encode();
    let answer = writ.workload("nobody").connect().post("/introspect", &headers, body.as_bytes());
    answer.invalid_client("client_unknown");
    assert!(writ.anonymous().try_connect().and_then(|mut session| session.connection.receive()).is_err());
}

/// R-INTRO-06
#[test]
fn a_missing_or_empty_token_is_refused() {
    let writ = shared();
    for body in ["", "token=", "token_type_hint=access_token", "Token=a.b.c"] {
        post_body(&writ, body.as_bytes()).invalid_request("parameter_missing");
    }
}

/// A-026, A-029
#[test]
fn a_form_that_can_be_read_in_two_ways_is_refused() {
    let writ = shared();
    let token = issue(&writ).token;
    for repeated in [format!("token={token}&token={token}"), format!("token={token}&%74oken=x"), "x=1&x=1".to_owned()] {
        post_body(&writ, repeated.as_bytes()).invalid_request("parameter_repeated");
    }
    for broken in [&b"x=%zz"[..], b"x=%00", b"x=\xff", b"%c3%28=a"] {
        post_body(&writ, &[format!("token={token}&").as_bytes(), broken].concat())
            .invalid_request("parameter_malformed");
    }
}

/// A-022, R-AUTHN-02
#[test]
fn a_second_identity_is_refused() {
    let writ = shared();
    let token = issue(&writ).token;
    let mut session = writ.workload("reader").connect();
    session.introspect(&about(&token).set("client_id", "reader")).active();
    session.introspect(&about(&token).set("client_id", "mailer")).invalid_client("client_id_mismatch");
    for name in ["client_secret", "client_assertion"] {
        session.introspect(&about(&token).set(name, "x")).invalid_request("parameter_unsupported");
    }
    let headers = [("Content-Type", FORM), ("Authorization", "Bearer x")];
    let answer = session.post("/introspect", &headers, about(&token).encode().as_bytes());
    answer.invalid_request("parameter_unsupported");
}

/// CONTRACT 4: each request has two faults, of neighbouring steps.
#[test]
fn the_first_of_several_faults_is_reported() {
    let writ = shared();
    let (stranger, mailer) = (writ.workload("nobody"), writ.workload("mailer"));
    let post = |client: &Workload, media_type, body: &str| {
        client.connect().post("/introspect", &[("Content-Type", media_type)], body.as_bytes())
    };
    post(&stranger, "application/json", "{}").refused(415, "invalid_request", "media_type_unsupported");
    post(&stranger, FORM, "a=%").invalid_client("client_unknown");
    post(&mailer, FORM, "client_id=reader&a=%").invalid_request("parameter_malformed");
    post(&mailer, FORM, "client_id=reader&client_secret=x").invalid_client("client_id_mismatch");
    post(&mailer, FORM, "client_secret=x").invalid_request("parameter_unsupported");
    post(&mailer, FORM, "").refused(403, "unauthorized_client", "introspection_not_allowed");
}

/// A-039
#[test]
fn only_post_is_allowed() {
    let writ = shared();
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = writ.workload("reader").connect().get(method, "/introspect");
        answer.refused(405, "invalid_request", "method_not_allowed");
        assert_eq!(answer.response.header("allow"), Some("POST"));
    }
    for path in ["/introspect/", "/Introspect", "/introspect/x"] {
        writ.workload("reader").connect().get("GET", path).refused(404, "invalid_request", "not_found");
    }
}

/// A-027, R-INTRO-06
#[test]
fn a_token_in_the_query_string_is_neither_read_nor_logged() {
    let writ = setup().start();
    let path = format!("/introspect?token={}&marker=in-the-query", issue(&writ).token);
    let answer = writ.workload("reader").connect().post(&path, &[("Content-Type", FORM)], b"");
    answer.invalid_request("parameter_missing");
    assert!(!writ.log_text().contains("in-the-query"));
}

/// A-028, A-030, A-031
#[test]
fn only_a_small_plain_form_is_read() {
    let writ = shared();
    let body = about(&issue(&writ).token).encode();
    let post = |headers: &[(&str, &str)], body: &str| {
        writ.workload("reader").connect().post("/introspect", headers, body.as_bytes())
    };
    for media_type in ["application/json", "text/plain", "application/x-www-form-urlencoded; charset=utf-16"] {
        let answer = post(&[("Content-Type", media_type)], &body);
        answer.refused(415, "invalid_request", "media_type_unsupported");
    }
    post(&[], &body).refused(415, "invalid_request", "media_type_unsupported");
    let coded = [("Content-Type", FORM), ("Content-Encoding", "gzip")];
    post(&coded, &body).refused(415, "invalid_request", "media_type_unsupported");
    let filled = |length: usize| format!("{body}&x={}", "a".repeat(length - body.len() - 3));
    post(&[("Content-Type", FORM)], &filled(64 * 1024)).active();
    post(&[("Content-Type", FORM)], &filled(64 * 1024 + 1)).refused(413, "invalid_request", "body_too_large");
}

/// A-042, R-POL-12: one limit for both endpoints.
#[test]
fn both_endpoints_share_a_rate_limit() {
    let writ = setup().set("limits.requests_per_second_per_client", 2).start();
    let mut session = writ.workload("reader").connect();
    let limited = (0..50).map(|_| session.introspect(&about("x"))).find(|answer| answer.status() != 200);
    limited.expect("50 requests are more than 2 a second").refused(429, "temporarily_unavailable", "rate_limited");
    issue(&writ);
}

/// CONTRACT 10, R-PRIV-03
#[test]
fn an_answer_about_a_token_is_audited() {
    let writ = shared();
    let issued = issue(&writ);
    let credentials = writ.setup.credentials("reader");
    let answer = writ.workload_with(&credentials).introspect(&issued.token);
    answer.active();
    let line = writ.audit_of(&answer.request_id());
    for (name, value) in [
        ("event", json!("token_introspected")),
        ("client", json!("reader")),
        ("client_certificate", json!(credentials.thumbprint())),
        ("active", json!(true)),
        ("token_sha256", json!(sha256(&issued.token))),
        ("txn", json!(issued.txn())),
        ("sub", issued.claims["sub"].clone()),
        ("scope", json!(DELIVER)),
        ("kid", json!(issued.kid())),
        ("exp", json!(issued.exp())),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line["policies"].is_string(), "{line}");
    assert_eq!((line.get("reason"), line.get("error"), line.get("source")), (None, None, None), "{line}");
}

/// CONTRACT 10: the claims of an inactive token are not logged.
#[test]
fn an_inactive_token_is_audited_by_its_digest_alone() {
    let writ = shared();
    let answer = ask(&writ, "a.b.c");
    answer.inactive();
    let line = writ.audit_of(&answer.request_id());
    let told = (&line["event"], &line["active"], &line["token_sha256"]);
    assert_eq!(told, (&json!("token_introspected"), &json!(false), &json!(sha256("a.b.c"))));
    for absent in ["txn", "sub", "kid", "exp", "scope", "reason"] {
        assert_eq!(line.get(absent), None, "{absent} in {line}");
    }
}

/// CONTRACT 10
#[test]
fn refusals_are_audited_with_their_reasons() {
    let writ = shared();
    let json_body =
        writ.workload("reader").connect().post("/introspect", &[("Content-Type", "application/json")], b"{}");
    for (answer, client, reason) in [
        (writ.workload("mailer").introspect("a.b.c"), json!("mailer"), "introspection_not_allowed"),
        (writ.workload("nobody").introspect("a.b.c"), Value::Null, "client_unknown"),
        (post_body(&writ, b""), json!("reader"), "parameter_missing"),
        (json_body, Value::Null, "media_type_unsupported"),
    ] {
        assert_eq!(answer.reason(), reason);
        let line = writ.audit_of(&answer.request_id());
        let told = (&line["event"], &line["client"], &line["reason"]);
        assert_eq!(told, (&json!("token_introspected"), &client, &json!(reason)));
        assert!(line.get("active").is_none() && line["client_certificate"].is_string(), "{line}");
    }
}

/// CONTRACT 10: that metric is for `/token` alone.
#[test]
fn introspection_is_not_counted_as_a_token_request() {
    let writ = setup().start();
    ask(&writ, "a.b.c").inactive();
    writ.workload("mailer").introspect("a.b.c").refused(403, "unauthorized_client", "introspection_not_allowed");
    let json_body =
        writ.workload("reader").connect().post("/introspect", &[("Content-Type", "application/json")], b"{}");
    json_body.refused(415, "invalid_request", "media_type_unsupported");
    assert_eq!(writ.metric("writ_token_requests_total", &[]), None);
    issue(&writ);
    assert_eq!(writ.metric("writ_token_requests_total", &[]), Some(1.0));
}

/// A-132: what cannot be recorded is not answered.
#[test]
fn introspection_is_refused_once_the_log_cannot_be_written() {
    let mut writ = setup().start();
    let token = issue(&writ).token;
    writ.close_log();
    let mut session = writ.workload("reader").connect();
    eventually("the log is found closed", || {
        let answer = session.introspect(&about(&token));
        (answer.status() != 200).then(|| answer.refused(503, "temporarily_unavailable", "audit_unavailable"))
    });
    session.introspect(&about("x")).refused(503, "temporarily_unavailable", "audit_unavailable");
}

/// CONTRACT 2
#[test]
fn both_endpoints_share_a_connection() {
    let writ = setup().client("both", &format!("{READER}{MAILER}")).start();
    let mut session = writ.workload("both").connect();
    for _ in 0..2 {
        let issued = session.token(&Form::client_credentials(DELIVER)).issued();
        assert_eq!(session.introspect(&about(&issued.token)).active(), issued.claims);
    }
}
