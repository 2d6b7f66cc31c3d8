//! A subject issuer: an HTTPS server on loopback that publishes keys, introspects tokens, can misbehave on
//! request, and mints tokens.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::jose::{self, Key};
use super::now;
use super::pki::{self, Ca};

/// What `aud` of its access tokens must name.
pub(crate) const AUDIENCE: &str = "https://api.example";

/// How the issuer answers.
#[derive(Clone)]
pub(crate) enum Mode {
    /// As it should.
    Up,
    /// Every connection is closed at once.
    Down,
    /// With this status and a page of HTML.
    Status(u16),
    /// With this body, whatever is asked.
    Body(String),
    /// As it should, after a while.
    Slow(Duration),
    /// With a redirect to this address.
    Redirect(String),
}

/// How its introspection endpoint answers.
#[derive(Clone)]
pub(crate) enum Reply {
    /// With these members.
    Json(Value),
    /// With this status and body.
    Status(u16, String),
    /// With these bytes after the version of HTTP.
    Raw(String),
    /// Not at all: it waits for its client to go away.
    Silence,
    /// It closes the connection.
    Closed,
    /// A byte at a time, with a pause before each.
    Trickle(String),
    /// With a body that does not end.
    Endless,
}

/// What its introspection endpoint was asked.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    /// The request line.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The form, as it came.
    pub(crate) body: String,
}

pub(crate) struct Issuer {
    address: SocketAddr,
    ca: Ca,
    state: Arc<State>,
    stop: Arc<AtomicBool>,
    /// The key it signs with.
    pub(crate) key: Key,
}

struct State {
    mode: Mutex<Mode>,
    jwks: Mutex<Value>,
    metadata: Mutex<Value>,
    max_age: AtomicUsize,
    jwks_fetches: AtomicUsize,
    other_fetches: AtomicUsize,
    reply: Mutex<Reply>,
    requests: Mutex<Vec<ReceivedRequest>>,
}

impl Issuer {
    /// An issuer that signs with ES256.
    pub(crate) fn start() -> Self {
        Self::with_key(Key::es256("issuer-1"))
    }

    /// An issuer that signs with `key`.
    pub(crate) fn with_key(key: Key) -> Self {
        let ca = Ca::root("issuer authority");
        let server = ca.issue(pki::server());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(server.chain.clone(), server.key())
            .expect("a certificate with its key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let url = format!("https://localhost:{}", address.port());
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Up),
            jwks: Mutex::new(json!({"keys": [key.jwk()]})),
            metadata: Mutex::new(json!({"issuer": url, "jwks_uri": format!("{url}/jwks")})),
            max_age: AtomicUsize::new(300),
            jwks_fetches: AtomicUsize::new(0),
            other_fetches: AtomicUsize::new(0),
            reply: Mutex::new(Reply::Json(json!({"active": false}))),
            requests: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || serve(&listener, &Arc::new(config), &shared, &end));
        Self { address, ca, state, stop, key }
    }

    /// Its identifier, `iss` of its tokens.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Where its keys are.
    pub(crate) fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.url())
    }

    /// The authority that vouches for its server.
    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// From now on it answers like that.
    pub(crate) fn set_mode(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// From now on it publishes these keys.
    pub(crate) fn publish(&self, keys: &[Value]) {
        *self.state.jwks.lock().unwrap() = json!({"keys": keys});
    }

    /// From now on its metadata are these.
    pub(crate) fn set_metadata(&self, metadata: Value) {
        *self.state.metadata.lock().unwrap() = metadata;
    }

    /// `max-age` of its keys, in seconds.
    pub(crate) fn set_max_age(&self, seconds: usize) {
        self.state.max_age.store(seconds, Ordering::SeqCst);
    }

    /// The number of requests for its keys.
    pub(crate) fn jwks_fetches(&self) -> usize {
        self.state.jwks_fetches.load(Ordering::SeqCst)
    }

    /// The number of other requests.
    pub(crate) fn other_fetches(&self) -> usize {
        self.state.other_fetches.load(Ordering::SeqCst)
    }

    /// The URL of its introspection endpoint.
    pub(crate) fn introspection_endpoint(&self) -> String {
        format!("{}/introspect", self.url())
    }

    /// From now on it answers introspection requests like this.
    pub(crate) fn set_reply(&self, word: Reply) {
        *self.state.reply.lock().unwrap() = word;
    }

    /// The introspection requests so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    /// An introspection response about a valid token, to be changed.
    pub(crate) fn active() -> Value {
        json!({
            "active": true, "sub": "alice", "aud": AUDIENCE, "client_id": "web-app", "token_type": "Bearer",
            "iat": now(), "exp": now() + 600, "scope": "trade.stocks",
        })
    }

    /// A JWT for services that is marked as nothing else, to be changed and minted.
    pub(crate) fn jwt(&self) -> Draft<'_> {
        self.access_token().header("typ", "JWT").without("client_id").without("jti")
    }

    /// An ID token as OIDC has it, to be changed and minted.
    pub(crate) fn id_token(&self) -> Draft<'_> {
        let draft = self.jwt().without("scope").claim("aud", "web-app");
        draft.claim("nonce", "n-0S6_WzA2Mj").claim("auth_time", now()).claim("at_hash", "77QmUPtjPfzWtF2AnpK9RQ")
    }

    /// An access token as RFC 9068 has it, to be changed and minted.
    pub(crate) fn access_token(&self) -> Draft<'_> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).unwrap();
        Draft {
            key: &self.key,
            header: json!({"typ": "at+jwt", "alg": self.key.alg(), "kid": self.key.kid}),
            claims: json!({
                "iss": self.url(), "sub": "alice", "aud": AUDIENCE, "client_id": "web-app",
                "iat": now(), "exp": now() + 600, "jti": format!("{:016x}", u64::from_be_bytes(random)),
                "scope": "trade.stocks",
            }),
        }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// A token that is not signed yet.
