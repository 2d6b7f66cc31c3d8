//! The form that is posted to the token endpoint: its parameters, their syntax and limits, and which of several
//! faults is reported (CONTRACT 3, 3.1, 3.6; area REQ).

use crate::scene::{self, GATEWAY, MAILER};
use crate::support::TRUST_DOMAIN;
use crate::support::answer::Answer;
use crate::support::issuer::Issuer;
use crate::support::workload::{ACCESS_TOKEN, FORM, Form};
use crate::support::writ::{Setup, Writ};

const DELIVER: &str = "mailbox.deliver";

fn ask(writ: &Writ, form: &Form) -> Answer {
    writ.workload("mailer").token(form)
}

fn good() -> Form {
    Form::client_credentials(DELIVER)
}

fn post_body(writ: &Writ, body: &[u8]) -> Answer {
    writ.workload("mailer").post(&[("Content-Type", FORM)], body)
}

/// R-REQ-02, RFC 9110 5.6.6
#[test]
fn a_charset_of_utf_8_is_tolerated_and_so_is_an_empty_parameter() {
    let writ = scene::shared_mailer();
    for parameters in [
        "; charset=UTF-8",
        ";charset=utf-8",
        " ; charset=\"utf-8\"",
        ";",
        "; ",
        ";;",
        "; charset=utf-8;",
        ";; charset=\"utf-8\" ; ;",
    ] {
        let media_type = format!("{FORM}{parameters}");
        writ.workload("mailer").post(&[("Content-Type", &media_type)], good().encode().as_bytes()).issued();
    }
}

/// A-028, R-REQ-02
#[test]
fn another_media_type_is_refused() {
    let writ = scene::shared_mailer();
    let body = good().encode();
    for media_type in [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded2",
    ] {
        let answer = writ.workload("mailer").post(&[("Content-Type", media_type)], body.as_bytes());
        answer.refused(415, "invalid_request", "media_type_unsupported");
    }
}

/// A-028, R-REQ-02
#[test]
fn no_media_type_and_two_are_refused() {
    let writ = scene::shared_mailer();
    let body = good().encode();
    let client = writ.workload("mailer");
    client.post(&[], body.as_bytes()).refused(415, "invalid_request", "media_type_unsupported");
    let twice = [("Content-Type", FORM), ("Content-Type", FORM)];
    client.post(&twice, body.as_bytes()).refused(415, "invalid_request", "media_type_unsupported");
}

/// A-031
#[test]
fn an_encoded_body_is_refused() {
    let writ = scene::shared_mailer();
    let headers = [("Content-Type", FORM), ("Content-Encoding", "gzip")];
    writ.workload("mailer").post(&headers, &[0x1f, 0x8b, 8, 0]).refused(
        415,
        "invalid_request",
        "media_type_unsupported",
    );
}

/// A-027, R-REQ-02
#[test]
fn parameters_in_the_query_string_are_neither_read_nor_logged() {
    let writ = scene::shared_mailer();
    let path = format!("/token?{}&marker=in-the-query", good().encode());
    let answer = writ.workload("mailer").connect().post(&path, &[("Content-Type", FORM)], b"");
    answer.invalid_request("parameter_missing");
    ask(&writ, &good()).issued();
    assert!(!writ.log_text().contains("in-the-query"));
}

/// A-026, R-REQ-03, R-REQ-07
#[test]
fn a_parameter_sent_twice_is_refused_even_with_an_equal_value() {
    let writ = scene::shared_mailer();
    for name in good().names() {
        ask(&writ, &good().add(&name, "x")).invalid_request("parameter_repeated");
    }
    for (name, value) in [("scope", DELIVER), ("audience", TRUST_DOMAIN), ("client_id", "mailer")] {
        ask(&writ, &good().set(name, value).add(name, value)).invalid_request("parameter_repeated");
    }
}

/// A-026
#[test]
fn an_unknown_parameter_sent_twice_is_refused() {
    let writ = scene::shared_mailer();
    ask(&writ, &good().add("unheard", "1").add("unheard", "2")).invalid_request("parameter_repeated");
}

/// A-026
#[test]
fn a_repeated_name_is_recognised_in_another_encoding() {
    let writ = scene::shared_mailer();
    let body = format!("{}&%73cope={DELIVER}", good().encode());
    post_body(&writ, body.as_bytes()).invalid_request("parameter_repeated");
}

/// R-REQ-03
#[test]
fn an_empty_optional_parameter_counts_as_absent() {
    let writ = scene::shared_mailer();
    let form = good().set("client_id", "").set("request_details", "").set("resource", "").set("actor_token", "");
    ask(&writ, &form).issued();
}

