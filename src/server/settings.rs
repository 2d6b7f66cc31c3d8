//! Where and how the service listens.

use std::net::SocketAddr;
use std::time::Duration;

use super::tls;

/// `[listen]`, `[tls]`, and of `[limits]` what concerns connections and requests.
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
    /// The most connections of each listener at one time.
    pub max_connections: usize,
    /// From the first byte of a request to its answer.
    pub request_timeout: Duration,
    /// After this age a connection is closed with its next answer.
    pub connection_max_age: Duration,
    /// How long requests in flight may take at shutdown.
    pub drain_timeout: Duration,
}
