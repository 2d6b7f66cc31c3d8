//! Accept, drain, stop.
//!
//! Three listeners, each an own server with own workers: what floods one does not starve the others. A socket becomes a
//! `Connection` (after a TLS handshake where there is TLS), its requests pass the `Guard`, and what is left of them,
//! a certificate and bytes, goes to the [`Rooms`] below. No decision is made here.

mod connection;
mod discovery;
mod exchange;
mod guard;
mod handshake;
mod http1;
mod http2;
mod listener;
pub mod metadata;
mod ops;
mod peer;
pub mod response;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_server::{Server, ServerHandle};
use actix_web::HttpResponse;
use actix_web::web::ServiceConfig;
use futures_util::future::{LocalBoxFuture, join_all};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::connection::Traffic;
pub use self::guard::RequestName;
use self::handshake::{HANDSHAKE_TIMEOUT, Handshake};
use self::listener::Frame;
use self::response::HttpRefusal;
use self::tls::Trust;
use writ_core::client::{ClientId, PeerCertificate};
use writ_core::endpoint::{Ask, Endpoint};
use writ_core::exchange::Issued;
use writ_core::introspect::Introspected;
use writ_core::limits::MAX_IN_WORK;
use writ_core::refusal::Refusal;
use writ_platform::clock::HumanDuration;

/// Connections that the system keeps until a worker takes them.
const BACKLOG: u32 = 1024;
/// The framework looks once a second whether its workers are done.
const STOP_STEP: Duration = Duration::from_secs(1);

/// Where and how the service listens (`[listen]`, `[limits]`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// TLS with client certificates: `/token`, `/introspect`, discovery.
    pub exchange: SocketAddr,
    /// TLS without client certificates: discovery.
    pub discovery: Option<SocketAddr>,
    /// Plain HTTP: `/livez`, `/readyz`, `/metrics`.
    pub ops: Option<SocketAddr>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Certificates, trust and versions.
    pub tls: tls::Settings,
    /// Connections held at one time by each listener.
    pub max_connections: usize,
    /// Headers, body and work together.
    pub request_timeout: Duration,
    /// After this a connection is ended with its next answer.
    pub connection_max_age: Duration,
    /// How long requests in flight may take once the service stops.
    pub drain_timeout: Duration,
}

/// A document as it is at the moment of asking.
pub type Document = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Answers the requests to one endpoint.
pub type Room<T> = Arc<dyn Fn(Ask) -> LocalBoxFuture<'static, Result<T, Refusal>> + Send + Sync>;

/// Hears of each request to an endpoint that was answered before it reached its room, so that it is recorded too.
pub type Unheard = Arc<dyn Fn(UnheardRequest<'_>) -> LocalBoxFuture<'static, ()> + Send + Sync>;

/// The client whose share of the places a certificate uses; `None`: that of strangers.
pub type Holder = Arc<dyn Fn(&PeerCertificate) -> Option<ClientId> + Send + Sync>;

/// A request that was answered by the listener alone.
#[derive(Debug, Clone, Copy)]
pub struct UnheardRequest<'a> {
    /// The request's name.
    pub name: &'a RequestName,
    /// Where it was meant to go.
    pub endpoint: Endpoint,
    /// The client's certificate.
    pub certificate: Option<&'a PeerCertificate>,
    /// Why it was refused.
    pub refusal: HttpRefusal,
}

/// The rooms below, as the listeners see them.
#[derive(Clone)]
pub struct Rooms {
    /// `POST /token`. Its future is dropped at the request's deadline, or when the client goes away.
    pub token: Room<Issued>,
    /// `POST /introspect`, likewise.
    pub introspect: Room<Introspected>,
    /// Whose places their requests take.
    pub holder: Holder,
    /// Records what these two never saw.
    pub unheard: Unheard,
    /// The JWKS.
    pub jwks: Document,
    /// The metadata of RFC 8414.
    pub metadata: Document,
    /// How long work on a request makes sense.
    pub request_timeout: Duration,
    /// How long both may be kept (`tokens.jwks_max_age`).
    pub documents_max_age: Duration,
    /// The parts that keep the service from being ready; empty: it is.
    pub failing: Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// The metrics, as text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").finish_non_exhaustive()
    }
}

/// Why the service cannot listen, or stopped doing so.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or is none of this machine.
    #[error("listen.{listener}: cannot listen on {address}: {error}")]
    Bind {
        /// Which listener.
        listener: &'static str,
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The versions of TLS and the crypto do not go together.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// A server ended though nobody stopped it.
    #[error("a listener ended: {0}")]
    Ended(io::Error),
}

/// Where the listeners listen: the ports that were taken, where port 0 was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The exchange listener.
    pub exchange: SocketAddr,
    /// The discovery listener.
    pub discovery: Option<SocketAddr>,
    /// The ops listener.
    pub ops: Option<SocketAddr>,
}

/// Sockets that are bound; clients can connect and wait.
#[derive(Debug)]
pub struct Listeners {
    settings: Settings,
    addresses: Addresses,
    exchange: TcpListener,
    discovery: Option<TcpListener>,
    ops: Option<TcpListener>,
}

