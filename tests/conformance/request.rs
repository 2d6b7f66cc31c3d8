//! Area REQ: request parsing and parameters.

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, SupportedProtocolVersion};

use crate::support::answer::Answer;
use crate::support::http::Connection;
use crate::support::issuer::Issuer;
use crate::support::workload::{ACCESS_TOKEN, FORM, Form, TXN_TOKEN, Workload, tls_roots};
use crate::support::writ::{Setup, Writ};

const READ: &str = "order.read";

/// Tokens for itself and for the staff; what it asks for with its own word is not accepted.
const CLERK: &str = r#"
[[purpose]]
scope = "order.read"
accept = ["client_credentials"]

[[purpose]]
scope = "order.assign"
accept = ["client_credentials"]
subjects = ["*@trust-domain.example"]
"#;

/// Brings access tokens and details of orders.
const GATEWAY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token"]
granted_by = ["trade.stocks"]
request_details = "schemas/order.schema.json"
tctx.copy = ["amount"]
"#;

fn clerk() -> Writ {
    Setup::new().client("clerk", CLERK).start()
}

fn gateway(issuer: &Issuer) -> Writ {
    let schema = r#"{"type":"object","properties":{"amount":{"type":"number"}}}"#;
    Setup::new().issuer(issuer).client("gateway", GATEWAY).policy("schemas/order.schema.json", schema).start()
}

fn good() -> Form {
    Form::client_credentials(READ)
}

#[track_caller]
fn ask(writ: &Writ, form: &Form) -> Answer {
    writ.workload("clerk").token(form)
}

#[track_caller]
fn post(writ: &Writ, media_type: &str, body: &str) -> Answer {
    writ.workload("clerk").post(&[("Content-Type", media_type)], body.as_bytes())
}

/// R-REQ-01
#[test]
fn only_post_is_allowed() {
    let writ = clerk();
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = writ.workload("clerk").connect().get(method, "/token");
        answer.refused(405, "invalid_request", "method_not_allowed");
        assert_eq!(answer.response.header("allow"), Some("POST"));
    }
    ask(&writ, &good()).issued();
}

/// R-REQ-02
#[test]
fn parameters_are_read_from_a_form_in_the_body_alone() {
    let writ = clerk();
    let body = good().encode();
    post(&writ, "application/x-www-form-urlencoded; charset=UTF-8", &body).issued();
    post(&writ, "application/json", &body).refused(415, "invalid_request", "media_type_unsupported");
    writ.workload("clerk").post(&[], body.as_bytes()).refused(415, "invalid_request", "media_type_unsupported");
    let in_query = format!("/token?{body}");
    writ.workload("clerk")
        .connect()
        .post(&in_query, &[("Content-Type", FORM)], b"")
        .invalid_request("parameter_missing");
}

/// R-REQ-02
#[test]
fn a_body_that_does_not_decode_is_refused() {
    let writ = clerk();
    for broken in ["x=%", "x=%4", "x=%zz", "x=%ff", "x=%c3%28"] {
        post(&writ, FORM, &format!("{}&{broken}", good().encode())).invalid_request("parameter_malformed");
    }
}

/// R-REQ-03
#[test]
fn a_parameter_sent_twice_is_refused_even_with_an_equal_value() {
    let writ = clerk();
    for (name, value) in [("scope", READ), ("audience", crate::support::TRUST_DOMAIN), ("client_id", "clerk")] {
        let form = good().set(name, value).add(name, value);
        ask(&writ, &form).invalid_request("parameter_repeated");
    }
}

/// R-REQ-03
#[test]
fn an_empty_parameter_counts_as_absent() {
    let writ = clerk();
    ask(&writ, &good().set("resource", "").set("request_details", "").set("client_id", "")).issued();
    ask(&writ, &good().set("scope", "")).invalid_request("parameter_missing");
    ask(&writ, &good().set("requested_subject", "")).invalid_request("parameter_malformed");
}