pub(crate) struct Draft<'a> {
    key: &'a Key,
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl<'a> Draft<'a> {
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().expect("an object").remove(name);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.header.as_object_mut().expect("an object").remove(name);
        self
    }

    /// Signs with another key; the header stays as it is.
    pub(crate) fn signed_by(mut self, key: &'a Key) -> Self {
        self.key = key;
        self
    }

    pub(crate) fn mint(&self) -> String {
        self.key.token(&self.header.to_string(), &self.claims.to_string())
    }

    /// The token with `value`, which need not be JSON, as the claim `name`.
    pub(crate) fn mint_raw(&self, name: &str, value: &str) -> String {
        let mut claims = self.claims.clone();
        claims.as_object_mut().expect("an object").remove(name);
        let text = claims.to_string();
        let text = format!("{},\"{name}\":{value}}}", text.strip_suffix('}').expect("an object"));
        self.key.token(&self.header.to_string(), &text)
    }

    /// The token with `value`, which need not be JSON, as the member `name` of the header.
    pub(crate) fn mint_raw_header(&self, name: &str, value: &str) -> String {
        let mut header = self.header.clone();
        header.as_object_mut().expect("an object").remove(name);
        let text = header.to_string();
        let text = format!("{},\"{name}\":{value}}}", text.strip_suffix('}').expect("an object"));
        self.key.token(&text, &self.claims.to_string())
    }

    /// The token with a MAC keyed by `secret` where the signature should be.
    pub(crate) fn mac(&self, secret: &[u8]) -> String {
        jose::seal(&self.header.to_string(), &self.claims.to_string(), |message| jose::hs256(secret, message))
    }

    /// The token with these bytes as signature.
    pub(crate) fn mint_signed_with(&self, signature: &[u8]) -> String {
        jose::seal(&self.header.to_string(), &self.claims.to_string(), |_| signature.to_vec())
    }
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, state: &Arc<State>, stop: &AtomicBool) {
    for socket in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let (config, state) = (Arc::clone(config), Arc::clone(state));
        // A client may close its connection at any time.
        std::thread::spawn(move || drop(answer(socket, config, &state)));
    }
}

fn answer(socket: TcpStream, config: Arc<ServerConfig>, state: &State) -> std::io::Result<()> {
    let mode = state.mode.lock().unwrap().clone();
    if matches!(mode, Mode::Down) {
        return Ok(());
    }
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        read_more(&mut stream, &mut request)?;
    }
    if request.starts_with(b"POST ") {
        return answer_introspection(&mut stream, request, state);
    }
    let is_jwks = request.starts_with(b"GET /jwks ");
    if is_jwks { &state.jwks_fetches } else { &state.other_fetches }.fetch_add(1, Ordering::SeqCst);
    let (status, extra, body) = state.respond(&mode, is_jwks);
    let max_age = state.max_age.load(Ordering::SeqCst);
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nCache-Control: max-age={max_age}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn read_more(stream: &mut Stream, request: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            request.extend_from_slice(&chunk[..read]);
            Ok(())
        }
    }
}

/// The introspection endpoint.
fn answer_introspection(stream: &mut Stream, mut request: Vec<u8>, state: &State) -> io::Result<()> {
    let end = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let headers: BTreeMap<_, _> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while request.len() < end + length {
        read_more(stream, &mut request)?;
    }
    let line = head.lines().next().unwrap_or_default().to_owned();
    let body = String::from_utf8_lossy(&request[end..]).into_owned();
    state.requests.lock().unwrap().push(ReceivedRequest { line, headers, body });
    let reply = state.reply.lock().unwrap().clone();
    let head = |status: u16, length: usize| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    match reply {
        Reply::Json(reply) => write!(stream, "{}{reply}", head(200, reply.to_string().len()))?,
        Reply::Status(status, body) => write!(stream, "{}{body}", head(status, body.len()))?,
        Reply::Raw(rest) => write!(stream, "HTTP/1.1 {rest}")?,
        Reply::Silence => while read_more(stream, &mut request).is_ok() {},
        Reply::Closed => return Ok(()),
        Reply::Trickle(body) => {
            write!(stream, "{}", head(200, body.len()))?;
            for byte in body.bytes() {
                stream.write_all(&[byte])?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Reply::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{{\"active\":true,\"x\":\"")?;
            loop {
                stream.write_all(&[b'x'; 4096])?;
            }
        }
    }
    stream.conn.send_close_notify();
    stream.flush()
}

impl State {
    fn respond(&self, mode: &Mode, is_jwks: bool) -> (u16, String, String) {
        let document = if is_jwks { &self.jwks } else { &self.metadata };
        let document = || document.lock().unwrap().to_string();
        match mode {
            Mode::Up | Mode::Down => (200, String::new(), document()),
            Mode::Slow(pause) => {
                std::thread::sleep(*pause);
                (200, String::new(), document())
            }
            Mode::Status(status) => (*status, String::new(), "<html>no</html>".to_owned()),
            Mode::Body(body) => (200, String::new(), body.clone()),
            Mode::Redirect(target) => (302, format!("Location: {target}\r\n"), String::new()),
        }
    }
}