/// R-REQ-03, R-REQ-05 to R-REQ-08, R-REQ-18
#[test]
fn a_missing_or_empty_required_parameter_is_refused() {
    let writ = scene::shared_mailer();
    for name in ["grant_type", "requested_token_type", "audience", "scope"] {
        ask(&writ, &good().without(name)).invalid_request("parameter_missing");
        ask(&writ, &good().set(name, "")).invalid_request("parameter_missing");
    }
}

/// R-REQ-09
#[test]
fn a_token_exchange_without_its_subject_token_is_refused() {
    let writ = scene::mailer();
    let form = Form::exchange("token", DELIVER);
    for name in ["subject_token", "subject_token_type"] {
        ask(&writ, &form.clone().without(name)).invalid_request("parameter_missing");
        ask(&writ, &form.clone().set(name, "")).invalid_request("parameter_missing");
    }
}

/// A-029, R-REQ-02
#[test]
fn a_body_that_does_not_decode_is_refused() {
    let writ = scene::shared_mailer();
    for bad in ["x=%", "x=%4", "x=%zz", "x=%ff", "x=%c3%28", "x=a%00b", "%00=a", "%ff=a"] {
        let body = format!("{}&{bad}", good().encode());
        post_body(&writ, body.as_bytes()).invalid_request("parameter_malformed");
    }
    let mut body = good().encode().into_bytes();
    body.extend_from_slice(b"&x=\xff");
    post_body(&writ, &body).invalid_request("parameter_malformed");
}

/// R-REQ-05: unknown to the service, or not accepted for this client.
#[test]
fn another_grant_type_is_refused() {
    let writ = scene::shared_mailer();
    for grant in ["authorization_code", "password", "refresh_token", "Client_Credentials", "client_credentials "] {
        ask(&writ, &good().set("grant_type", grant)).refused(400, "unsupported_grant_type", "grant_type_unsupported");
    }
    ask(&writ, &Form::exchange("x.y.z", DELIVER)).unauthorized_client("source_not_allowed");
}

/// R-REQ-08
#[test]
fn a_scope_with_wrong_syntax_is_refused() {
    let writ = scene::shared_mailer();
    for scope in [" ", " a", "a ", "a  b", "a\tb", "a\nb", "a\u{a0}b", "a\"b", "a\\b", "ä", "a\u{200b}b"] {
        ask(&writ, &good().set("scope", scope)).invalid_scope("scope_malformed");
    }
}

/// R-REQ-08
#[test]
fn a_purpose_named_twice_counts_once() {
    let writ = scene::shared_mailer();
    let scope = format!("{DELIVER} mailbox.report {DELIVER}");
    let issued = ask(&writ, &Form::client_credentials(&scope)).issued();
    assert_eq!(issued.claims["scope"], format!("{DELIVER} mailbox.report"));
}

/// A-083, R-REQ-19
#[test]
fn a_token_exchange_cannot_name_a_subject() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let form = Form::exchange(&issuer.access_token().mint(), "trade.execute").set("requested_subject", "mallory");
    writ.workload("gateway").token(&form).invalid_request("parameter_unsupported");
}

/// R-REQ-18
#[test]
fn client_credentials_take_no_subject_token() {
    let writ = scene::shared_mailer();
    ask(&writ, &good().set("subject_token", "x")).invalid_request("parameter_unsupported");
    ask(&writ, &good().set("subject_token_type", ACCESS_TOKEN)).invalid_request("parameter_unsupported");
}

/// CONTRACT 3, R-REQ-03: dropping it would change whom the token is for.
#[test]
fn an_invalid_requested_subject_is_refused() {
    let writ = scene::shared_mailer();
    let long = format!("{}@trust-domain.example", "a".repeat(255));
    for subject in ["", "a\n@trust-domain.example", "a\u{7f}@trust-domain.example", "\u{85}", &long] {
        ask(&writ, &good().set("requested_subject", subject)).invalid_request("parameter_malformed");
    }
}

#[test]
fn a_requested_subject_of_255_characters_is_accepted() {
    let writ = scene::shared_mailer();
    let subject = format!("{}@trust-domain.example", "ä".repeat(255 - "@trust-domain.example".len()));
    let issued = ask(&writ, &good().set("requested_subject", &subject)).issued();
    assert_eq!(issued.claims["sub"], subject);
}

/// R-POL-06: what no policy names is dropped.
#[test]
fn details_and_context_that_no_policy_copies_are_dropped() {
    let writ = scene::shared_mailer();
    let form = good().set("request_details", r#"{"amount":1}"#).set("request_context", r#"{"req_ip":"198.51.100.7"}"#);
    let issued = ask(&writ, &form).issued();
    assert_eq!((issued.claims.get("tctx"), issued.claims.get("rctx")), (None, None));
}

/// A-039, R-REQ-01
#[test]
fn only_post_asks_for_a_token() {
    let writ = scene::shared_mailer();
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "POSTX"] {
        let answer = writ.workload("mailer").connect().get(method, "/token");
        answer.refused(405, "invalid_request", "method_not_allowed");
        assert_eq!(answer.response.header("allow"), Some("POST"));
        assert!(!answer.response.headers.iter().any(|(name, _)| name.starts_with("access-control-")));
    }
}

