//! What a request must look like (CONTRACT 2, 3, 3.1, 3.6; area REQ).

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::scene::{self, GATEWAY, MAILER};
use crate::support::answer::Answer;
use crate::support::http::Connection;
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

/// R-RESP-01, R-RESP-03, R-RESP-04
#[test]
fn a_good_request_is_answered_with_a_token() {
    let writ = scene::mailer();
    let issued = ask(&writ, &good()).issued();
    assert_eq!(issued.answer["scope"], DELIVER);
    assert_eq!(issued.exp() - issued.iat(), 60);
}

/// R-REQ-02, RFC 9110 5.6.6
#[test]
fn a_charset_of_utf_8_is_tolerated_and_so_is_an_empty_parameter() {
    let writ = scene::mailer();
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

/// A-028
#[test]
fn another_media_type_is_refused() {
    let writ = scene::mailer();
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

/// A-028
#[test]
fn no_media_type_and_two_are_refused() {
    let writ = scene::mailer();
    let body = good().encode();
    let client = writ.workload("mailer");
    client.post(&[], body.as_bytes()).refused(415, "invalid_request", "media_type_unsupported");
    let twice = [("Content-Type", FORM), ("Content-Type", FORM)];
    client.post(&twice, body.as_bytes()).refused(415, "invalid_request", "media_type_unsupported");
}

/// A-031
#[test]
fn an_encoded_body_is_refused() {
    let writ = scene::mailer();
    let headers = [("Content-Type", FORM), ("Content-Encoding", "gzip")];
    writ.workload("mailer").post(&headers, &[0x1f, 0x8b, 8, 0]).refused(
        415,
        "invalid_request",
        "media_type_unsupported",
    );
}

/// A-030
#[test]
fn a_body_above_64_kib_is_refused() {
    let writ = scene::mailer();
    let filler = |length: usize| {
        let body = good().encode();
        format!("{body}&x={}", "a".repeat(length - body.len() - 3))
    };
    post_body(&writ, filler(64 * 1024).as_bytes()).issued();
    post_body(&writ, filler(64 * 1024 + 1).as_bytes()).refused(413, "invalid_request", "body_too_large");
}

/// A-030
#[test]
fn a_chunked_body_above_64_kib_is_refused() {
    let writ = scene::mailer();
    let mut request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("1000\r\n{}\r\n", "a".repeat(0x1000));
    request += &chunk.repeat(17);
    request += "0\r\n\r\n";
    let response = writ.workload("mailer").raw(request.as_bytes()).unwrap();
    assert_eq!((response.status, response.json()["reason"].as_str()), (413, Some("body_too_large")));
}

#[test]
fn a_chunked_body_is_read() {
    let writ = scene::mailer();
    let body = good().encode();
    let request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(writ.workload("mailer").raw(request.as_bytes()).unwrap().status, 200);
}

/// A-027
#[test]
fn parameters_in_the_query_string_are_neither_read_nor_logged() {
    let writ = scene::mailer();
    let path = format!("/token?{}&marker=in-the-query", good().encode());
    let answer = writ.workload("mailer").connect().post(&path, &[("Content-Type", FORM)], b"");
    answer.invalid_request("parameter_missing");
    ask(&writ, &good()).issued();
    assert!(!writ.log_text().contains("in-the-query"));
}

/// A-026, R-REQ-03
#[test]
fn a_parameter_sent_twice_is_refused_even_with_an_equal_value() {
    let writ = scene::mailer();
    for name in good().names() {
        ask(&writ, &good().add(&name, "x")).invalid_request("parameter_repeated");
    }
    ask(&writ, &good().add("scope", DELIVER)).invalid_request("parameter_repeated");
}

/// A-026
#[test]
fn an_unknown_parameter_sent_twice_is_refused() {
    let writ = scene::mailer();
    ask(&writ, &good().add("unheard", "1").add("unheard", "2")).invalid_request("parameter_repeated");
}

/// A-026
#[test]
fn a_repeated_name_is_seen_through_its_encoding() {
    let writ = scene::mailer();
    let body = format!("{}&%73cope={DELIVER}", good().encode());
    post_body(&writ, body.as_bytes()).invalid_request("parameter_repeated");
}

/// R-REQ-04
#[test]
fn unknown_parameters_are_ignored() {
    let writ = scene::mailer();
    ask(&writ, &good().add("prompt", "none").add("Scope", "other")).issued();
}

/// R-REQ-03
#[test]
fn an_empty_optional_parameter_counts_as_absent() {
    let writ = scene::mailer();
    let form = good().set("client_id", "").set("request_details", "").set("resource", "").set("actor_token", "");
    ask(&writ, &form).issued();
}

/// R-REQ-05 to R-REQ-08
#[test]
fn a_missing_or_empty_required_parameter_is_refused() {
    let writ = scene::mailer();
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
    let writ = scene::mailer();
    for bad in ["x=%", "x=%4", "x=%zz", "x=%ff", "x=%c3%28", "x=a%00b", "%00=a", "%ff=a"] {
        let body = format!("{}&{bad}", good().encode());
        post_body(&writ, body.as_bytes()).invalid_request("parameter_malformed");
    }
    let mut body = good().encode().into_bytes();
    body.extend_from_slice(b"&x=\xff");
    post_body(&writ, &body).invalid_request("parameter_malformed");
}

/// R-REQ-05
#[test]
fn another_grant_type_is_refused() {
    let writ = scene::mailer();
    for grant in ["authorization_code", "password", "refresh_token", "Client_Credentials", "client_credentials "] {
        ask(&writ, &good().set("grant_type", grant)).refused(400, "unsupported_grant_type", "grant_type_unsupported");
    }
}

/// R-REQ-06
#[test]
fn another_requested_token_type_is_refused() {
    let writ = scene::mailer();
    for requested in [ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:txn-token", "txn_token"] {
        ask(&writ, &good().set("requested_token_type", requested)).invalid_request("parameter_unsupported");
    }
}

/// R-REQ-07
#[test]
fn another_audience_is_refused() {
    let writ = scene::mailer();
    for audience in ["other.example", "Trust-Domain.example", "trust-domain.example/", "https://trust-domain.example"] {
        ask(&writ, &good().set("audience", audience)).refused(400, "invalid_target", "audience_unknown");
    }
}

/// R-REQ-08
#[test]
fn a_scope_with_wrong_syntax_is_refused() {
    let writ = scene::mailer();
    for scope in [" ", " a", "a ", "a  b", "a\tb", "a\nb", "a\u{a0}b", "a\"b", "a\\b", "ä", "a\u{200b}b"] {
        ask(&writ, &good().set("scope", scope)).invalid_scope("scope_malformed");
    }
}

/// R-REQ-08
#[test]
fn a_purpose_named_twice_counts_once() {
    let writ = scene::mailer();
    let scope = format!("{DELIVER} mailbox.report {DELIVER}");
    let issued = ask(&writ, &Form::client_credentials(&scope)).issued();
    assert_eq!(issued.claims["scope"], format!("{DELIVER} mailbox.report"));
}

/// The order asked for is the order issued (CONTRACT 3.3).
#[test]
fn purposes_are_issued_in_the_order_asked() {
    let writ = scene::mailer();
    let issued = ask(&writ, &Form::client_credentials("mailbox.report mailbox.deliver")).issued();
    assert_eq!(issued.claims["scope"], "mailbox.report mailbox.deliver");
}

/// A-084, R-REQ-15
#[test]
fn an_actor_token_is_refused() {
    let writ = scene::mailer();
    ask(&writ, &good().set("actor_token", "x")).invalid_request("parameter_unsupported");
    ask(&writ, &good().set("actor_token_type", ACCESS_TOKEN)).invalid_request("parameter_unsupported");
}

/// A-084, R-REQ-14
#[test]
fn a_resource_is_refused() {
    let writ = scene::mailer();
    let answer = ask(&writ, &good().set("resource", "https://api.example"));
    answer.refused(400, "invalid_target", "resource_unsupported");
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
    let writ = scene::mailer();
    ask(&writ, &good().set("subject_token", "x")).invalid_request("parameter_unsupported");
    ask(&writ, &good().set("subject_token_type", ACCESS_TOKEN)).invalid_request("parameter_unsupported");
}

/// CONTRACT 3: dropping it would change whom the token is for.
#[test]
fn a_requested_subject_that_is_no_subject_is_refused() {
    let writ = scene::mailer();
    let long = format!("{}@trust-domain.example", "a".repeat(255));
    for subject in ["", "a\n@trust-domain.example", "a\u{7f}@trust-domain.example", "\u{85}", &long] {
        ask(&writ, &good().set("requested_subject", subject)).invalid_request("parameter_malformed");
    }
}

#[test]
fn a_requested_subject_of_255_characters_is_taken() {
    let writ = scene::mailer();
    let subject = format!("{}@trust-domain.example", "ä".repeat(255 - "@trust-domain.example".len()));
    let issued = ask(&writ, &good().set("requested_subject", &subject)).issued();
    assert_eq!(issued.claims["sub"], subject);
}

/// R-REQ-12, A-085
#[test]
fn details_and_context_must_be_one_json_object_each() {
    let writ = scene::mailer();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for name in ["request_details", "request_context"] {
        for value in
            ["[]", "null", "1", "\"{}\"", "{", "{}{}", "{} x", r#"{"a":1,"a":1}"#, r#"{"a":1e400}"#, "e30", &deep]
        {
            ask(&writ, &good().set(name, value)).invalid_request("parameter_malformed");
        }
    }
}

/// R-POL-06: what no policy names is dropped.
#[test]
fn details_and_context_that_no_policy_copies_are_dropped() {
    let writ = scene::mailer();
    let form = good().set("request_details", r#"{"amount":1}"#).set("request_context", r#"{"req_ip":"198.51.100.7"}"#);
    let issued = ask(&writ, &form).issued();
    assert_eq!((issued.claims.get("tctx"), issued.claims.get("rctx")), (None, None));
}

/// A-022, R-AUTHN-02
#[test]
fn a_second_authentication_method_is_refused() {
    let writ = scene::mailer();
    ask(&writ, &good().set("client_secret", "x")).invalid_request("parameter_unsupported");
    ask(&writ, &good().set("client_assertion", "x")).invalid_request("parameter_unsupported");
    for value in ["Basic bWFpbGVyOng=", "Bearer x", "x"] {
        let headers = [("Content-Type", FORM), ("Authorization", value)];
        let answer = writ.workload("mailer").post(&headers, good().encode().as_bytes());
        answer.invalid_request("parameter_unsupported");
    }
}

/// R-REQ-10, R-REQ-11
#[test]
fn subject_token_types_that_are_not_taken_are_refused() {
    let writ = scene::mailer();
    for kind in ["refresh_token", "saml1", "saml2", "unheard_of"] {
        let form = Form::token_exchange("x", &format!("urn:ietf:params:oauth:token-type:{kind}"), DELIVER);
        ask(&writ, &form).invalid_request("subject_token_type_unsupported");
    }
    ask(&writ, &Form::token_exchange("x", "access_token", DELIVER)).invalid_request("subject_token_type_unsupported");
}

/// A-055, R-REQ-13
#[test]
fn a_huge_subject_token_is_refused() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let token = issuer.access_token().claim("filler", "x".repeat(40_000)).mint();
    let answer = writ.workload("gateway").token(&Form::exchange(&token, "trade.execute"));
    assert!(["subject_token_malformed", "token_too_large"].contains(&answer.reason().as_str()), "{}", answer.reason());
    answer.invalid_request(&answer.reason());
}

/// A-039, R-REQ-01
#[test]
fn only_post_asks_for_a_token() {
    let writ = scene::mailer();
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "POSTX"] {
        let answer = writ.workload("mailer").connect().get(method, "/token");
        answer.refused(405, "invalid_request", "method_not_allowed");
        assert_eq!(answer.response.header("allow"), Some("POST"));
        assert!(!answer.response.headers.iter().any(|(name, _)| name.starts_with("access-control-")));
    }
}

/// A-039
#[test]
fn trace_is_not_answered_with_an_echo() {
    let writ = scene::mailer();
    let response =
        writ.workload("mailer").raw(b"TRACE /token HTTP/1.1\r\nHost: localhost\r\nX-Marker: seen\r\n\r\n").unwrap();
    assert!(matches!(response.status, 400 | 405), "{}", response.status);
    assert!(!response.text().contains("seen"));
}

/// A-039
#[test]
fn an_unknown_path_is_not_found() {
    let writ = scene::mailer();
    for path in ["/", "/token/", "/Token", "//token", "/token/x", "/metrics", "/livez"] {
        let answer = writ.workload("mailer").connect().get("GET", path);
        answer.refused(404, "invalid_request", "not_found");
    }
}

/// CONTRACT 2: discovery is on the exchange listener too.
#[test]
fn the_exchange_listener_serves_the_discovery_documents() {
    let writ = scene::mailer();
    let mut session = writ.workload("mailer").connect();
    let jwks = session.get("GET", "/.well-known/jwks.json").response;
    assert_eq!((jwks.status, jwks.header("content-type")), (200, Some("application/jwk-set+json")));
    let metadata = session.get("GET", "/.well-known/oauth-authorization-server").response;
    assert_eq!(metadata.json()["issuer"], crate::support::ISSUER);
}

/// A-040
#[test]
fn a_request_id_is_echoed_where_it_is_harmless() {
    let writ = scene::mailer();
    let client = writ.workload("mailer");
    let with_id = |id: &str| {
        let answer = client.post(&[("Content-Type", FORM), ("X-Request-Id", id)], good().encode().as_bytes());
        answer.response.header("x-request-id").unwrap().to_owned()
    };
    for id in ["abc", "A-Z_0.9", &"r".repeat(128)] {
        assert_eq!(with_id(id), id);
    }
    for id in ["r".repeat(129).as_str(), "a b", "a\"b", "a%0d%0ab", "ä", "a;b"] {
        assert_ne!(with_id(id), id);
    }
}

#[test]
fn every_request_without_an_id_gets_one_of_its_own() {
    let writ = scene::mailer();
    let (first, second) = (ask(&writ, &good()).issued(), ask(&writ, &good()).issued());
    assert!(!first.request_id.is_empty());
    assert_ne!(first.request_id, second.request_id);
}

/// CONTRACT 3.6: first hit wins. Each request has two faults, of neighbouring steps.
#[test]
fn the_first_of_several_faults_is_named() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("gateway", GATEWAY).client("mailer", MAILER).start();
    let stranger = writ.workload("nobody");
    let client = writ.workload("gateway");
    let exchange = || Form::exchange("not-a-token.at.all", "trade.execute");

    // 1 before 2: the media type, though nobody knows the client
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

/// A-032
#[test]
fn an_oversized_head_ends_the_connection() {
    let writ = scene::mailer();
    let many = "X-Many: 1\r\n".repeat(200);
    for head in [
        format!("GET /token HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(200_000)),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(200_000)),
        format!("GET /token HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
    ] {
        refuses_unread(&writ, head.as_bytes());
    }
    ask(&writ, &good()).issued();
}

/// A-033: one 400 and the end of the connection, so that no proxy before us can be made to disagree with us.
#[test]
fn ambiguous_framing_ends_the_connection() {
    let writ = scene::mailer();
    let body = good().encode();
    let length = body.len();
    let post =
        |headers: &str| format!("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n{headers}\r\n");
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    for request in [
        post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n")) + &chunked,
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + &chunked,
        post("Transfer-Encoding : chunked\r\n") + &chunked,
        post("Transfer-Encoding: xchunked\r\n") + &chunked,
        post(&format!("Content-Length: {length}, {length}\r\n")) + &body,
        post(&format!("Content-Length: +{length}\r\n")) + &body,
        post(&format!("Content-Length: 0x{length:x}\r\n")) + &body,
        post(&format!("Content-Length: {length}\r\nContent-Length: 3\r\n")) + &body,
        post("Content-Length: 99999999999999999999999\r\n") + &body,
        post("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n" + &body,
        post(&format!("Content-Length: {length}\r\nX-Nul: a\0b\r\n")) + &body,
        post(&format!("Content-Length: {length}\r\n folded: a\r\n")) + &body,
        post(&format!("Content-Length: {length}\r\n")).replace("Host: localhost\r\n", "") + &body,
        post(&format!("Content-Length: {length}\r\nHost: other\r\n")) + &body,
        (post(&format!("Content-Length: {length}\r\n"))).replace("\r\n", "\n") + &body,
        post(&format!("Content-Length: {length}\r\n")).replacen("1.1\r\n", "1.1\n", 1) + &body,
        post(&format!("X-Bare: a\nContent-Length: {length}\r\n")) + &body,
        post(&format!("X-Bare: a\rContent-Length: {length}\r\n")) + &body,
        post(&format!("Content-Length: {length}\r\n")).replace("\r\n\r\n", "\r\n\n") + &body,
        post(&format!("Content-Length : {length}\r\n")) + &body,
        post("Transfer-Encoding: chunked\r\n") + &chunked.replacen("\r\n", "\n", 1),
        post("Transfer-Encoding: chunked\r\n") + &chunked.replacen("\r\n", ";a=\"\n\"\r\n", 1),
        post("Transfer-Encoding: chunked\r\n") + &chunked.replace("0\r\n\r\n", "0\r\nX-Trailer: a\n\r\n"),
        post("Transfer-Encoding: chunked\r\n") + &chunked.replace("0\r\n\r\n", "0\r\n\n"),
    ] {
        refuses_unread(&writ, request.as_bytes());
    }
    ask(&writ, &good()).issued();
}

/// Sends `request` and another after it: at most one answer, an error without a token, then the end.
#[track_caller]
fn refuses_unread(writ: &Writ, request: &[u8]) {
    let mut session = writ.workload("mailer").connect();
    let mut bytes = request.to_vec();
    bytes.extend_from_slice(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // The other side may close before all is written.
    drop(session.connection.send(&bytes));
    let name = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    if let Ok(response) = session.connection.receive() {
        assert!((400..500).contains(&response.status), "{} for {name}", response.status);
        assert!(session.connection.is_ended(), "still open after {name}");
    }
}

/// RFC 9110 7.8: an offer to speak another protocol is not taken, and changes nothing.
#[test]
fn an_upgrade_is_ignored_on_every_listener() {
    let writ = scene::mailer();
    let body = good().encode();
    let length = body.len();
    let offers = [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "CONNECTION: keep-alive, upgrade\r\nUPGRADE: WebSocket\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\nUpgrade: websocket\r\n",
    ];
    for offer in offers {
        for (framing, sent) in [
            (format!("Content-Length: {length}\r\n"), body.clone()),
            ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ] {
            let head =
                format!("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n{offer}{framing}\r\n");
            let mut session = writ.workload("mailer").connect();
            session.connection.send(format!("{head}{sent}{head}{sent}").as_bytes()).unwrap();
            for _ in 0..2 {
                let response = session.connection.receive().unwrap();
                assert_eq!(response.status, 200, "{offer}: {}", response.text());
                assert_eq!((response.header("upgrade"), response.header("connection")), (None, None), "{offer}");
                writ.site().note(&response);
            }
        }
        let endpoints = writ.site().endpoints();
        let tls = crate::support::workload::tls_config(&writ.site().ca, None);
        let discovery = Connection::tls(endpoints.discovery.unwrap(), &tls).unwrap();
        let ops = Connection::plain(endpoints.ops.unwrap()).unwrap();
        for (mut connection, path) in [(discovery, "/.well-known/jwks.json"), (ops, "/livez")] {
            let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{offer}\r\n");
            connection.send(get.repeat(2).as_bytes()).unwrap();
            assert_eq!([(); 2].map(|()| connection.receive().unwrap().status), [200; 2], "{path} {offer}");
        }
    }
}

/// RFC 9110 9.3.6: nobody is connected to anybody, and what follows is no request.
#[test]
fn a_connect_is_refused_and_ends_the_connection() {
    let writ = scene::mailer();
    refuses_unread(&writ, b"CONNECT trust-domain.example:443 HTTP/1.1\r\nHost: trust-domain.example:443\r\n\r\n");
    ask(&writ, &good()).issued();
}

/// A-034
#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_broken_one() {
    let writ = scene::mailer();
    let body = good().encode();
    let request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n",
        body.len()
    );
    let good = format!("{request}\r\n{body}");
    let broken = format!("{request}Transfer-Encoding: chunked\r\n\r\n{body}");
    let mut session = writ.workload("mailer").connect();
    session.connection.send(format!("{good}{broken}{good}").as_bytes()).unwrap();
    assert_eq!(session.connection.receive().unwrap().status, 200);
    assert_eq!(session.connection.receive().unwrap().status, 400);
    assert!(session.connection.is_ended());
}

/// A-035: the body has a time limit of its own.
#[test]
fn a_body_that_does_not_come_is_timed_out() {
    let writ = Setup::new().client("mailer", MAILER).set("limits.request_timeout", "1s").start();
    let mut session = writ.workload("mailer").connect();
    let head =
        format!("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n\r\ngrant");
    let started = Instant::now();
    session.connection.send(head.as_bytes()).unwrap();
    let response = session.connection.receive().unwrap();
    assert_eq!((response.status, response.json()["reason"].as_str()), (408, Some("request_timeout")));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(session.connection.is_ended());
}

/// A-035
#[test]
fn a_head_that_does_not_end_is_timed_out() {
    let writ = Setup::new().client("mailer", MAILER).set("limits.request_timeout", "1s").start();
    let mut session = writ.workload("mailer").connect();
    session.connection.send(b"POST /token HTTP/1.1\r\nHost: local").unwrap();
    let started = Instant::now();
    if let Ok(response) = session.connection.receive() {
        assert_eq!(response.status, 408);
    }
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(session.connection.is_ended());
}

/// A-042
#[test]
fn a_client_above_its_rate_is_told_when_to_come_back() {
    let writ = Setup::new()
        .client("mailer", MAILER)
        .client("other", MAILER)
        .set("limits.requests_per_second_per_client", 2)
        .start();
    let client = writ.workload("mailer");
    let limited = (0..50).map(|_| client.token(&good())).find(|answer| answer.status() != 200);
    limited.expect("50 requests are more than 2 a second").refused(429, "temporarily_unavailable", "rate_limited");
    writ.workload("other").token(&good()).issued();
}

/// CONTRACT 2
#[test]
fn several_requests_share_a_connection() {
    let writ = scene::mailer();
    let mut session = writ.workload("mailer").connect();
    for _ in 0..3 {
        session.token(&good()).issued();
    }
    session.token(&good().without("scope")).invalid_request("parameter_missing");
    session.token(&good()).issued();
}

/// CONTRACT 2
#[test]
fn an_old_connection_is_ended_with_its_next_answer() {
    let writ = Setup::new().client("mailer", MAILER).set("limits.connection_max_age", "1s").start();
    let mut session = writ.workload("mailer").connect();
    let opened = Instant::now();
    let ended = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(100));
        session.token(&good())
    })
    .take(100)
    .find(|answer| answer.response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")));
    ended.expect("a connection has a maximum age").issued();
    assert!(opened.elapsed() >= Duration::from_secs(1));
    assert!(session.connection.is_ended());
}

/// A-041
#[test]
fn plain_http_on_a_tls_port_is_closed() {
    let writ = scene::mailer();
    let mut connection = Connection::plain(writ.site().endpoints().exchange).unwrap();
    connection.send(b"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(connection.receive().is_err());
    ask(&writ, &good()).issued();
}

/// A-035
#[test]
fn a_silent_tcp_connection_harms_nobody() {
    let writ = scene::mailer();
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = TcpStream::connect(writ.site().endpoints().exchange).unwrap();
            socket.write_all(&[0x16, 3, 1]).unwrap();
            socket
        })
        .collect();
    ask(&writ, &good()).issued();
    drop(silent);
}

/// A-036: beyond the limit a connection waits or is closed; what is open goes on, and so does `/livez`.
#[test]
fn connections_beyond_the_limit_harm_nobody() {
    let writ = Setup::new().client("mailer", MAILER).set("limits.max_connections", 4).start();
    let client = writ.workload("mailer");
    let mut first = client.connect();
    first.token(&good()).issued();
    let waiting: Vec<TcpStream> =
        (0..40).filter_map(|_| TcpStream::connect(writ.site().endpoints().exchange).ok()).collect();
    assert_eq!(first.token(&good()).status(), 200);
    assert_eq!(writ.site().ops("/livez").status, 200);
    drop((first, waiting));
    crate::support::eventually("there is room again", || client.try_token(&good()).ok()).issued();
}

/// A-023
#[test]
fn identity_headers_of_proxies_are_ignored() {
    let writ = scene::mailer();
    let headers = [
        ("Content-Type", FORM),
        ("X-Forwarded-Client-Cert", "URI=spiffe://trust-domain.example/mailer"),
        ("Client-Cert", ":AAAA:"),
        ("X-SSL-Client-S-DN", "CN=mailer"),
    ];
    let body = good().encode();
    writ.workload("nobody").post(&headers, body.as_bytes()).invalid_client("client_unknown");
    let issued = writ.workload("mailer").post(&headers, body.as_bytes()).issued();
    assert_eq!(issued.claims["req_wl"], "mailer");
}

/// A-068, R-AUTHN-13
#[test]
fn a_txn_token_authenticates_nobody() {
    let writ = scene::mailer();
    let token = ask(&writ, &good()).issued().token;
    let bearer = format!("Bearer {token}");
    let headers = [("Content-Type", FORM), ("Authorization", bearer.as_str())];
    let answer = writ.workload("nobody").post(&headers, good().encode().as_bytes());
    answer.invalid_client("client_unknown");
    let headers = [("Content-Type", FORM), ("Txn-Token", token.as_str())];
    writ.workload("nobody").post(&headers, good().encode().as_bytes()).invalid_client("client_unknown");
}
