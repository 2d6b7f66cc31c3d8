//! Settings of the listeners.

use std::net::SocketAddr;
use std::time::Duration;

use super::tls;

/// `[listen]`, `[tls]`, and of `[limits]` what concerns connections and requests.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// TLS with client certificates: `/token`, `/introspect`, discovery.
    pub(crate) exchange: SocketAddr,
    /// TLS without client certificates: discovery.
    pub(crate) discovery: Option<SocketAddr>,
    /// Plain HTTP: `/livez`, `/readyz`, `/metrics`.
    pub(crate) ops: Option<SocketAddr>,
    /// Whether HTTP/2 is offered.
    pub(crate) http2: bool,
    /// Certificates, trust and versions.
    pub(crate) tls: tls::Settings,
    /// The most connections of each listener at one time.
    pub(crate) max_connections: usize,
    /// From the first byte of a request to its answer.
    pub(crate) request_timeout: Duration,
    /// After this age a connection is closed with its next answer.
    pub(crate) connection_max_age: Duration,
    /// At shutdown, new connections and requests are accepted for so long, while `/readyz` reports the shutdown.
    pub(crate) drain_delay: Duration,
    /// At shutdown, requests in flight are cut off after this.
    pub(crate) drain_timeout: Duration,
}
