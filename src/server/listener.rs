//! One listener: sockets → connections → requests → routes.
//!
//! In: a bound socket and the routes to serve on it. Out: a running server. Composed of the framework's parts by hand: its
//! own TLS binding hides failed handshakes, which must be counted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_http::{HttpService, KeepAlive, Protocol, Request};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{Service as _, ServiceFactory, ServiceFactoryExt as _, fn_factory, fn_service, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error as WebError, HttpResponse};
use tokio::net::TcpStream;

use super::connection::{Connection, ConnectionActivity, KEEP_ALIVE, LINGER, TimeLimits, Traffic};
use super::handlers::RejectionRecorder;
use super::handshake::{Handshake, Secured};
use super::http2;
use super::middleware::Middleware;
use super::response::{self, HttpRefusal};
use super::settings::Settings;
use writ_platform::shares::{NoPlace, Place, Shares};

/// Adds the resources of one listener.
pub(super) type Routes = Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// The settings and state that all listeners share.
#[derive(Clone)]
pub(super) struct ListenerFactory {
    limits: TimeLimits,
    max_connections: usize,
    drain_seconds: u64,
    rejected: RejectionRecorder,
    /// The service was asked to stop: it is not ready, and each connection ends with its next answer.
    pub(super) leaving: Arc<AtomicBool>,
    /// No further request is accepted.
    pub(super) draining: Arc<AtomicBool>,
    /// Of the client listeners; ops connections are not counted.
    pub(super) traffic: Arc<Traffic>,
}

impl ListenerFactory {
    pub(super) fn new(settings: &Settings, rejected: &RejectionRecorder) -> Self {
        Self {
            limits: TimeLimits { request: settings.request_timeout, age: settings.connection_max_age },
            max_connections: settings.max_connections,
            drain_seconds: settings.drain_timeout.as_secs(),
            rejected: Arc::clone(rejected),
            leaving: Arc::default(),
            draining: Arc::default(),
            traffic: Arc::default(),
        }
    }

    /// A listener that speaks TLS.
    pub(super) fn tls(
        &self,
        name: &str,
        socket: TcpListener,
        workers: usize,
        handshake: Handshake,
        routes: Routes,
    ) -> io::Result<Server> {
        let builder = self.builder(workers);
        let (factory, signal) = (self.clone(), builder.graceful_shutdown_signal());
        let connections = Shares::new(self.max_connections);
        let service = move || {
            let middleware = factory.middleware(false);
            let (accepting, handshake, connections) = (factory.clone(), handshake.clone(), Arc::clone(&connections));
            let accept = move |socket: TcpStream| {
                let (factory, handshake, connections) =
                    (accepting.clone(), handshake.clone(), Arc::clone(&connections));
                async move {
                    set_nodelay(&socket);
                    let address = socket.peer_addr().ok();
                    let secured = handshake.accept(socket).await.ok_or(())?;
                    let place = take_place(&secured, &connections).map_err(drop)?;
                    let activity = factory.activity(secured.protocol, &factory.traffic);
                    Ok((Connection::new(secured.stream, activity, secured.peer, place), secured.protocol, address))
                }
            };
            fn_service(accept).and_then(http_service(factory.limits, signal.clone(), middleware, Arc::clone(&routes)))
        };
        Ok(builder.listen(name, socket, service)?.run())
    }

    /// The operators' listener: without TLS, and open while the others drain.
    pub(super) fn plain(&self, name: &str, socket: TcpListener, routes: Routes) -> io::Result<Server> {
        let builder = self.builder(1);
        let (factory, signal) = (self.clone(), builder.graceful_shutdown_signal());
        let service = move || {
            let middleware = factory.middleware(true);
            let accepting = factory.clone();
            let accept = move |socket: TcpStream| {
                set_nodelay(&socket);
                let address = socket.peer_addr().ok();
                let activity = accepting.activity(Protocol::Http1, &Arc::default());
                async move { Ok((Connection::new(socket, activity, None, None), Protocol::Http1, address)) }
            };
            fn_service(accept).and_then(http_service(factory.limits, signal.clone(), middleware, Arc::clone(&routes)))
        };
        Ok(builder.listen(name, socket, service)?.run())
    }

    /// Signals are handled by the process: the framework's own handlers would end all servers at the first one.
    fn builder(&self, workers: usize) -> ServerBuilder {
        Server::build()
            .workers(workers)
            .disable_signals()
            .shutdown_timeout(self.drain_seconds)
            .max_concurrent_connections(self.max_connections.div_ceil(workers))
    }

    fn activity(&self, protocol: Protocol, traffic: &Arc<Traffic>) -> Rc<ConnectionActivity> {
        let is_http2 = protocol == Protocol::Http2;
        ConnectionActivity::new(self.limits, is_http2, Arc::clone(&self.draining), Arc::clone(traffic))
    }

    fn middleware(&self, serves_while_draining: bool) -> Middleware {
        Middleware {
            request_timeout: self.limits.request,
            leaving: Arc::clone(&self.leaving),
            draining: Arc::clone(&self.draining),
            serves_while_draining,
            rejected: Arc::clone(&self.rejected),
        }
    }
}

/// The service that answers the requests of a connection, HTTP/1.1 or HTTP/2.
fn http_service(
    limits: TimeLimits,
    signal: GracefulShutdownSignal,
    middleware: Middleware,
    routes: Routes,
) -> impl ServiceFactory<(Connection, Protocol, Option<SocketAddr>), Config = (), Response = (), Error = (), InitError = ()>
{
    let middleware = Rc::new(middleware);
    let http2 = app(Rc::clone(&middleware), Arc::clone(&routes));
    let http1 = HttpService::build()
        .graceful_shutdown_signal(move || {
            let signal = signal.clone();
            async move { signal.notified().await }
        })
        .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
        .client_request_timeout(limits.request)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|connection: &Connection, data| {
            data.insert(Rc::clone(connection.activity()));
            if let Some(peer) = connection.peer() {
                data.insert(Rc::clone(peer));
            }
        })
        .finish(app(middleware, routes))
        .map_err(|error| tracing::debug!(%error, "a connection failed"));
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

/// The routes behind the middleware; any other path gets 404.
fn app(
    middleware: Rc<Middleware>,
    routes: Routes,
) -> impl ServiceFactory<Request, Config = (), Response = ServiceResponse<BoxBody>, Error = HttpResponse, InitError = ()>
{
    let app = App::new()
        .configure(move |config| routes(config))
        .default_service(web::to(|| std::future::ready(response::http(HttpRefusal::NotFound))))
        .wrap(from_fn(move |request, next| Rc::clone(&middleware).handle(request, next)));
    map_config(app, |()| AppConfig::default()).map_err(|error: WebError| error.error_response())
}

/// Reserves one of the listener's connections for the client's certificate. `None` if its share is used up: the connection
/// is then closed, so that no certificate can use all of them.
fn take_place(secured: &Secured, connections: &Arc<Shares<String>>) -> Result<Option<Place<String>>, NoPlace> {
    let Some(peer) = &secured.peer else { return Ok(None) };
    let certificate = peer.certificate();
    let certificate = certificate.x5t_s256();
    let place = connections.take(certificate.to_owned());
    if place.is_err() {
        tracing::info!(certificate, "a connection was closed: its certificate has reached its share of connections");
    }
    place.map(Some)
}

/// Disables Nagle's algorithm, which would delay small answers.
fn set_nodelay(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a socket refused TCP_NODELAY");
    }
}
