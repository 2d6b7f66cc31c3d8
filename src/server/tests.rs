//! The listeners on real sockets, with stub handlers that the body of a request controls.

mod description;
mod service;

use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::AlertDescription;
use tokio::net::TcpStream;

use self::service::{Client, Service, post, post_introspection};
use super::Listeners;
use super::pki::{self, Ca};
use super::tls::MinVersion;
use tokio::time::timeout;
use writ_core::client::Thumbprint;
use writ_core::endpoint::Endpoint;
use writ_core::refusal::Reason;

async fn alert(service: &Service, leaf: Option<&pki::Leaf>) -> Option<AlertDescription> {
    let config = pki::client_config(&service.ca, leaf, MinVersion::Tls13);
    service.alert(config).await
}

/// A-001, A-002, A-003, A-007
#[tokio::test]
async fn a_wrong_certificate_ends_in_the_handshake() {
    let service = Service::start(|_| ());
    let ca = &service.ca;
    let with_usage = |usage| ca.leaf("client", |params| params.extended_key_usages = vec![usage]);
    let bare = ca.leaf("client", |params| params.extended_key_usages.clear());
    for (leaf, expected) in [
        (None, Some(AlertDescription::CertificateRequired)),
        (Some(ca.client(1)), None),
        (Some(bare), None),
        (Some(ca.expired_client()), Some(AlertDescription::CertificateExpired)),
        (Some(ca.future_client()), Some(AlertDescription::CertificateExpired)),
        (Some(Ca::new("stranger").client(1)), Some(AlertDescription::UnknownCA)),
        (Some(with_usage(ExtendedKeyUsagePurpose::ServerAuth)), Some(AlertDescription::UnsupportedCertificate)),
        (Some(with_usage(ExtendedKeyUsagePurpose::Any)), Some(AlertDescription::UnsupportedCertificate)),
        (Some(ca.client(7)), Some(AlertDescription::CertificateRevoked)),
        (Some(pki::self_signed(3600)), Some(AlertDescription::UnknownCA)),
    ] {
        assert_eq!(alert(&service, leaf.as_ref()).await, expected);
    }
    let old = pki::client_config(ca, Some(&ca.client(1)), MinVersion::Tls12);
    assert_eq!(service.alert(old).await, Some(AlertDescription::ProtocolVersion));
}

/// A-025
#[tokio::test]
async fn a_registered_self_signed_certificate_is_let_in() {
    let service = Service::start(|_| ());
    let (known, expired) = (pki::self_signed(3600), pki::self_signed(-1));
    service.trust.register([&known, &expired].map(|leaf| Thumbprint::of(&leaf.der)).into());
    let mut client = service.client(&known).await;
    assert_eq!(client.ask(&post("echo")).await.status, 200);
    assert_eq!(alert(&service, Some(&expired)).await, Some(AlertDescription::CertificateExpired));
    service.trust.register(std::collections::HashSet::new());
    let reply = client.ask(&post("echo")).await;
    assert_eq!((reply.status, reply.reason()), (401, "client_unknown"));
}

#[tokio::test]
async fn tls_12_is_spoken_where_it_is_configured() {
    let service = Service::start(|settings| settings.tls.min_version = MinVersion::Tls12);
    let leaf = service.ca.client(1);
    let config = pki::client_config(&service.ca, Some(&leaf), MinVersion::Tls12);
    let mut client = Client::connect(service.addresses.exchange, config).await.unwrap();
    assert_eq!(client.ask(&post("echo")).await.status, 200);
}

#[tokio::test]
async fn certificate_body_and_id_reach_the_handler() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client(1);
    let mut client = service.client(&leaf).await;
    let request = post("echo me").replace("Host:", "X-Request-Id: my.own-1\r\nHost:");
    let reply = client.ask(&request).await;
    assert_eq!(reply.status, 200);
    let expected = format!("{} my.own-1 echo me", Thumbprint::of(&leaf.der));
    assert_eq!(reply.json()["access_token"], expected.as_str());
    assert_eq!(reply.header("x-request-id"), Some("my.own-1"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("pragma"), Some("no-cache"));
    let again = client.ask(&post("refuse")).await;
    assert_eq!((again.status, again.reason()), (400, "token_too_large"));
    assert!(service.rejected().is_empty());
}

