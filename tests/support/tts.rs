//! Another Transaction Token Service: an HTTPS server on loopback that wants a client certificate, issues Txn-Tokens as
//! the draft has it, and can be wrong in one respect at a time.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use writ_verifier::json as strict;
use writ_verifier::jwks::KeySet;
use writ_verifier::jws::Jws;

use super::jose::{self, Key};
use super::pki::{self, Ca, Credentials};
use super::workload::{ACCESS_TOKEN, FORM, TOKEN_EXCHANGE, TXN_TOKEN};
use super::{DEADLINE, TRUST_DOMAIN, now};

/// The purposes of its only client; whoever presents a Txn-Token may have any.
pub(crate) const PURPOSE: &str = "trade.execute";
pub(crate) const OTHER_PURPOSE: &str = "trade.report";
/// A purpose that its client may not get.
pub(crate) const FORBIDDEN_PURPOSE: &str = "trade.admin";

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// In what it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// In nothing.
    None,

    /// Metadata name another issuer.
    ForeignIssuer,
    /// Metadata have no `token_endpoint` that is an https URL, only its alias for mTLS.
    PlainEndpoint,
    /// Metadata have a `jwks_uri` without TLS.
    PlainKeys,
    /// Metadata do not list token exchange.
    NoExchange,
    /// Metadata list JWTs as authentication, signed with `none`.
    UnsignedAssertions,
    /// `response_types_supported` is a text.
    TextAsResponseTypes,
    /// `mtls_endpoint_aliases` is a list.
    ListAsAliases,
    /// No keys where they should be.
    NoKeys,
    /// No published key can be used.
    UnusableKeys,
    /// A symmetric key is published.
    PublishesSecret,
    /// Two keys are published under one name.
    OneNameForTwoKeys,

    /// `Content-Type` of a success.
    AnswersText,
    /// `Cache-Control` of a success.
    CachedAnswers,
    /// `issued_token_type`.
    SaysJwt,
    /// `token_type`.
    SaysBearer,
    AddsRefreshToken,
    /// `refresh_token` is there, and null.
    NullAsRefreshToken,
    /// `expires_in` is more than the token lives.
    LateExpiresIn,
    /// `scope` of the answer is not that of the token.
    SaysOtherScope,

    /// `typ`.
    WrongTyp,
    /// `alg`.
    Symmetric,
    /// The draft only recommends a `kid`.
    NoKid,
    UnknownKid,
    /// A signature by a key that is not the one published.
    WrongSignature,
    Milliseconds,
    LivesForHours,
    /// `aud`.
    AudienceArray,
    /// `iss`.
    OtherIss,
    ReusesTxn,
    EmptyTxn,
    EmptySubject,
    NoRequester,
    GrantsMore,
    TextAsContext,
    CopiesSubjectToken,
    /// A member twice in the claims.
    RepeatsClaim,
    /// `nbf` lies ahead.
    NotBefore,

    IgnoresAudience,
    /// Another code than RFC 8693 advises for an unknown audience.
    OtherTargetCode,
    TakesTwoAudiences,
    /// Does without this parameter.
    TakesWithout(&'static str),
    /// Takes this parameter for absent where it is empty, and then does without it.
    TakesEmpty(&'static str),
    /// Takes the first value of this parameter.
    TakesRepeated(&'static str),
    /// Issues a Txn-Token whatever type of token is asked for, unless it is one of OAuth's own.
    TakesUnknownRequestedType,
    /// Issues access tokens as well, as an authorization server may.
    IssuesAccessTokens,
    TakesUnknownGrant,
    /// Looks at the first purpose only.
    TakesWiderScope,
    /// Takes a purpose that ends like this.
    TakesPurpose(&'static str),
    /// Takes this type of token for an access token.
    TakesType(&'static str),
    TakesUnsigned,
    TakesBrokenSignatures,
    /// The code that RFC 8693 does not have for subject tokens.
    InvalidGrant,
    /// Takes this text as `request_details` or `request_context`.
    TakesContext(&'static str, &'static str),
    IgnoresActor,
    RefusesUnknownParameters,
    /// Takes parameters from the query string of a GET.
    TakesGet,
    TakesJson,
    ReadsQuery,
    TakesAnyCaller,

    TextAsRefusal,
    ForbiddenAsRefusal,
    CachedRefusals,
    QuotesInDescription,
    EchoesSubjectToken,

    TakesTxnTokenAsAccessToken,
    NewTxnOnReplacement,
    /// A replaced token has another purpose besides.
    GrowsOnReplacement,
    WidensReplacement,
    /// Does not look at the signature of its own tokens.
    TakesForgedTxnToken,
    TakesExpired,
}

/// A running service.
pub(crate) struct Tts {
    address: SocketAddr,
    /// Who vouches for it and for its client.
    pub(crate) ca: Ca,
    site: Arc<Site>,
    stop: Arc<AtomicBool>,
}

struct Site {
    fault: Fault,
    url: String,
    lifetime: u64,
    key: Key,
    /// Whose access tokens it takes.
    subject_key: Key,
    /// Its tokens and their claims.
    issued: Mutex<Vec<(String, Value)>>,
    txn: String,
}

/// Status, `error` and what it is about.
type No = (u16, &'static str);
type Parameters = Vec<(String, String)>;

/// A request as it came.
struct Request {
    method: String,
    path: String,
    query: String,
    media_type: String,
    body: String,
    has_certificate: bool,
}

/// Status, headers and body of an answer.
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
        let site = Arc::new(Site {
            fault,
            url: format!("https://localhost:{}", address.port()),
            lifetime,
            key: Key::es256("tts-1"),
            subject_key: Key::es256("issuer-1"),
            issued: Mutex::default(),
            txn: fresh_txn(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&site), Arc::clone(&stop));
        std::thread::spawn(move || serve(&listener, &Arc::new(config), &shared, &end));
        Self { address, ca, site, stop }
    }

    /// Its issuer.
    pub(crate) fn url(&self) -> &str {
        &self.site.url
    }

    /// The certificate of its client.
    pub(crate) fn credentials(&self) -> Credentials {
        self.ca.issue(pki::client("client"))
    }

    /// An access token that it takes.
    pub(crate) fn access_token(&self) -> String {
        self.site.access_token()
    }
}

impl Drop for Tts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, site: &Arc<Site>, stop: &AtomicBool) {
    for socket in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let (config, site) = (Arc::clone(config), Arc::clone(site));
        // A client that goes away is its own affair.
        std::thread::spawn(move || drop(answer(socket, config, &site)));
    }
}

fn answer(socket: TcpStream, config: Arc<ServerConfig>, site: &Site) -> io::Result<()> {
    socket.set_read_timeout(Some(DEADLINE))?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    let Some(request) = receive(&mut stream)? else { return Ok(()) };
    let request = Request { has_certificate: stream.conn.peer_certificates().is_some(), ..request };
    let Response(status, headers, body) = site.respond(&request);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn receive(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                let mut named = head.lines().skip(1).filter_map(|line| line.split_once(':'));
                let value = named.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
                value.unwrap_or_default().to_owned()
            };
            if body.len() >= header("content-length").parse().unwrap_or(0) {
                let mut line = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
                let method = line.next().unwrap_or_default();
                let target = line.next().unwrap_or_default();
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                return Ok(Some(Request {
                    method,
                    path: path.to_owned(),
                    query: query.to_owned(),
                    media_type: header("content-type"),
                    body: body.to_owned(),
                    has_certificate: false,
                }));
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            length => read.extend_from_slice(&chunk[..length]),
        }
    }
}

impl Site {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn respond(&self, request: &Request) -> Response {
        let document = |value: &Value| {
            Response(
                200,
                "Content-Type: application/json\r\nCache-Control: max-age=60\r\n".to_owned(),
                value.to_string(),
            )
        };
        match request.path.as_str() {
            "/.well-known/oauth-authorization-server" => document(&self.metadata()),
            "/jwks" if !self.has(Fault::NoKeys) => document(&self.jwks()),
            "/token" => match self.token(request) {
                Ok(answer) => self.success(&answer),
                Err(no) => self.refusal(no, request),
            },
            _ => Response(404, String::new(), String::new()),
        }
    }

    fn metadata(&self) -> Value {
        let issuer = if self.has(Fault::ForeignIssuer) { "https://other.example" } else { &self.url };
        let scheme = if self.has(Fault::PlainEndpoint) { "http" } else { "https" };
        let mut metadata = json!({
            "issuer": issuer,
            "token_endpoint": self.url.replacen("https", scheme, 1) + "/token",
            "mtls_endpoint_aliases": {"token_endpoint": format!("{}/token", self.url)},
            "jwks_uri": format!("{}/jwks", self.url),
            "grant_types_supported": [TOKEN_EXCHANGE],
            "token_endpoint_auth_methods_supported": ["tls_client_auth"],
            "response_types_supported": [],
            "txn_token_trust_domains_supported": [TRUST_DOMAIN],
        });
        let (name, value) = match self.fault {
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

    fn jwks(&self) -> Value {
        let mut keys = vec![self.key.jwk()];
        match self.fault {
            Fault::UnusableKeys => keys[0]["alg"] = json!("ES384"),
            Fault::PublishesSecret => {
                keys.push(json!({"kty": "oct", "k": "AAAA", "kid": "s", "alg": "HS256", "use": "sig"}));
            }
            // For encryption, so that it does not stand in the way of the other.
            Fault::OneNameForTwoKeys => {
                let mut second = Key::es256(&self.key.kid).jwk();
                second["key_ops"] = json!(["deriveKey"]);
                keys.push(second);
            }
            _ => {}
        }
        json!({ "keys": keys })
    }

    fn success(&self, answer: &Value) -> Response {
        let media_type = if self.has(Fault::AnswersText) { "text/plain" } else { "application/json" };
        let cache = if self.has(Fault::CachedAnswers) { "max-age=60" } else { "no-store" };
        let headers = format!("Content-Type: {media_type}\r\nCache-Control: {cache}\r\nPragma: no-cache\r\n");
        Response(200, headers, answer.to_string())
    }

    fn refusal(&self, (status, error): No, request: &Request) -> Response {
        let cache = if self.has(Fault::CachedRefusals) { "max-age=60" } else { "no-store" };
        let mut headers = format!("Content-Type: application/json\r\nCache-Control: {cache}\r\nAllow: POST\r\n");
        let description = match self.fault {
            Fault::QuotesInDescription => "\"no\"".to_owned(),
            Fault::EchoesSubjectToken => {
                let parameters = parse(&request.body);
                parameters
                    .into_iter()
                    .find(|(name, _)| name == "subject_token")
                    .map(|(_, token)| token)
                    .unwrap_or_default()
            }
            _ => "no".to_owned(),
        };
        let mut body = json!({"error": error, "error_description": description}).to_string();
        if self.has(Fault::TextAsRefusal) {
            headers = headers.replace("application/json", "text/plain");
            "no".clone_into(&mut body);
        }
        let status = if self.has(Fault::ForbiddenAsRefusal) && status == 400 { 403 } else { status };
        Response(status, headers, body)
    }

    fn token(&self, request: &Request) -> Result<Value, No> {
        if !request.has_certificate && !self.has(Fault::TakesAnyCaller) {
            return Err((401, "invalid_client"));
        }
        let mut parameters = match (request.method.as_str(), request.media_type.as_str()) {
            ("POST", FORM) => parse(&request.body),
            ("POST", "application/json") if self.has(Fault::TakesJson) => parse_json(&request.body),
            ("POST", _) => return Err((415, "invalid_request")),
            _ if self.has(Fault::TakesGet) => parse(&request.query),
            _ => return Err((405, "invalid_request")),
        };
        if self.has(Fault::ReadsQuery) {
            parameters.extend(parse(&request.query));
        }
        let is_there = |name: &str| parameters.iter().any(|(other, _)| other == name);
        let is_empty = |name: &str| parameters.iter().any(|(other, value)| other == name && value.is_empty());
        match self.fault {
            Fault::TakesWithout(name) if !is_there(name) => parameters.push(self.usual(name)),
            Fault::TakesEmpty(name) if is_empty(name) => parameters.push(self.usual(name)),
            _ => {}
        }
        self.exchange(&parameters)
    }

    /// A parameter of a good request.
    fn usual(&self, name: &str) -> (String, String) {
        let value = match name {
            "grant_type" => TOKEN_EXCHANGE.to_owned(),
            "requested_token_type" => TXN_TOKEN.to_owned(),
            "audience" => TRUST_DOMAIN.to_owned(),
            "scope" => PURPOSE.to_owned(),
            "subject_token" => self.access_token(),
            _ => ACCESS_TOKEN.to_owned(),
        };
        (name.to_owned(), value)
    }

    fn access_token(&self) -> String {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": self.subject_key.kid});
        self.subject_key.token(&header.to_string(), &json!({"sub": "alice", "exp": now() + 600}).to_string())
    }

    fn exchange(&self, parameters: &Parameters) -> Result<Value, No> {
        const KNOWN: [&str; 11] = [
            "grant_type",
            "requested_token_type",
            "audience",
            "scope",
            "subject_token",
            "subject_token_type",
            "request_details",
            "request_context",
            "actor_token",
            "actor_token_type",
            "resource",
        ];
        let bad = (400, "invalid_request");
        let values = |name: &str| -> Vec<&str> {
            let named = parameters.iter().filter(|(other, value)| other == name && !value.is_empty());
            named.map(|(_, value)| value.as_str()).collect()
        };
        for name in KNOWN {
            let is_taken = name == "audience" || self.has(Fault::TakesRepeated(name));
            if values(name).len() > 1 && !is_taken {
                return Err(bad);
            }
        }
        if self.has(Fault::RefusesUnknownParameters)
            && parameters.iter().any(|(name, _)| !KNOWN.contains(&name.as_str()))
        {
            return Err(bad);
        }
        let one = |name: &str| values(name).first().copied();
        match one("grant_type") {
            Some(TOKEN_EXCHANGE) => {}
            Some(_) if self.has(Fault::TakesUnknownGrant) => {}
            Some(_) => return Err((400, "unsupported_grant_type")),
            None => return Err(bad),
        }
        match one("requested_token_type") {
            Some(TXN_TOKEN) => {}
            Some(kind) if self.has(Fault::TakesUnknownRequestedType) && !kind.starts_with(TOKEN_TYPE) => {}
            Some(ACCESS_TOKEN) if self.has(Fault::IssuesAccessTokens) => {
                return Ok(json!({
                    "access_token": "opaque-access-token", "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer",
                }));
            }
            _ => return Err(bad),
        }
        match values("audience").as_slice() {
            [] => return Err(bad),
            [TRUST_DOMAIN] => {}
            [_] if self.has(Fault::IgnoresAudience) => {}
            [_] if self.has(Fault::OtherTargetCode) => return Err(bad),
            [_, _] if self.has(Fault::TakesTwoAudiences) => {}
            _ => return Err((400, "invalid_target")),
        }
        if one("actor_token").or(one("actor_token_type")).is_some()
            && !(self.has(Fault::IgnoresActor) && one("actor_token").is_none())
        {
            return Err(bad);
        }
        if one("resource").is_some() {
            return Err((400, "invalid_target"));
        }
        for name in ["request_details", "request_context"] {
            let text = one(name).unwrap_or("{}");
            let is_json = strict::check(text, strict::Limits::DEFAULT).is_ok() && text.starts_with('{');
            if !is_json && !matches!(self.fault, Fault::TakesContext(which, value) if which == name && value == text) {
                return Err(bad);
            }
        }
        let (Some(token), Some(kind), Some(scope)) = (one("subject_token"), one("subject_token_type"), one("scope"))
        else {
            return Err(bad);
        };
        let kind = match self.fault {
            Fault::TakesType(name) if kind.ends_with(name) => ACCESS_TOKEN,
            _ => kind,
        };
        match kind {
            ACCESS_TOKEN if self.has(Fault::TakesTxnTokenAsAccessToken) && self.own(token).is_some() => {
                Ok(self.issue(scope, "alice", token))
            }
            ACCESS_TOKEN => {
                self.subject(token)?;
                let mut purposes = scope.split(' ');
                let tolerated = |purpose: &str| matches!(self.fault, Fault::TakesPurpose(end) if scope.ends_with(end) && purpose.ends_with(end));
                let mine = |purpose: &str| [PURPOSE, OTHER_PURPOSE].contains(&purpose) || tolerated(purpose);
                let looked_at = if self.has(Fault::TakesWiderScope) { 1 } else { usize::MAX };
                if !purposes.by_ref().take(looked_at).all(mine) {
                    return Err((400, "invalid_scope"));
                }
                Ok(self.issue(scope, "alice", token))
            }
            TXN_TOKEN => self.replace(token, scope),
            _ => Err(bad),
        }
    }

    /// Whether an access token may be exchanged.
    fn subject(&self, token: &str) -> Result<(), No> {
        let bad = (400, "invalid_request");
        if self.has(Fault::TakesUnsigned) && token.ends_with('.') {
            return Ok(());
        }
        let malformed = if self.has(Fault::InvalidGrant) { (400, "invalid_grant") } else { bad };
        let is_decodable = token.split('.').count() == 3 && !token.starts_with("not.");
        if !is_decodable {
            return Err(malformed);
        }
        let jws = Jws::parse(token, 16 * 1024).map_err(|_| bad)?;
        let keys = KeySet::parse(json!({"keys": [self.subject_key.jwk()]}).to_string().as_bytes()).expect("a key set");
        let key = keys.find(jws.kid.as_deref(), jws.algorithm).map_err(|_| bad)?;
        let is_good = jws.typ.as_deref() == Some("at+jwt") && key.verify(&jws);
        if is_good || self.has(Fault::TakesBrokenSignatures) { Ok(()) } else { Err(bad) }
    }

    /// The claims of a token that was issued here.
    fn own(&self, token: &str) -> Option<Value> {
        let signed_part = token.rsplit_once('.')?.0;
        let issued = self.issued.lock().unwrap();
        let is_it = |other: &str| {
            other == token || (self.has(Fault::TakesForgedTxnToken) && other.starts_with(&format!("{signed_part}.")))
        };
        issued.iter().find(|(other, _)| is_it(other)).map(|(_, claims)| claims.clone())
    }

    fn replace(&self, token: &str, scope: &str) -> Result<Value, No> {
        let bad = (400, "invalid_request");
        let claims = self.own(token).ok_or(bad)?;
        if claims["exp"].as_u64().is_none_or(|exp| exp <= now()) && !self.has(Fault::TakesExpired) {
            return Err(bad);
        }
        let presented = claims["scope"].as_str().unwrap_or_default();
        let is_covered = scope.split(' ').all(|purpose| presented.split(' ').any(|mine| mine == purpose));
        if !is_covered && !self.has(Fault::WidensReplacement) {
            return Err((400, "invalid_scope"));
        }
        let txn = if self.has(Fault::NewTxnOnReplacement) { fresh_txn().into() } else { claims["txn"].clone() };
        let more = format!("{scope} {OTHER_PURPOSE}");
        let scope = if self.has(Fault::GrowsOnReplacement) { &more } else { scope };
        Ok(self.sign(scope, claims["sub"].as_str().unwrap_or_default(), &txn, token))
    }

    fn issue(&self, scope: &str, subject: &str, presented: &str) -> Value {
        let txn = if self.has(Fault::ReusesTxn) { self.txn.clone() } else { fresh_txn() };
        self.sign(scope, subject, &txn.into(), presented)
    }

    fn sign(&self, scope: &str, subject: &str, txn: &Value, presented: &str) -> Value {
        let lifetime = if self.has(Fault::LivesForHours) { 7200 } else { self.lifetime };
        let granted =
            if self.has(Fault::GrantsMore) { format!("{scope} {FORBIDDEN_PURPOSE}") } else { scope.to_owned() };
        let mut header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": self.key.kid});
        let mut claims = json!({
            "iss": self.url, "iat": now(), "exp": now() + lifetime, "aud": TRUST_DOMAIN, "txn": txn, "sub": subject,
            "scope": granted, "req_wl": "client",
        });
        match self.fault {
            Fault::WrongTyp => header["typ"] = json!("JWT"),
            Fault::Symmetric => header["alg"] = json!("HS256"),
            Fault::UnknownKid => header["kid"] = json!("nobody"),
            Fault::NoKid => drop(header.as_object_mut().expect("an object").remove("kid")),
            Fault::Milliseconds => {
                claims["iat"] = json!(now() * 1000);
                claims["exp"] = json!((now() + lifetime) * 1000);
            }
            Fault::AudienceArray => claims["aud"] = json!([TRUST_DOMAIN]),
            Fault::OtherIss => claims["iss"] = json!("https://other.example"),
            Fault::EmptyTxn => claims["txn"] = json!(""),
            Fault::EmptySubject => claims["sub"] = json!(""),
            Fault::NoRequester => drop(claims.as_object_mut().expect("an object").remove("req_wl")),
            Fault::NotBefore => claims["nbf"] = json!(now() + 3600),
            Fault::TextAsContext => claims["rctx"] = json!("text"),
            Fault::CopiesSubjectToken => claims["tctx"] = json!({"token": presented}),
            _ => {}
        }
        let (header, mut text) = (header.to_string(), claims.to_string());
        if self.has(Fault::RepeatsClaim) {
            text = text.replacen('{', r#"{"sub":"bob","#, 1);
        }
        let token = match self.fault {
            Fault::Symmetric => jose::seal(&header, &text, |message| jose::hs256(b"secret", message)),
            Fault::WrongSignature => Key::es256(&self.key.kid).token(&header, &text),
            _ => self.key.token(&header, &text),
        };
        self.issued.lock().unwrap().push((token.clone(), claims));
        self.in_answer(&token, lifetime, &granted)
    }

    fn in_answer(&self, token: &str, lifetime: u64, granted: &str) -> Value {
        let mut answer = json!({
            "access_token": token, "issued_token_type": TXN_TOKEN, "token_type": "N_A", "expires_in": lifetime,
            "scope": granted,
        });
        match self.fault {
            Fault::SaysJwt => answer["issued_token_type"] = json!(format!("{TOKEN_TYPE}jwt")),
            Fault::SaysBearer => answer["token_type"] = json!("Bearer"),
            Fault::AddsRefreshToken => answer["refresh_token"] = json!("for-ever"),
            Fault::NullAsRefreshToken => answer["refresh_token"] = Value::Null,
            Fault::LateExpiresIn => answer["expires_in"] = json!(lifetime * 10),
            Fault::SaysOtherScope => answer["scope"] = json!(OTHER_PURPOSE),
            _ => {}
        }
        answer
    }
}

fn parse(form: &str) -> Parameters {
    url::form_urlencoded::parse(form.as_bytes()).into_owned().collect()
}

fn parse_json(body: &str) -> Parameters {
    let members: HashMap<String, String> = serde_json::from_str(body).unwrap_or_default();
    members.into_iter().collect()
}

fn fresh_txn() -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    format!("{:032x}", u128::from_be_bytes(random))
}
