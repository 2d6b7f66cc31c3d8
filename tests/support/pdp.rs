//! An external decision point: an HTTPS server on loopback that wants a client certificate, remembers what it was
//! asked, and decides, or misbehaves, as the test sets it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::pki::{self, Ca, Credentials};
use super::writ::Setup;
use super::{DEADLINE, eventually};

/// Where the evaluation call is.
const PATH: &str = "/access/v1/evaluation";

/// How the decision point answers.
#[derive(Clone, PartialEq)]
pub(crate) enum Mode {
    Yes,
    No,
    /// Yes to this purpose, no to any other.
    Only(&'static str),
    /// 200 with this body.
    Body(String),
    /// This status, with a yes.
    Status(u16),
    /// A redirect to where a yes would be.
    Redirect,
    /// The connection ends in the middle of the answer.
    Broken,
    /// Not at all, until the mode changes.
    Silent,
}

/// One question.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    /// The request's line and headers.
    head: String,
    /// The request's body, as sent.
    pub(crate) body: String,
}

pub(crate) struct Pdp {
    address: SocketAddr,
    ca: Ca,
    state: Arc<State>,
    stop: Arc<AtomicBool>,
}

struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
    requests: Mutex<Vec<ReceivedRequest>>,
}

impl Pdp {
    /// A decision point that allows everything to clients with a certificate of its own authority.
    pub(crate) fn start() -> Self {
        let ca = Ca::root("decision points");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        let server = ca.issue(pki::server());
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(server.chain.clone(), server.key())
            .expect("a certificate with its key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let state =
            Arc::new(State { mode: Mutex::new(Mode::Yes), changed: Condvar::new(), requests: Mutex::new(Vec::new()) });
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || serve(&listener, &Arc::new(config), &shared, &end));
        Self { address, ca, state, stop }
    }

    /// `setup` with a section `[pdp]` that names this one and a certificate that it knows.
    pub(crate) fn configure(&self, setup: Setup) -> Setup {
        write_identity(&setup, &self.credentials());
        setup.write("certs/pdp-ca.pem", &self.ca.pem());
        setup
            .set("pdp.endpoint", format!("https://localhost:{}{PATH}", self.address.port()))
            .set("pdp.timeout", "5s")
            .set("pdp.ca", "certs/pdp-ca.pem")
            .set("pdp.certificate", "certs/pdp-client.pem")
            .set("pdp.private_key", "certs/pdp-client.key")
    }

    /// A client certificate that it knows.
    pub(crate) fn credentials(&self) -> Credentials {
        self.ca.issue(pki::client("writ"))
    }

    /// From now on it answers like that, waiting requests included.
    pub(crate) fn set_mode(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.changed.notify_all();
    }

    /// The requests since the last call, oldest first.
    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }

    /// Returns once it was asked.
    pub(crate) fn wait_for_request(&self) {
        eventually("the decision point is asked", || (!self.state.requests.lock().unwrap().is_empty()).then_some(()));
    }
}

impl Drop for Pdp {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

impl ReceivedRequest {
    /// A header of the request.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn purpose(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        body["action"]["name"].as_str().expect("action.name").to_owned()
    }
}

/// Writes these credentials to the files of [`Pdp::configure`].
pub(crate) fn write_identity(setup: &Setup, credentials: &Credentials) {
    setup.write("certs/pdp-client.pem", &credentials.certificate_pem);
    setup.write("certs/pdp-client.key", &credentials.key_pem);
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, state: &Arc<State>, stop: &AtomicBool) {
    for socket in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let (config, state) = (Arc::clone(config), Arc::clone(state));
        // A client may close its connection at any time.
        std::thread::spawn(move || drop(state.answer(socket, config)));
    }
}

impl State {
    /// Answers the requests of one connection until it ends.
    fn answer(&self, socket: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
        socket.set_read_timeout(Some(DEADLINE))?;
        let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        while let Some(asked) = receive(&mut stream)? {
            assert!(asked.head.starts_with(&format!("POST {PATH} HTTP/1.1")), "a redirect was followed: {asked:?}");
            let purpose = asked.purpose();
            self.requests.lock().unwrap().push(asked);
            let mode = self.decided();
            if mode == Mode::Broken {
                write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n{{\"decision\":true,")?;
                return stream.flush();
            }
            let (status, extra, body) = mode.respond(&purpose);
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
            )?;
            stream.flush()?;
        }
        Ok(())
    }

    /// How to answer, once it may be answered.
    fn decided(&self) -> Mode {
        let mode = self.mode.lock().unwrap();
        let silent = |mode: &mut Mode| *mode == Mode::Silent;
        self.changed.wait_timeout_while(mode, Duration::from_secs(60), silent).unwrap().0.clone()
    }
}

impl Mode {
    fn respond(&self, purpose: &str) -> (u16, String, String) {
        let decision = |yes: bool| format!("{{\"decision\":{yes},\"context\":{{\"reason\":\"as told\"}}}}");
        match self {
            Self::Yes | Self::Broken | Self::Silent => (200, String::new(), decision(true)),
            Self::No => (200, String::new(), decision(false)),
            Self::Only(allowed) => (200, String::new(), decision(*allowed == purpose)),
            Self::Body(body) => (200, String::new(), body.clone()),
            Self::Status(status) => (*status, String::new(), decision(true)),
            Self::Redirect => (307, "Location: /yes\r\n".to_owned(), decision(true)),
        }
    }
}

/// The next request; `None` at the end of the connection.
fn receive(stream: &mut impl Read) -> std::io::Result<Option<ReceivedRequest>> {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let asked = ReceivedRequest { head: head.to_owned(), body: body.to_owned() };
            let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Ok(Some(asked));
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            length => read.extend_from_slice(&chunk[..length]),
        }
    }
}