/// A-036, A-042: a certificate has its share of the connections, and the others are served.
#[tokio::test]
async fn no_certificate_can_have_all_connections() {
    let service = Service::start(|settings| settings.max_connections = 40);
    let (greedy, modest) = (service.ca.client(1), service.ca.client(2));
    let mut held = Vec::new();
    loop {
        let config = pki::client_config(&service.ca, Some(&greedy), MinVersion::Tls13);
        let Ok(mut client) = Client::connect(service.addresses.exchange, config).await else { break };
        if !client.is_answered().await {
            break;
        }
        held.push(client);
    }
    assert!((20..40).contains(&held.len()), "{}", held.len());
    assert_eq!(service.client(&modest).await.ask(&post("echo")).await.status, 200);
    held.clear();
    let again = async || {
        let config = pki::client_config(&service.ca, Some(&greedy), MinVersion::Tls13);
        Client::connect(service.addresses.exchange, config).await.ok()?.is_answered().await.then_some(())
    };
    while again().await.is_none() {}
}

/// A-028, A-031, A-039
#[tokio::test]
async fn requests_that_reach_no_handler_are_answered_in_json_and_recorded() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client(1);
    for (request, status, reason) in [
        ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404, "not_found"),
        ("GET /token HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        ("PUT /token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        (
            "OPTIONS /token HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
        ),
        (post("x").replace("x-www-form-urlencoded", "json"), 415, "media_type_unsupported"),
        (post("x").replace("Host:", "Content-Encoding: gzip\r\nHost:"), 415, "media_type_unsupported"),
        (
            post("x").replace("x-www-form-urlencoded", "json").replace("/token", "/%74oken"),
            415,
            "media_type_unsupported",
        ),
        ("GET /introspect HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        (post_introspection("x").replace("x-www-form-urlencoded", "json"), 415, "media_type_unsupported"),
    ] {
        let reply = service.client(&leaf).await.ask(&request).await;
        assert_eq!((reply.status, reply.reason()), (status, reason), "{request}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("x-request-id").is_some());
        assert!(!reply.names().any(|name| name.starts_with("access-control")));
        assert_eq!(reply.header("allow"), (status == 405).then_some("POST"));
    }
    let recorded = [Endpoint::Token, Endpoint::Token, Endpoint::Token, Endpoint::Introspection]
        .map(|to| (to, Reason::MediaTypeUnsupported));
    assert_eq!(service.rejected(), recorded, "only POST to an endpoint is audited");
}

#[tokio::test]
async fn each_endpoint_has_its_handler() {
    let service = Service::start(|_| ());
    let mut client = service.client(&service.ca.client(1)).await;
    assert!(client.ask(&post("echo")).await.json()["access_token"].is_string());
    let reply = client.ask(&post_introspection("echo")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"active":false}"#));
    assert_eq!((reply.header("cache-control"), reply.header("pragma")), (Some("no-store"), Some("no-cache")));
}

/// A-030
#[tokio::test]
async fn a_body_that_is_too_large_is_not_read_to_its_end() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client(1);
    let announced = post("x").replace("Content-Length: 1\r\n", "Content-Length: 1000000000\r\n");
    let reply = service.client(&leaf).await.ask(&announced).await;
    assert_eq!((reply.status, reply.reason(), reply.header("connection")), (413, "body_too_large", Some("close")));

    let chunked = post("x").replace("Content-Length: 1\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n");
    let mut client = service.client(&leaf).await;
    client.send(chunked.as_bytes()).await;
    for _ in 0..17 {
        client.send(format!("1000\r\n{}\r\n", "a".repeat(4096)).as_bytes()).await;
    }
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.reason(), reply.header("connection")), (413, "body_too_large", Some("close")));
    client.ends_within(Duration::from_secs(4)).await;
    assert_eq!(service.client(&leaf).await.ask(&post(&"a".repeat(64 * 1024))).await.status, 200);
}