/// CONTRACT 3.6: first hit wins. Each request has two faults, of neighbouring steps.
#[test]
fn the_first_of_several_faults_is_reported() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).client("mailer", MAILER).start();
    let stranger = writ.workload("nobody");
    let client = writ.workload("gateway");
    let exchange = || Form::exchange("not-a-token.at.all", "trade.execute");

    // 1 before 2: the media type, though the client is unknown
    let json = stranger.post(&[("Content-Type", "application/json")], b"{}");
    json.refused(415, "invalid_request", "media_type_unsupported");
    // 2 before 3: the client, though the form is broken
    stranger.post(&[("Content-Type", FORM)], b"a=%").invalid_client("client_unknown");
    // 3 before 4: the form, though the client_id is another's
    client
        .token(&exchange().set("client_id", "mailer").add("x", "1").add("x", "2"))
        .invalid_request("parameter_repeated");
    // 4 before 5: the client_id, though there is a secret
    client.token(&exchange().set("client_id", "mailer").set("client_secret", "x")).invalid_client("client_id_mismatch");
    // 5 before 6: the secret, though the grant is unknown
    client.token(&exchange().set("client_secret", "x").set("grant_type", "x")).invalid_request("parameter_unsupported");
    // 6 before 8: the audience, though the purpose is not allowed
    let elsewhere = Form::exchange("x.y.z", "mailbox.deliver").set("audience", "other.example");
    client.token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
    // within 8, the purpose before the source
    client.token(&Form::client_credentials("mailbox.deliver")).invalid_scope("purpose_not_allowed");
    client.token(&Form::client_credentials("trade.execute")).unauthorized_client("source_not_allowed");
    // 8 before 9: the source, though the token is malformed
    writ.workload("mailer").token(&Form::exchange("x.y", DELIVER)).unauthorized_client("source_not_allowed");
    // 9 before 10: the token, though its scope would not do
    let forged = issuer.access_token().claim("scope", "other").mint_signed_with(&[0; 64]);
    client.token(&Form::exchange(&forged, "trade.execute")).invalid_request("subject_token_signature_invalid");
}

/// R-REQ-04: a misspelt parameter is an unknown one, and the right one is missing.
#[test]
fn unknown_parameters_are_ignored() {
    let writ = scene::shared_mailer();
    ask(&writ, &good().add("prompt", "none").add("Scope", "other")).issued();
    ask(&writ, &good().without("scope").set("Scope", DELIVER)).invalid_request("parameter_missing");
}

/// R-REQ-06, R-VERIFY-12
#[test]
fn only_a_txn_token_can_be_requested() {
    let writ = scene::shared_mailer();
    for requested in [ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:txn-token", "txn_token"] {
        ask(&writ, &good().set("requested_token_type", requested)).invalid_request("parameter_unsupported");
    }
    for kind in ["jwt", "refresh_token", "id-jag"] {
        let requested = format!("urn:ietf:params:oauth:token-type:{kind}");
        ask(&writ, &good().set("requested_token_type", &requested)).invalid_request("parameter_unsupported");
    }
}

/// R-REQ-07, R-VERIFY-12
#[test]
fn the_audience_is_exactly_the_trust_domain() {
    let writ = scene::shared_mailer();
    for audience in ["other.example", "Trust-Domain.example", "trust-domain.example/", "https://trust-domain.example"] {
        ask(&writ, &good().set("audience", audience)).refused(400, "invalid_target", "audience_unknown");
    }
    ask(&writ, &good().add("audience", "other.example")).invalid_request("parameter_repeated");
}

/// R-CLAIM-05, CONTRACT 3.3
#[test]
fn purposes_are_issued_in_the_order_they_were_requested() {
    let writ = scene::shared_mailer();
    for scope in ["mailbox.report", "mailbox.report mailbox.deliver", "mailbox.deliver mailbox.report"] {
        assert_eq!(ask(&writ, &Form::client_credentials(scope)).issued().claims["scope"], scope);
    }
}

