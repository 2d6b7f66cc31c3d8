//! The listeners under test, and a client that speaks to them byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::server::handlers::RejectedRequest;
use crate::server::pki::{self, Ca, Leaf};
use crate::server::tls::{MinVersion, Trust};
use crate::server::{Addresses, Handlers, ListenError, Listeners, Settings};
use writ_core::endpoint::Endpoint;
use writ_core::exchange::Issued;
use writ_core::introspect::Introspected;
use writ_core::refusal::{Reason, Refusal};

type Stopped = JoinHandle<Result<(), ListenError>>;

pub(super) struct Service {
    pub(super) addresses: Addresses,
    pub(super) settings: Settings,
    pub(super) ca: Ca,
    pub(super) trust: Arc<Trust>,
    folder: TempDir,
    world: Arc<World>,
    stop: oneshot::Sender<()>,
    running: Stopped,
}

/// What the stub handlers share with the test.
#[derive(Default)]
struct World {
    rejected: Mutex<Vec<(Endpoint, Reason)>>,
    failing: Mutex<Vec<&'static str>>,
    release: Arc<Notify>,
    waiting: WaitCount,
}

struct WaitCount(Semaphore);

impl Default for WaitCount {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Service {
    pub(super) fn start(configure: impl FnOnce(&mut Settings)) -> Self {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Ca::new("ca"));
        let mut tls = pki::settings(folder.path(), &ca);
        tls.client_crls.push(folder.path().join("crl.pem"));
        std::fs::write(&tls.client_crls[0], ca.crl(1, &[7])).unwrap();
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut settings = Settings {
            exchange: local,
            discovery: Some(local),
            ops: Some(local),
            http2: false,
            tls,
            max_connections: 100,
            request_timeout: Duration::from_secs(10),
            connection_max_age: Duration::from_secs(3600),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
        };
        configure(&mut settings);
        let trust = Trust::load(settings.tls.clone()).unwrap();
        let listeners = Listeners::bind(settings.clone()).unwrap();
        let (addresses, world) = (listeners.addresses(), Arc::<World>::default());
        let running = listeners.start(&trust, &handlers(&world)).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(running.until(async { drop(stopped.await) }));
        Self { addresses, settings, ca, trust, folder, world, stop, running }
    }

    pub(super) async fn client(&self, leaf: &Leaf) -> Client {
        let config = pki::client_config(&self.ca, Some(leaf), MinVersion::Tls13);
        Client::connect(self.addresses.exchange, config).await.unwrap()
    }

    /// The alert with which the exchange listener ends the connection; `None` if it answers.
    pub(super) async fn alert(&self, config: ClientConfig) -> Option<AlertDescription> {
        let asked = async {
            let mut client = Client::connect(self.addresses.exchange, config).await?;
            client.io.write_all(post("echo").as_bytes()).await?;
            client.io.read_u8().await
        };
        let error = asked.await.err()?;
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => panic!("no alert: {error}"),
        }
    }

    pub(super) fn rejected(&self) -> Vec<(Endpoint, Reason)> {
        self.world.rejected.lock().unwrap().clone()
    }

    pub(super) fn fail(&self, part: &'static str) {
        self.world.failing.lock().unwrap().push(part);
    }

    pub(super) fn replace_crl(&self, crl: &str) {
        std::fs::write(self.folder.path().join("crl.pem"), crl).unwrap();
    }

    /// Returns once a handler is at work on a request.
    pub(super) async fn waiting(&self) {
        self.world.waiting.0.acquire().await.unwrap().forget();
    }

    /// Stops the service; returns its end, and what releases the request that waits.
    pub(super) fn stop(self) -> (Stopped, Arc<Notify>) {
        self.stop.send(()).unwrap();
        (self.running, Arc::clone(&self.world.release))
    }
}