/// A-035
#[tokio::test]
async fn a_slow_request_is_cut_off() {
    let service = Service::start(|settings| settings.request_timeout = Duration::from_secs(1));
    let leaf = service.ca.client(1);
    let slow_body = async {
        let mut client = service.client(&leaf).await;
        client.send(post("a=1").replace("Content-Length: 3", "Content-Length: 9").as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.reason()), (408, "request_timeout"));
        client.ends_within(Duration::from_secs(4)).await;
    };
    let slow_chunks = async {
        let mut client = service.client(&leaf).await;
        let head = post("").replace("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n");
        client.send(head.as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.reason()), (408, "request_timeout"));
        client.ends_within(Duration::from_secs(4)).await;
    };
    let slow_work = async {
        let reply = service.client(&leaf).await.ask(&post("hang")).await;
        assert_eq!((reply.status, reply.reason()), (408, "request_timeout"));
    };
    let slow_head = async {
        let mut client = service.client(&leaf).await;
        client.send(b"POST /token HT").await;
        assert_eq!(client.reply().await.status, 408);
        client.ends_within(Duration::from_secs(4)).await;
    };
    let slow_second_head = async {
        let mut client = service.client(&leaf).await;
        assert_eq!(client.ask(&post("echo")).await.status, 200);
        client.send(b"POST /token HT").await;
        client.ends_within(Duration::from_secs(4)).await;
    };
    let silence = async {
        let mut socket = TcpStream::connect(service.addresses.exchange).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut rest);
        timeout(Duration::from_secs(4), read).await.unwrap().unwrap();
    };
    tokio::join!(slow_body, slow_chunks, slow_work, slow_head, slow_second_head, silence);
    let recorded = [(Endpoint::Token, Reason::RequestTimeout); 2];
    assert_eq!(service.rejected(), recorded, "what was handed over is recorded by its flow");
}

/// A-033: one answer, and nothing after it is read.
#[tokio::test]
async fn a_body_that_is_not_http_gets_one_400() {
    let service = Service::start(|_| ());
    let mut client = service.client(&service.ca.client(1)).await;
    let head = post("").replace("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n");
    client.send(format!("{head}zz\r\n{}", post("echo")).as_bytes()).await;
    let all = client.read_to_end().await;
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
    assert!(all.starts_with("HTTP/1.1 400"), "{all}");
}

/// A-131
#[tokio::test]
async fn a_panic_is_one_500() {
    let service = Service::start(|_| ());
    let mut client = service.client(&service.ca.client(1)).await;
    let reply = client.ask(&post("panic")).await;
    assert_eq!((reply.status, reply.reason()), (500, "internal"));
    assert!(!reply.body.contains("secret"));
    assert_eq!(client.ask(&post("echo")).await.status, 200);
}

#[tokio::test]
async fn documents_are_served_with_and_without_a_certificate() {
    let service = Service::start(|_| ());
    let anonymous = pki::client_config(&service.ca, None, MinVersion::Tls13);
    let mut open = Client::connect(service.addresses.discovery.unwrap(), anonymous).await.unwrap();
    let mut closed = service.client(&service.ca.client(1)).await;
    for client in [&mut open, &mut closed] {
        let jwks = client.ask("GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!((jwks.status, jwks.body.as_str()), (200, "{\"keys\":[]}"));
        assert_eq!(jwks.header("content-type"), Some("application/jwk-set+json"));
        assert_eq!(jwks.header("cache-control"), Some("public, max-age=600"));
        assert_eq!(jwks.header("pragma"), None);
        let etag = jwks.header("etag").unwrap();
        let conditional =
            format!("GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"other\", {etag}\r\n\r\n");
        let unchanged = client.ask(&conditional).await;
        assert_eq!((unchanged.status, unchanged.body.as_str(), unchanged.header("etag")), (304, "", Some(etag)));

        client.send(b"HEAD /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("11"), Some(etag)));
        let metadata = client.ask("GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!((metadata.status, metadata.header("content-type")), (200, Some("application/json")));
        let wrong = client.ask("DELETE /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")));
    }
    assert_eq!(open.ask(&post("echo")).await.status, 404);
}

