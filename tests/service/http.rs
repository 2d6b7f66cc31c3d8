//! HTTP/1.1 on every listener: framing, heads, time limits, limits on connections and rates (CONTRACT 2; A-030 to
//! A-042; R-REQ-17, R-POL-12). HTTP/2 is tested in `http2`.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::scene::{self, MAILER};
use crate::support::answer::Answer;
use crate::support::http::Connection;
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};

const DELIVER: &str = "mailbox.deliver";

fn ask(writ: &Writ, form: &Form) -> Answer {
    writ.workload("mailer").token(form)
}

fn good() -> Form {
    Form::client_credentials(DELIVER)
}

/// A-030
#[test]
fn a_chunked_body_above_64_kib_is_refused() {
    let writ = scene::shared_mailer();
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
    let writ = scene::shared_mailer();
    let body = good().encode();
    let request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(writ.workload("mailer").raw(request.as_bytes()).unwrap().status, 200);
}

/// A-039
#[test]
fn trace_is_not_answered_with_an_echo() {
    let writ = scene::shared_mailer();
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

/// A-040
#[test]
fn a_request_id_is_echoed_where_it_is_harmless() {
    let writ = scene::shared_mailer();
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
    let writ = scene::shared_mailer();
    let (first, second) = (ask(&writ, &good()).issued(), ask(&writ, &good()).issued());
    assert!(!first.request_id.is_empty());
    assert_ne!(first.request_id, second.request_id);
}

/// A-032
#[test]
fn an_oversized_head_ends_the_connection() {
    let writ = scene::shared_mailer();
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
    let writ = scene::shared_mailer();
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
    let writ = scene::shared_mailer();
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

/// RFC 9110 9.3.6: no tunnel is opened, and what follows is not read as a request.
#[test]
fn a_connect_is_refused_and_ends_the_connection() {
    let writ = scene::shared_mailer();
    refuses_unread(&writ, b"CONNECT trust-domain.example:443 HTTP/1.1\r\nHost: trust-domain.example:443\r\n\r\n");
    ask(&writ, &good()).issued();
}

/// A-034
#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_broken_one() {
    let writ = scene::shared_mailer();
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

/// A-042, R-POL-12, R-RESP-07: other clients are not limited with it.
#[test]
fn a_client_above_its_rate_limit_is_refused_for_a_while() {
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
    let writ = scene::shared_mailer();
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

/// A-041, R-REQ-17
#[test]
fn plain_http_on_a_tls_port_is_closed() {
    let writ = scene::shared_mailer();
    let body = good().encode();
    let post = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for request in ["GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n", &post] {
        let mut connection = Connection::plain(writ.site().endpoints().exchange).unwrap();
        connection.send(request.as_bytes()).unwrap();
        assert!(connection.receive().is_err());
    }
    ask(&writ, &good()).issued();
}

/// A-035
#[test]
fn silent_tcp_connections_do_not_delay_others() {
    let writ = scene::shared_mailer();
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

/// A-036: beyond the limit a connection waits or is closed; open connections and `/livez` are served.
#[test]
fn connections_beyond_the_limit_do_not_disturb_others() {
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