/// The first word of the body determines the outcome of the request.
fn handlers(world: &Arc<World>) -> Handlers {
    let (work, recorded, failing) = (Arc::clone(world), Arc::clone(world), Arc::clone(world));
    Handlers {
        token: Arc::new(move |request| {
            let world = Arc::clone(&work);
            Box::pin(async move {
                let body = String::from_utf8(request.body).unwrap();
                match body.split(' ').next() {
                    Some("panic") => panic!("secret"),
                    Some("refuse") => return Err(Refusal::TokenTooLarge),
                    Some("hang") => {
                        world.waiting.0.add_permits(1);
                        std::future::pending::<()>().await;
                    }
                    Some("wait") => {
                        let released = world.release.notified();
                        world.waiting.0.add_permits(1);
                        released.await;
                    }
                    _ => (),
                }
                let token = format!("{} {} {body}", request.certificate.x5t_s256(), request.request_id);
                Ok(Issued::unsigned(&token, "a", 60, None))
            })
        }),
        share_of: Arc::new(|_| None),
        introspect: Arc::new(|_| Box::pin(std::future::ready(Ok(Introspected::Inactive)))),
        rejected: Arc::new(move |request: RejectedRequest<'_>| {
            assert!(!request.request_id.is_empty());
            recorded.rejected.lock().unwrap().push((request.endpoint, request.refusal.reason()));
            Box::pin(std::future::ready(()))
        }),
        jwks: Arc::new(|| b"{\"keys\":[]}".to_vec()),
        metadata: Arc::new(|| b"{}".to_vec()),
        documents_max_age: Arc::new(|| Duration::from_secs(600)),
        failing: Arc::new(move || failing.failing.lock().unwrap().clone()),
        pending: Arc::new(Vec::new),
        metrics: Arc::new(|| "writ_build_info 1\n".to_owned()),
    }
}

pub(super) fn post(body: &str) -> String {
    format!(
        "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The same to the other endpoint.
pub(super) fn post_introspection(body: &str) -> String {
    post(body).replace("/token", "/introspect")
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn protocol(&self) -> Option<&[u8]>;
}

impl Stream for TcpStream {
    fn protocol(&self) -> Option<&[u8]> {
        None
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn protocol(&self) -> Option<&[u8]> {
        self.get_ref().1.alpn_protocol()
    }
}

pub(super) struct Client {
    io: Box<dyn Stream>,
}

pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let name = "localhost".try_into().unwrap();
        Ok(Self { io: Box::new(TlsConnector::from(Arc::new(config)).connect(name, socket).await?) })
    }

    pub(super) async fn plain(address: SocketAddr) -> Self {
        Self { io: Box::new(TcpStream::connect(address).await.unwrap()) }
    }

    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.io.protocol()
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(super) async fn ask(&mut self, request: &str) -> Reply {
        self.send(request.as_bytes()).await;
        self.reply().await
    }

    /// Whether a request gets an answer; false if the connection ends instead.
    pub(super) async fn is_answered(&mut self) -> bool {
        let asked = self.io.write_all(post("echo").as_bytes()).await.is_ok() && self.io.flush().await.is_ok();
        asked && self.io.read_u8().await.is_ok()
    }

    pub(super) async fn head(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.io.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap();
        let headers = rest.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Reply { status: first.split(' ').nth(1).unwrap().parse().unwrap(), headers, body: String::new() }
    }

    pub(super) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.io.read_exact(&mut body).await.unwrap();
        reply.body = String::from_utf8(body).unwrap();
        reply
    }

    pub(super) async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        // An end without close_notify is an end.
        let _ = self.io.read_to_end(&mut all).await;
        String::from_utf8(all).unwrap()
    }

    /// Nothing more comes, and then the connection is closed.
    pub(super) async fn ends_within(&mut self, time: Duration) {
        let rest = timeout(time, self.read_to_end()).await.expect("the connection is still open");
        assert_eq!(rest, "");
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn reason(&self) -> &'static str {
        self.json()["reason"].as_str().unwrap_or_default().to_owned().leak()
    }
}
