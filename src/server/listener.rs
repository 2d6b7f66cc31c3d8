//! One server: sockets → connections → requests → routes.
//!
//! Composed by hand of the framework's parts: its own TLS binding hides handshakes that fail, and they must be counted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{Service as _, ServiceFactory, ServiceFactoryExt as _, fn_factory, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error as WebError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::connection::{Connection, KEEP_ALIVE, LINGER, Pulse, Times, Traffic};
use super::guard::Guard;
use super::handshake::{Handshake, Secured};
use super::http2;
use super::{Rooms, Settings, ops};
use crate::server::response::{self, HttpRefusal};
use writ_platform::shares::{NoPlace, Place, Shares};

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Frame {
    times: Times,
    max_connections: usize,
    drain_seconds: u64,
    rooms: Rooms,
    draining: Arc<AtomicBool>,
    /// Of the listeners of clients; operators' connections are not counted.
    traffic: Arc<Traffic>,
}

impl Frame {
    pub(super) fn new(settings: &Settings, rooms: &Rooms, draining: Arc<AtomicBool>, traffic: Arc<Traffic>) -> Self {
        Self {
            times: Times { request: settings.request_timeout, age: settings.connection_max_age },
            max_connections: settings.max_connections,
            drain_seconds: settings.drain_timeout.as_secs(),
            rooms: rooms.clone(),
            draining,
            traffic,
        }
    }

    /// A server that speaks TLS.
    pub(super) fn secured(
        &self,
        name: &str,
        socket: TcpListener,
        workers: usize,
        handshake: Handshake,
        routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
    ) -> io::Result<Server> {
        let builder = self.builder(workers);
        let (frame, signal) = (self.clone(), builder.graceful_shutdown_signal());
        let connections = Shares::new(self.max_connections);
        let service = move || {
            let (pulses, handshake, connections) = (frame.clone(), handshake.clone(), Arc::clone(&connections));
            let accept = move |socket: TcpStream| {
                let (frame, handshake, connections) = (pulses.clone(), handshake.clone(), Arc::clone(&connections));
                async move {
                    prepare(&socket);
                    let address = socket.peer_addr().ok();
                    let secured = handshake.accept(socket).await.ok_or(())?;
                    let place = place_of(&secured, &connections).map_err(drop)?;
                    let pulse = frame.pulse(secured.protocol, &frame.traffic);
                    Ok((Connection::new(secured.stream, pulse, secured.peer, place), secured.protocol, address))
                }
            };
            fn_service(accept).and_then(frame.http(signal.clone(), false, routes.clone()))
        };
        Ok(builder.listen(name, socket, service)?.run())
    }

    /// The server of the operators, without TLS.
    pub(super) fn plain(&self, name: &str, socket: TcpListener) -> io::Result<Server> {
        let builder = self.builder(1);
        let (frame, signal) = (self.clone(), builder.graceful_shutdown_signal());
        let service = move || {
            let pulses = frame.clone();
            let accept = move |socket: TcpStream| {
                prepare(&socket);
                let (address, pulse) = (socket.peer_addr().ok(), pulses.pulse(Protocol::Http1, &Arc::default()));
                async move { Ok((Connection::new(socket, pulse, None, None), Protocol::Http1, address)) }
            };
            let (rooms, draining) = (frame.rooms.clone(), Arc::clone(&frame.draining));
            let routes = move |config: &mut ServiceConfig| ops::routes(&rooms, &draining, config);
            fn_service(accept).and_then(frame.http(signal.clone(), true, routes))
        };
        Ok(builder.listen(name, socket, service)?.run())
    }

    /// Signals are the process's own matter: the framework's handlers would end all servers with the first.
    fn builder(&self, workers: usize) -> ServerBuilder {
        Server::build()
            .workers(workers)
            .disable_signals()
            .shutdown_timeout(self.drain_seconds)
            .max_concurrent_connections(self.max_connections.div_ceil(workers))
    }

    fn pulse(&self, protocol: Protocol, traffic: &Arc<Traffic>) -> Rc<Pulse> {
        Pulse::new(self.times, protocol == Protocol::Http2, Arc::clone(&self.draining), Arc::clone(traffic))
    }

    /// What serves the requests of a connection.
    fn http<S, R>(
        &self,
        signal: GracefulShutdownSignal,
        serves_while_draining: bool,
        routes: R,
    ) -> impl ServiceFactory<
        (Connection<S>, Protocol, Option<SocketAddr>),
        Config = (),
        Response = (),
        Error = (),
        InitError = (),
    > + use<S, R>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        R: Fn(&mut ServiceConfig) + Clone + 'static,
    {
        let guard = Rc::new(Guard {
            deadline: self.times.request,
            draining: Arc::clone(&self.draining),
            serves_while_draining,
            unheard: Arc::clone(&self.rooms.unheard),
        });
        let app = move || {
            let guard = Rc::clone(&guard);
            let app = App::new()
                .configure(routes.clone())
                .default_service(web::to(|| std::future::ready(response::http(HttpRefusal::NotFound))))
                .wrap(from_fn(move |request, next| Rc::clone(&guard).watch(request, next)));
            map_config(app, |()| AppConfig::default()).map_err(|error: WebError| error.error_response())
        };
        let http2 = app();
        let http1 = HttpService::build()
            .graceful_shutdown_signal(move || {
                let signal = signal.clone();
                async move { signal.notified().await }
            })
            .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
            .client_request_timeout(self.times.request)
            .client_disconnect_timeout(LINGER)
            .on_connect_ext(|connection: &Connection<S>, data| {
                data.insert(Rc::clone(connection.pulse()));
                if let Some(peer) = connection.peer() {
                    data.insert(Rc::clone(peer));
                }
            })
            .finish(app())
            .map_err(|error| tracing::debug!(%error, "a connection broke"));
        fn_factory(move || {
            let (http1, http2) = (http1.new_service(()), http2.new_service(()));
            async move {
                let (http1, http2) = (Rc::new(http1.await?), Rc::new(http2.await?));
                Ok(fn_service(move |(connection, protocol, address)| {
                    let (http1, http2) = (Rc::clone(&http1), Rc::clone(&http2));
                    async move {
                        match protocol {
                            Protocol::Http2 => {
                                http2::serve(connection, address, http2).await;
                                Ok(())
                            }
                            _ => http1.call((connection, protocol, address)).await,
                        }
                    }
                }))
            }
        })
    }
}

/// A place among the connections of the listener, where peers are known by their certificates: so that one certificate
/// cannot have all of them. Without one the connection ends.
fn place_of(secured: &Secured, connections: &Arc<Shares<String>>) -> Result<Option<Place<String>>, NoPlace> {
    let Some(peer) = &secured.peer else { return Ok(None) };
    let certificate = peer.certificate();
    let certificate = certificate.x5t_s256();
    let place = connections.take(certificate.to_owned());
    if place.is_err() {
        tracing::info!(certificate, "a connection was closed: its certificate has as many as it may have");
    }
    place.map(Some)
}

/// Answers are small and awaited: none is to wait for the peer's acknowledgement of the one before.
fn prepare(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a socket refused TCP_NODELAY");
    }
}