/// R-REQ-04
#[test]
fn an_unknown_parameter_is_ignored_and_a_misspelt_one_missing() {
    let writ = clerk();
    ask(&writ, &good().set("prompt", "none")).issued();
    ask(&writ, &good().without("scope").set("Scope", READ)).invalid_request("parameter_missing");
}

/// R-REQ-05
#[test]
fn each_wrong_grant_type_has_its_own_error() {
    let writ = clerk();
    ask(&writ, &good().without("grant_type")).invalid_request("parameter_missing");
    for unknown in ["password", "refresh_token", "Client_Credentials", "client_credentials "] {
        let answer = ask(&writ, &good().set("grant_type", unknown));
        answer.refused(400, "unsupported_grant_type", "grant_type_unsupported");
    }
    ask(&writ, &Form::exchange("x.y.z", READ)).unauthorized_client("source_not_allowed");
}

/// R-REQ-06, R-VERIFY-12
#[test]
fn nothing_but_a_txn_token_can_be_requested() {
    let writ = clerk();
    ask(&writ, &good().without("requested_token_type")).invalid_request("parameter_missing");
    for other in [ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:txn-token", "urn:ietf:params:oauth:token-type:jwt"] {
        ask(&writ, &good().set("requested_token_type", other)).invalid_request("parameter_unsupported");
    }
    assert_eq!(ask(&writ, &good()).issued().answer["issued_token_type"], TXN_TOKEN);
}

/// R-REQ-07
#[test]
fn the_audience_is_the_trust_domain_letter_for_letter() {
    let writ = clerk();
    ask(&writ, &good().without("audience")).invalid_request("parameter_missing");
    for other in ["other.example", "Trust-Domain.example", "trust-domain.example/", "https://trust-domain.example"] {
        ask(&writ, &good().set("audience", other)).refused(400, "invalid_target", "audience_unknown");
    }
    ask(&writ, &good().add("audience", "other.example")).invalid_request("parameter_repeated");
}

/// R-REQ-08
#[test]
fn the_scope_is_one_purpose_or_more_with_single_spaces() {
    let writ = clerk();
    ask(&writ, &good().without("scope")).invalid_request("parameter_missing");
    for wrong in [" order.read", "order.read ", "a  b", "a\tb", "a\"b", "a\\b", "ä"] {
        ask(&writ, &good().set("scope", wrong)).invalid_scope("scope_malformed");
    }
    ask(&writ, &good().set("scope", "Order.Read")).invalid_scope("purpose_not_allowed");
    let twice = ask(&writ, &good().set("scope", "order.assign order.read order.assign")).issued();
    assert_eq!(twice.claims["scope"], "order.assign order.read");
}

/// R-REQ-09
#[test]
fn a_token_exchange_needs_a_subject_token_and_its_type() {
    let writ = clerk();
    for name in ["subject_token", "subject_token_type"] {
        ask(&writ, &Form::exchange("x.y.z", READ).without(name)).invalid_request("parameter_missing");
    }
}

/// R-REQ-10
#[test]
fn an_unknown_subject_token_type_is_told_from_one_that_is_not_enabled() {
    let writ = clerk();
    for unknown in
        ["access_token", "urn:ietf:params:oauth:token-type:unheard_of", "urn:ietf:params:oauth:token-type:saml2"]
    {
        let answer = ask(&writ, &Form::token_exchange("x.y.z", unknown, READ));
        answer.invalid_request("subject_token_type_unsupported");
    }
    for known in ["access_token", "id_token", "jwt", "self_signed", "unsigned_json", "txn_token"] {
        let form = Form::token_exchange("x.y.z", &format!("urn:ietf:params:oauth:token-type:{known}"), READ);
        ask(&writ, &form).unauthorized_client("source_not_allowed");
    }
}

