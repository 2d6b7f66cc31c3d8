//! Bind, serve, drain, stop.
//!
//! In: [`Settings`], trust and the [`Handlers`] below. Out: [`Running`], which ends after its stop signal, when requests in
//! flight are answered. Three listeners, each a server with its own workers, so that a flood on one does not starve the
//! others.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_server::{Server, ServerHandle};
use actix_web::web::ServiceConfig;
use futures_util::future::join_all;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::Traffic;
use super::endpoints::Endpoints;
use super::handlers::Handlers;
use super::handshake::{HANDSHAKE_TIMEOUT, Handshake};
use super::listener::{ListenerFactory, Routes};
use super::settings::Settings;
use super::tls::Trust;
use super::{discovery, ops};
use writ_platform::clock::HumanDuration;

/// Connections that the system queues until a worker accepts them.
const BACKLOG: u32 = 1024;
/// The framework checks once a second whether its workers are done.
const STOP_STEP: Duration = Duration::from_secs(1);

/// Why the service cannot listen, or stopped doing so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The address is in use, or is not an address of this host.
    #[error("listen.{listener}: cannot listen on {address}: {error}")]
    Bind {
        /// The key in `[listen]`.
        listener: &'static str,
        address: SocketAddr,
        error: io::Error,
    },
    /// The cryptography provider does not support the TLS versions.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// A server ended without being stopped.
    #[error("a listener ended: {0}")]
    Ended(io::Error),
}

/// The bound addresses; where port 0 was configured, with the port that the system chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) exchange: SocketAddr,
    pub(crate) discovery: Option<SocketAddr>,
    pub(crate) ops: Option<SocketAddr>,
}

/// Bound sockets: clients can connect, and wait until [`Listeners::start`].
#[derive(Debug)]
pub(crate) struct Listeners {
    settings: Settings,
    addresses: Addresses,
    exchange: TcpListener,
    discovery: Option<TcpListener>,
    ops: Option<TcpListener>,
}

impl Listeners {
    /// Binds the addresses. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError::Bind`] names the address that cannot be bound.
    pub(crate) fn bind(settings: Settings) -> Result<Self, ListenError> {
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

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts to serve. Must be called inside a Tokio runtime; each server has its own worker threads.
    ///
    /// # Errors
    /// [`ListenError`] if TLS or a server cannot be set up.
    pub(crate) fn start(self, trust: &Arc<Trust>, handlers: &Handlers) -> Result<Running, ListenError> {
        let Self { settings, addresses, exchange, discovery, ops } = self;
        let factory = ListenerFactory::new(&settings, &handlers.rejected);
        let mut running = Running {
            servers: JoinSet::new(),
            front: Vec::new(),
            ops: None,
            leaving: Arc::clone(&factory.leaving),
            draining: Arc::clone(&factory.draining),
            traffic: Arc::clone(&factory.traffic),
            drain_delay: settings.drain_delay,
            drain_timeout: settings.drain_timeout,
        };
        let handshake =
            |config, trust| Handshake { config, trust, timeout: HANDSHAKE_TIMEOUT.min(settings.request_timeout) };

        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mutual = handshake(trust.exchange_config(settings.http2)?, Some(Arc::clone(trust)));
        let (endpoints, documents) = (Endpoints::new(handlers), handlers.clone());
        let routes: Routes = Arc::new(move |config: &mut ServiceConfig| {
            endpoints.configure(config);
            discovery::configure(&documents, config);
        });
        running.join(factory.tls("exchange", exchange, workers, mutual, routes).map_err(ListenError::Ended)?);

        if let Some(socket) = discovery {
            let public = handshake(trust.discovery_config(settings.http2)?, None);
            let handlers = handlers.clone();
            let routes: Routes = Arc::new(move |config: &mut ServiceConfig| discovery::configure(&handlers, config));
            running.join(factory.tls("discovery", socket, 1, public, routes).map_err(ListenError::Ended)?);
        }

        if let Some((socket, address)) = ops.zip(addresses.ops) {
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "listen.ops is open to other hosts, without TLS");
            }
            let (handlers, leaving) = (handlers.clone(), Arc::clone(&running.leaving));
            let routes: Routes =
                Arc::new(move |config: &mut ServiceConfig| ops::configure(&handlers, &leaving, config));
            let server = factory.plain("ops", socket, routes).map_err(ListenError::Ended)?;
            running.ops = Some(running.spawn(server));
        }
        Ok(running)
    }
}

#[derive(Debug)]
pub(crate) struct Running {
    servers: JoinSet<io::Result<()>>,
    /// The exchange and discovery listeners.
    front: Vec<ServerHandle>,
    ops: Option<ServerHandle>,
    leaving: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Running {
    /// Serves until `stop` and for the drain delay, then lets requests in flight finish, for at most the drain timeout
    ///
    ///
    /// The ops listener ends last, so that `/readyz` reports the shutdown.
    ///
    /// # Errors
    /// [`ListenError::Ended`] if a server ended by itself.
    pub(crate) async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), ListenError> {
        let outcome = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = self.servers.join_next() => {
                let error = ended.map_err(io::Error::other).and_then(|ended| ended).err();
                Err(ListenError::Ended(error.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
            }
        };
        self.leaving.store(true, Ordering::Relaxed);
        if outcome.is_ok() && !self.drain_delay.is_zero() {
            tracing::info!(delay = %HumanDuration(self.drain_delay), "leaving: not ready, requests are still accepted");
            sleep(self.drain_delay).await;
        }
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
            "draining: no new connections, requests in flight are answered"
        );
        let graceful = !self.drain_timeout.is_zero();
        let front = join_all(self.front.iter().map(|server| server.stop(graceful)));
        // The servers enforce this timeout themselves; a worker that hangs must not keep the process alive.
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