#[tokio::test]
async fn operators_learn_what_fails() {
    let service = Service::start(|_| ());
    let mut ops = Client::plain(service.addresses.ops.unwrap()).await;
    let live = ops.ask("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((live.status, live.body.as_str()), (200, "{\"status\":\"ok\"}"));
    assert_eq!(ops.ask("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.status, 200);
    service.fail("store");
    let ready = ops.ask("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "{\"status\":\"unavailable\",\"failing\":[\"store\"]}"));
    let metrics = ops.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((metrics.status, metrics.body.as_str()), (200, "writ_build_info 1\n"));
    assert_eq!(ops.ask(&post("echo")).await.status, 404);
}

/// A-012
#[tokio::test]
async fn a_revocation_reaches_an_open_connection() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client(8);
    let mut client = service.client(&leaf).await;
    let mut other = service.client(&service.ca.client(9)).await;
    assert_eq!(client.ask(&post("echo")).await.status, 200);
    service.replace_crl(&service.ca.crl(2, &[7, 8]));
    assert!(service.trust.reload().is_some());
    let reply = client.ask(&post("echo")).await;
    assert_eq!((reply.status, reply.reason(), reply.header("connection")), (401, "client_unknown", Some("close")));
    client.ends_within(Duration::from_secs(4)).await;
    assert_eq!(other.ask(&post("echo")).await.status, 200);
    assert_eq!(alert(&service, Some(&leaf)).await, Some(AlertDescription::CertificateRevoked));
}

#[tokio::test]
async fn a_changed_file_counts_once_it_is_looked_at() {
    let service = Service::start(|_| ());
    service.replace_crl(&service.ca.crl(2, &[8]));
    let reloaded = service.trust.reload().unwrap();
    assert!(reloaded.clients && !reloaded.certificate);
    assert_eq!(alert(&service, Some(&service.ca.client(8))).await, Some(AlertDescription::CertificateRevoked));
}

/// A-012
#[tokio::test]
async fn a_certificate_ends_on_an_open_connection_too() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client_until(2);
    let mut client = service.client(&leaf).await;
    let mut served = 0;
    let refused = loop {
        let reply = client.ask(&post("echo")).await;
        if reply.status != 200 {
            break reply;
        }
        served += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(served > 0);
    assert_eq!((refused.status, refused.reason()), (401, "client_unknown"));
}

#[tokio::test]
async fn an_old_connection_ends_with_its_next_answer() {
    let service = Service::start(|settings| settings.connection_max_age = Duration::from_secs(1));
    let mut client = service.client(&service.ca.client(1)).await;
    let first = client.ask(&post("echo")).await;
    assert_eq!((first.status, first.header("connection")), (200, None));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = client.ask(&post("echo")).await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    client.ends_within(Duration::from_secs(4)).await;
}

/// A-043
#[tokio::test]
async fn a_stop_lets_requests_in_flight_finish() {
    let service = Service::start(|_| ());
    let leaf = service.ca.client(1);
    let (mut busy, mut idle) = (service.client(&leaf).await, service.client(&leaf).await);
    assert_eq!(idle.ask(&post("echo")).await.status, 200);
    busy.send(post("wait").as_bytes()).await;
    service.waiting().await;
    let (stopped, release) = service.stop();
    idle.ends_within(Duration::from_secs(1)).await;
    release.notify_waiters();
    let reply = busy.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    timeout(Duration::from_secs(5), stopped).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_it_may() {
    let service = Service::start(|settings| settings.drain_timeout = Duration::from_secs(1));
    let mut busy = service.client(&service.ca.client(1)).await;
    busy.send(post("hang").as_bytes()).await;
    service.waiting().await;
    let (stopped, _) = service.stop();
    timeout(Duration::from_secs(4), stopped).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let service = Service::start(|_| ());
    let mut settings = service.settings.clone();
    settings.ops = service.addresses.ops;
    settings.exchange = "127.0.0.1:0".parse().unwrap();
    let error = Listeners::bind(settings).unwrap_err().to_string();
    let expected = format!("listen.ops: cannot listen on {}: ", service.addresses.ops.unwrap());
    assert!(error.starts_with(&expected), "{error}");
}

#[tokio::test]
async fn http2_is_spoken_only_where_it_is_configured() {
    for (http2, expected) in [(false, b"http/1.1".as_slice()), (true, b"h2")] {
        let service = Service::start(|settings| settings.http2 = http2);
        let mut config = pki::client_config(&service.ca, Some(&service.ca.client(1)), MinVersion::Tls13);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::connect(service.addresses.exchange, config).await.unwrap();
        assert_eq!(client.protocol(), Some(expected));
    }
}