/// R-REQ-11
#[test]
fn a_refresh_token_is_never_taken_and_cannot_be_enabled() {
    let writ = clerk();
    let form = Form::token_exchange("x", "urn:ietf:params:oauth:token-type:refresh_token", READ);
    ask(&writ, &form).invalid_request("subject_token_type_unsupported");
    let policy = "[[purpose]]\nscope = \"order.read\"\naccept = [\"refresh_token\"]\n";
    Setup::new().client("clerk", policy).run(&["check"]).exits(2).says("purpose[0].accept");
}

/// R-REQ-12
#[test]
fn details_and_context_are_one_json_object_each_if_they_are_sent() {
    let writ = clerk();
    for name in ["request_details", "request_context"] {
        for wrong in ["[]", "1", "null", "\"{}\"", "{} {}", r#"{"a":1,"a":2}"#, "e30"] {
            ask(&writ, &good().set(name, wrong)).invalid_request("parameter_malformed");
        }
        post(&writ, FORM, &format!("{}&{name}=%7B%22a%22%3A%22%ff%22%7D", good().encode()))
            .invalid_request("parameter_malformed");
        ask(&writ, &good().set(name, r#"{"a":1}"#)).issued();
    }
    ask(&writ, &good()).issued();
}

/// R-REQ-13
#[test]
fn forms_have_limits() {
    let writ = clerk();
    let body = good().encode();
    let long = |length: usize| format!("{body}&x={}", "a".repeat(length - body.len() - 3));
    post(&writ, FORM, &long(64 * 1024)).issued();
    post(&writ, FORM, &long(64 * 1024 + 1)).refused(413, "invalid_request", "body_too_large");

    let many = |count: usize| (good().names().len()..count).fold(good(), |form, n| form.set(&format!("x{n}"), "1"));
    ask(&writ, &many(64)).issued();
    ask(&writ, &many(65)).invalid_request("parameter_malformed");

    ask(&writ, &good().set("scope", &"a".repeat(1024))).invalid_scope("purpose_not_allowed");
    ask(&writ, &good().set("scope", &"a".repeat(1025))).invalid_scope("scope_malformed");
}

/// R-REQ-13
#[test]
fn json_has_limits() {
    let writ = clerk();
    let ask_with = |details: String| ask(&writ, &good().set("request_details", &details));
    let long = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    ask_with(long(16 * 1024)).issued();
    ask_with(long(16 * 1024 + 1)).invalid_request("parameter_malformed");

    let deep = |depth: usize| "{\"a\":".repeat(depth - 1) + "{}" + &"}".repeat(depth - 1);
    ask_with(deep(16)).issued();
    ask_with(deep(17)).invalid_request("parameter_malformed");

    let wide = |members: usize| {
        let members: Vec<String> = (0..members).map(|n| format!("\"m{n}\":1")).collect();
        format!("{{{}}}", members.join(","))
    };
    ask_with(wide(256)).issued();
    ask_with(wide(257)).invalid_request("parameter_malformed");
}

/// R-REQ-13
#[test]
fn a_subject_token_above_16_kib_is_not_read() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let ask_with = |filler: usize| {
        let token = issuer.access_token().claim("filler", "x".repeat(filler)).mint();
        (token.len(), writ.workload("gateway").token(&Form::exchange(&token, "order.refund")))
    };
    let (length, answer) = ask_with(11 * 1024);
    assert!(length < 16 * 1024, "{length}");
    answer.issued();
    let (length, answer) = ask_with(12 * 1024);
    assert!(length > 16 * 1024, "{length}");
    answer.invalid_request("subject_token_malformed");
}

/// R-REQ-14
#[test]
fn a_resource_is_an_invalid_target() {
    let writ = clerk();
    let answer = ask(&writ, &good().set("resource", "https://api.example"));
    answer.refused(400, "invalid_target", "resource_unsupported");
}

/// R-REQ-15
#[test]
fn an_actor_is_refused_in_whole_and_in_half() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let form = Form::exchange(&issuer.access_token().mint(), "order.refund");
    let client = writ.workload("gateway");
    let (token, kind) = (form.clone().set("actor_token", "x.y.z"), form.clone().set("actor_token_type", ACCESS_TOKEN));
    for form in [&token, &kind, &token.clone().set("actor_token_type", ACCESS_TOKEN)] {
        client.token(form).invalid_request("parameter_unsupported");
    }
    client.token(&form).issued();
}

