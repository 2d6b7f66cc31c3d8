//! HTTP and TLS: the only module that knows actix and rustls.
//!
//! In: `Settings`, [`Trust`](tls::Trust), and the service below as `Handlers`. Out: running listeners. A socket becomes
//! a connection (after a TLS handshake where there is TLS), its requests pass the middleware, and their certificate and
//! bytes go to a handler. No decision is made here.

mod connection;
mod discovery;
mod documents;
mod endpoints;
mod frames;
mod handlers;
mod handshake;
mod http1;
mod http2;
mod listener;
mod listeners;
pub(crate) mod metadata;
mod middleware;
mod ops;
mod peer;
mod request;
mod response;
mod routes;
mod settings;
pub(crate) mod tls;

pub(crate) use self::documents::{CertificateError, DocumentServer};
pub(crate) use self::handlers::Handlers;
pub(crate) use self::listeners::{Addresses, ListenError};
pub(crate) use self::listeners::{Listeners, Running};
pub(crate) use self::response::HttpRefusal;
pub(crate) use self::settings::Settings;

#[cfg(test)]
mod pki;
#[cfg(test)]
mod tests;