impl Listeners {
    /// Takes the addresses. Needs a runtime around it.
    ///
    /// # Errors
    /// [`ListenError::Bind`] names the address that cannot be taken.
    pub fn bind(settings: Settings) -> Result<Self, ListenError> {
        let (exchange, exchange_at) = bind("exchange", settings.exchange)?;
        let discovery = settings.discovery.map(|at| bind("discovery", at)).transpose()?;
        let ops = settings.ops.map(|at| bind("ops", at)).transpose()?;
        let addresses = Addresses {
            exchange: exchange_at,
            discovery: discovery.as_ref().map(|(_, at)| *at),
            ops: ops.as_ref().map(|(_, at)| *at),
        };
        let (discovery, ops) = (discovery.map(|(socket, _)| socket), ops.map(|(socket, _)| socket));
        Ok(Self { settings, addresses, exchange, discovery, ops })
    }

    /// Where they listen.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts to serve. Needs a runtime around it; each server brings its own workers.
    ///
    /// # Errors
    /// [`ListenError`] if TLS or a server cannot be set up.
    pub fn start(self, trust: &Arc<Trust>, rooms: &Rooms) -> Result<Running, ListenError> {
        let Self { settings, addresses, exchange, discovery, ops } = self;
        let mut running = Running {
            servers: JoinSet::new(),
            front: Vec::new(),
            ops: None,
            draining: Arc::default(),
            traffic: Arc::default(),
            drain_timeout: settings.drain_timeout,
        };
        let frame = Frame::new(&settings, rooms, Arc::clone(&running.draining), Arc::clone(&running.traffic));
        let secured =
            |config, trust| Handshake { config, trust, timeout: HANDSHAKE_TIMEOUT.min(settings.request_timeout) };
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let handshake = secured(trust.exchange_config(settings.http2)?, Some(Arc::clone(trust)));
        let in_work = exchange::InWork::new(MAX_IN_WORK);
        let routes = {
            let rooms = rooms.clone();
            move |config: &mut ServiceConfig| exchange::routes(&rooms, &in_work, config)
        };
        let server = frame.secured("exchange", exchange, workers, handshake, routes).map_err(ListenError::Ended)?;
        running.join(server);
        if let Some(socket) = discovery {
            let handshake = secured(trust.discovery_config(settings.http2)?, None);
            let rooms = rooms.clone();
            let routes = move |config: &mut ServiceConfig| discovery::routes(&rooms, config);
            let server = frame.secured("discovery", socket, 1, handshake, routes).map_err(ListenError::Ended)?;
            running.join(server);
        }
        if let Some((socket, at)) = ops.zip(addresses.ops) {
            if !at.ip().is_loopback() {
                tracing::warn!(address = %at, "listen.ops is open to other hosts, without TLS");
            }
            let server = frame.plain("ops", socket).map_err(ListenError::Ended)?;
            running.ops = Some(running.spawn(server));
        }
        Ok(running)
    }
}

/// The listeners at work.
#[derive(Debug)]
pub struct Running {
    servers: JoinSet<io::Result<()>>,
    /// What clients talk to.
    front: Vec<ServerHandle>,
    ops: Option<ServerHandle>,
    draining: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
    drain_timeout: Duration,
}

impl Running {
    /// Serves until `stop`, then lets what is in flight finish for at most the drain timeout.
    ///
    /// The ops listener ends last, so that others can see the service leave.
    ///
    /// # Errors
    /// [`ListenError::Ended`] if a server ended by itself.
    pub async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), ListenError> {
        let outcome = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = self.servers.join_next() => {
                let error = ended.map_err(io::Error::other).and_then(|ended| ended).err();
                Err(ListenError::Ended(error.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
            }
        };
        self.drain().await;
        outcome
    }

    async fn drain(mut self) {
        self.draining.store(true, Ordering::Relaxed);
        let before = self.traffic.counts();
        tracing::info!(
            connections = before.connections,
            requests = before.requests,
            timeout = %HumanDuration(self.drain_timeout),
            "draining: no connection is taken any more, requests in flight are answered"
        );
        let graceful = !self.drain_timeout.is_zero();
        let front = join_all(self.front.iter().map(|server| server.stop(graceful)));
        // The servers keep to this time themselves; a worker that hangs must not keep the process.
        if timeout(self.drain_timeout + STOP_STEP, front).await.is_err() {
            tracing::warn!("a worker did not stop in time");
        }
        let after = self.traffic.counts();
        let cut_off = after.cut_off - before.cut_off + after.requests;
        tracing::info!(answered = after.answered - before.answered, cut_off, "drained");
        if cut_off > 0 {
            tracing::warn!(cut_off, "requests were cut off at the end of limits.drain_timeout");
        }
        if let Some(ops) = self.ops.take() {
            ops.stop(false).await;
        }
        let _ = timeout(STOP_STEP, async { while self.servers.join_next().await.is_some() {} }).await;
    }

    fn join(&mut self, server: Server) {
        let handle = self.spawn(server);
        self.front.push(handle);
    }

    fn spawn(&mut self, server: Server) -> ServerHandle {
        let handle = server.handle();
        self.servers.spawn(server);
        handle
    }
}

fn bind(listener: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?.into_std()?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    open().map_err(|error| ListenError::Bind { listener, address, error })
}

fn method_not_allowed(methods: &'static str) -> std::future::Ready<HttpResponse> {
    std::future::ready(response::http(HttpRefusal::MethodNotAllowed(methods)))
}

#[cfg(test)]
mod pki;
#[cfg(test)]
mod tests;