/// R-REQ-16
#[test]
fn a_number_is_issued_as_it_was_sent() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    for amount in ["12345678901234567890123", "0.10", "1E2", "-0", "9007199254740993"] {
        let form = Form::exchange(&issuer.access_token().mint(), "order.refund");
        let form = form.set("request_details", &format!("{{\"amount\":{amount}}}"));
        let issued = writ.workload("gateway").token(&form).issued();
        assert_eq!(issued.typed.tctx.raw("amount"), Some(amount));
    }
}

/// The clerk, speaking this version of TLS only.
fn speaking(writ: &Writ, version: &'static SupportedProtocolVersion) -> Workload {
    let credentials = writ.setup.credentials("clerk");
    let config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(tls_roots(&writ.site().ca))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key())
        .unwrap();
    writ.stranger().with_tls_config(config)
}

/// R-REQ-17
#[test]
fn the_endpoint_speaks_tls_1_3_and_1_2_where_it_is_configured() {
    let writ = clerk();
    let session = writ.workload("clerk").connect();
    assert_eq!(session.connection.handshake.unwrap().version, ProtocolVersion::TLSv1_3);
    assert!(speaking(&writ, &TLS12).try_token(&good()).is_err());

    let lenient = Setup::new().client("clerk", CLERK).set("tls.min_version", "1.2").start();
    speaking(&lenient, &TLS12).token(&good()).issued();
    speaking(&lenient, &TLS13).token(&good()).issued();
    Setup::new().client("clerk", CLERK).set("tls.min_version", "1.1").run(&["check"]).exits(2).says("min_version");
}

/// R-REQ-17
#[test]
fn plain_http_is_not_served() {
    let writ = clerk();
    let body = good().encode();
    let length = body.len();
    let request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut plain = Connection::plain(writ.site().endpoints().exchange).unwrap();
    plain.send(request.as_bytes()).unwrap();
    assert!(plain.receive().is_err());
}

/// R-REQ-18
#[test]
fn client_credentials_bring_a_txn_token_for_the_client_itself() {
    let writ = clerk();
    let issued = ask(&writ, &good()).issued();
    assert_eq!((&issued.claims["sub"], &issued.answer["token_type"]), (&"clerk".into(), &"N_A".into()));
    for required in ["requested_token_type", "audience", "scope"] {
        ask(&writ, &good().without(required)).invalid_request("parameter_missing");
    }
    for other in ["subject_token", "subject_token_type"] {
        ask(&writ, &good().set(other, "x")).invalid_request("parameter_unsupported");
    }
}

/// R-REQ-18, R-REQ-19
#[test]
fn a_client_names_a_subject_where_its_policy_lets_it() {
    let writ = clerk();
    let named =
        |scope: &str, subject: &str| ask(&writ, &Form::client_credentials(scope).set("requested_subject", subject));
    assert_eq!(named("order.assign", "ann@trust-domain.example").issued().claims["sub"], "ann@trust-domain.example");
    let elsewhere = named("order.assign", "ann@elsewhere.example").unauthorized_client("subject_not_allowed");
    let without_right = named(READ, "ann@trust-domain.example").unauthorized_client("subject_not_allowed");
    let nobody = named("order.assign", "x").unauthorized_client("subject_not_allowed");
    assert_eq!((&elsewhere.answer, &elsewhere.answer), (&without_right.answer, &nobody.answer));
}

/// R-REQ-19
#[test]
fn a_token_exchange_names_no_subject() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer);
    let form = Form::exchange(&issuer.access_token().mint(), "order.refund").set("requested_subject", "ann");
    writ.workload("gateway").token(&form).invalid_request("parameter_unsupported");
}