/// R-REQ-10, R-SUBJ-13: a type that no client can use has another reason than one that this client's policy does not
/// accept.
#[test]
fn an_unsupported_subject_token_type_is_told_from_one_that_is_not_accepted() {
    let writ = scene::shared_mailer();
    for kind in ["saml1", "saml2", "unheard_of"] {
        let form = Form::token_exchange("x", &format!("urn:ietf:params:oauth:token-type:{kind}"), DELIVER);
        let refused = ask(&writ, &form).invalid_request("subject_token_type_unsupported");
        let text = refused.answer["error_description"].as_str().unwrap();
        assert!(text.contains("subject_token_type is not supported"), "{text}");
    }
    ask(&writ, &Form::token_exchange("x", "access_token", DELIVER)).invalid_request("subject_token_type_unsupported");
    for known in ["access_token", "id_token", "jwt", "self_signed", "unsigned_json", "txn_token"] {
        let form = Form::token_exchange("x.y.z", &format!("urn:ietf:params:oauth:token-type:{known}"), DELIVER);
        ask(&writ, &form).unauthorized_client("source_not_allowed");
    }
}

/// R-REQ-11
#[test]
fn a_refresh_token_is_never_accepted_and_cannot_be_configured() {
    let form = Form::token_exchange("x", "urn:ietf:params:oauth:token-type:refresh_token", DELIVER);
    ask(&scene::mailer(), &form).invalid_request("subject_token_type_unsupported");
    let policy = "[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"refresh_token\"]\n";
    Setup::new().client("mailer", policy).run(&["check"]).exits(2).says("purpose[0].accept");
}

/// A-085, R-REQ-12
#[test]
fn details_and_context_must_be_one_json_object_each() {
    let writ = scene::shared_mailer();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cut = &deep[..16_000];
    for name in ["request_details", "request_context"] {
        for value in [
            "[]",
            "null",
            "1",
            "\"{}\"",
            "{",
            "{}{}",
            "{} {}",
            "{} x",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1e400}"#,
            "e30",
            &deep,
            cut,
        ] {
            ask(&writ, &good().set(name, value)).invalid_request("parameter_malformed");
        }
        let body = format!("{}&{name}=%7B%22a%22%3A%22%ff%22%7D", good().encode());
        post_body(&writ, body.as_bytes()).invalid_request("parameter_malformed");
        ask(&writ, &good().set(name, r#"{"a":1}"#)).issued();
    }
}

/// A-030, R-REQ-13
#[test]
fn forms_have_limits() {
    let writ = scene::shared_mailer();
    let body = good().encode();
    let long = |length: usize| format!("{body}&x={}", "a".repeat(length - body.len() - 3));
    post_body(&writ, long(64 * 1024).as_bytes()).issued();
    post_body(&writ, long(64 * 1024 + 1).as_bytes()).refused(413, "invalid_request", "body_too_large");

    let many = |count: usize| (good().names().len()..count).fold(good(), |form, n| form.set(&format!("x{n}"), "1"));
    ask(&writ, &many(64)).issued();
    ask(&writ, &many(65)).invalid_request("parameter_malformed");

    ask(&writ, &good().set("scope", &"a".repeat(1024))).invalid_scope("purpose_not_allowed");
    ask(&writ, &good().set("scope", &"a".repeat(1025))).invalid_scope("scope_malformed");
}

/// R-REQ-13
#[test]
fn json_has_limits() {
    let writ = scene::shared_mailer();
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

/// A-055, R-REQ-13
#[test]
fn a_subject_token_above_16_kib_is_not_read() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let ask_with = |filler: usize| {
        let token = issuer.access_token().claim("filler", "x".repeat(filler)).mint();
        (token.len(), writ.workload("gateway").token(&Form::exchange(&token, "trade.execute")))
    };
    let (length, answer) = ask_with(11 * 1024);
    assert!(length < 16 * 1024, "{length}");
    answer.issued();
    let (length, answer) = ask_with(12 * 1024);
    assert!(length > 16 * 1024, "{length}");
    answer.invalid_request("subject_token_malformed");
}

/// A-084, R-REQ-14
#[test]
fn a_resource_is_refused() {
    let writ = scene::shared_mailer();
    let answer = ask(&writ, &good().set("resource", "https://api.example"));
    answer.refused(400, "invalid_target", "resource_unsupported");
}

/// A-084, R-REQ-15: with its type, without it, and the type alone, for both grants.
#[test]
fn an_actor_token_is_refused() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).client("mailer", MAILER).start();
    let exchange = Form::exchange(&issuer.access_token().mint(), "trade.execute");
    for (client, form) in [("mailer", good()), ("gateway", exchange)] {
        let client = writ.workload(client);
        let token = form.clone().set("actor_token", "x.y.z");
        let kind = form.clone().set("actor_token_type", ACCESS_TOKEN);
        for form in [&token, &kind, &token.clone().set("actor_token_type", ACCESS_TOKEN)] {
            client.token(form).invalid_request("parameter_unsupported");
        }
        client.token(&form).issued();
    }
}
