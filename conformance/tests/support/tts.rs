//! Another Transaction Token Service: an HTTPS server on loopback that requires a client certificate, issues Txn-Tokens as
//! the draft says, and has one fault at most.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::exchange::{Exchange, Refusal, default_parameter, parse_form, parse_json};
use super::fault::Fault;
use super::jose::Key;
use super::pki::{self, Ca, Credentials};
use super::{DEADLINE, FORM, TOKEN_EXCHANGE, TRUST_DOMAIN};

/// A running service.
pub(crate) struct Tts {
    address: SocketAddr,
    /// The authority of the server and of its client.
    pub(crate) ca: Ca,
    exchange: Arc<Exchange>,
    stop: Arc<AtomicBool>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    media_type: String,
    body: String,
    has_certificate: bool,
}

/// Status, header lines and body.
struct Response(u16, String, String);

impl Tts {
    /// A service whose tokens live for `lifetime` seconds.
    pub(crate) fn start(fault: Fault, lifetime: u64) -> Self {
        let ca = Ca::root("another service");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        let verifier = if fault == Fault::TakesAnyCaller { verifier.allow_unauthenticated() } else { verifier };
        let server = ca.issue(pki::server());
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(server.chain.clone(), server.key())
            .expect("a certificate with its key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let url = format!("https://localhost:{}", address.port());
        let exchange = Arc::new(Exchange::new(fault, url, lifetime));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&exchange), Arc::clone(&stop));
        std::thread::spawn(move || serve(&listener, &Arc::new(config), &shared, &end));
        Self { address, ca, exchange, stop }
    }

    /// Its issuer.
    pub(crate) fn url(&self) -> &str {
        &self.exchange.url
    }

    /// The certificate of its client.
    pub(crate) fn credentials(&self) -> Credentials {
        self.ca.issue(pki::client("client"))
    }

    /// An access token that it accepts.
    pub(crate) fn access_token(&self) -> String {
        self.exchange.access_token()
    }
}

impl Drop for Tts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, exchange: &Arc<Exchange>, stop: &AtomicBool) {
    for socket in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let (config, exchange) = (Arc::clone(config), Arc::clone(exchange));
        // A client may close the connection at any time.
        std::thread::spawn(move || drop(answer(socket, config, &exchange)));
    }
}

fn answer(socket: TcpStream, config: Arc<ServerConfig>, exchange: &Exchange) -> io::Result<()> {
    socket.set_read_timeout(Some(DEADLINE))?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    let Some(request) = receive(&mut stream)? else { return Ok(()) };
    let request = Request { has_certificate: stream.conn.peer_certificates().is_some(), ..request };
    let Response(status, headers, body) = respond(exchange, &request);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// `None` if the connection ends before the request does.
fn receive(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some(request) = text.split_once("\r\n\r\n").and_then(|(head, body)| parse_request(head, body)) {
            return Ok(Some(request));
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            length => received.extend_from_slice(&chunk[..length]),
        }
    }
}

/// `None` if the body is shorter than its `Content-Length`.
fn parse_request(head: &str, body: &str) -> Option<Request> {
    let header = |name: &str| {
        let mut named = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let value = named.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
        value.unwrap_or_default().to_owned()
    };
    if body.len() < header("content-length").parse().unwrap_or(0) {
        return None;
    }
    let mut line = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    let method = line.next().unwrap_or_default();
    let target = line.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        media_type: header("content-type"),
        body: body.to_owned(),
        has_certificate: false,
    })
}

fn respond(exchange: &Exchange, request: &Request) -> Response {
    match request.path.as_str() {
        "/.well-known/oauth-authorization-server" => document(&metadata(exchange)),
        "/jwks" if !exchange.has(Fault::NoKeys) => document(&jwks(exchange)),
        "/token" => match token(exchange, request) {
            Ok(answer) => success(exchange, &answer),
            Err(refusal) => refuse(exchange, refusal, request),
        },
        _ => Response(404, String::new(), String::new()),
    }
}

fn document(value: &Value) -> Response {
    let headers = "Content-Type: application/json\r\nCache-Control: max-age=60\r\n";
    Response(200, headers.to_owned(), value.to_string())
}

