//! Accept, drain, stop.

pub mod tls;

use std::net::SocketAddr;
use std::time::Duration;

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