fn metadata(exchange: &Exchange) -> Value {
    let url = &exchange.url;
    let issuer = if exchange.has(Fault::ForeignIssuer) { "https://other.example" } else { url };
    let scheme = if exchange.has(Fault::PlainEndpoint) { "http" } else { "https" };
    let mut metadata = json!({
        "issuer": issuer,
        "token_endpoint": url.replacen("https", scheme, 1) + "/token",
        "mtls_endpoint_aliases": {"token_endpoint": format!("{url}/token")},
        "jwks_uri": format!("{url}/jwks"),
        "grant_types_supported": [TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": ["tls_client_auth"],
        "response_types_supported": [],
        "txn_token_trust_domains_supported": [TRUST_DOMAIN],
    });
    let (name, value) = match exchange.fault {
        Fault::PlainKeys => ("jwks_uri", json!("http://localhost/jwks")),
        Fault::NoExchange => ("grant_types_supported", json!(["client_credentials"])),
        Fault::UnsignedAssertions => ("token_endpoint_auth_signing_alg_values_supported", json!(["none"])),
        Fault::TextAsResponseTypes => ("response_types_supported", json!("none")),
        Fault::ListAsAliases => ("mtls_endpoint_aliases", json!(["tls"])),
        _ => return metadata,
    };
    metadata[name] = value;
    metadata
}

fn jwks(exchange: &Exchange) -> Value {
    let mut keys = vec![exchange.key.jwk()];
    match exchange.fault {
        Fault::UnusableKeys => keys[0]["alg"] = json!("ES384"),
        Fault::PublishesSecret => {
            keys.push(json!({"kty": "oct", "k": "AAAA", "kid": "s", "alg": "HS256", "use": "sig"}));
        }
        // For encryption, so that the set remains usable.
        Fault::OneNameForTwoKeys => {
            let mut second = Key::es256(&exchange.key.kid).jwk();
            second["key_ops"] = json!(["deriveKey"]);
            keys.push(second);
        }
        _ => {}
    }
    json!({ "keys": keys })
}

fn token(exchange: &Exchange, request: &Request) -> Result<Value, Refusal> {
    if !request.has_certificate && !exchange.has(Fault::TakesAnyCaller) {
        return Err((401, "invalid_client"));
    }
    let mut parameters = match (request.method.as_str(), request.media_type.as_str()) {
        ("POST", FORM) => parse_form(&request.body),
        ("POST", "application/json") if exchange.has(Fault::TakesJson) => parse_json(&request.body),
        ("POST", _) => return Err((415, "invalid_request")),
        _ if exchange.has(Fault::TakesGet) => parse_form(&request.query),
        _ => return Err((405, "invalid_request")),
    };
    if exchange.has(Fault::ReadsQuery) {
        parameters.extend(parse_form(&request.query));
    }
    let is_there = |name: &str| parameters.iter().any(|(other, _)| other == name);
    let is_empty = |name: &str| parameters.iter().any(|(other, value)| other == name && value.is_empty());
    match exchange.fault {
        Fault::TakesWithout(name) if !is_there(name) => parameters.push(default_parameter(exchange, name)),
        Fault::TakesEmpty(name) if is_empty(name) => parameters.push(default_parameter(exchange, name)),
        _ => {}
    }
    exchange.exchange(&parameters)
}

fn success(exchange: &Exchange, answer: &Value) -> Response {
    let media_type = if exchange.has(Fault::AnswersText) { "text/plain" } else { "application/json" };
    let cache = if exchange.has(Fault::CachedAnswers) { "max-age=60" } else { "no-store" };
    let headers = format!("Content-Type: {media_type}\r\nCache-Control: {cache}\r\nPragma: no-cache\r\n");
    Response(200, headers, answer.to_string())
}

fn refuse(exchange: &Exchange, (status, error): Refusal, request: &Request) -> Response {
    let cache = if exchange.has(Fault::CachedRefusals) { "max-age=60" } else { "no-store" };
    let mut headers = format!("Content-Type: application/json\r\nCache-Control: {cache}\r\nAllow: POST\r\n");
    let description = match exchange.fault {
        Fault::QuotesInDescription => "\"no\"".to_owned(),
        Fault::EchoesSubjectToken => {
            let mut parameters = parse_form(&request.body).into_iter();
            parameters.find(|(name, _)| name == "subject_token").map(|(_, token)| token).unwrap_or_default()
        }
        _ => "no".to_owned(),
    };
    let mut body = json!({"error": error, "error_description": description}).to_string();
    if exchange.has(Fault::TextAsRefusal) {
        headers = headers.replace("application/json", "text/plain");
        "no".clone_into(&mut body);
    }
    let status = if exchange.has(Fault::ForbiddenAsRefusal) && status == 400 { 403 } else { status };
    Response(status, headers, body)
}
