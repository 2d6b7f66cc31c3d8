//! The interface between the listeners and the service: functions that the listeners call.
//!
//! In: an [`IncomingRequest`]. Out: a result, which [`response`](super::response) turns into HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::response::HttpRefusal;
use writ_core::client::{ClientId, PeerCertificate};
use writ_core::endpoint::{Endpoint, IncomingRequest};
use writ_core::exchange::Issued;
use writ_core::introspect::Introspected;
use writ_core::refusal::Refusal;

/// How long a document may be cached from now on.
pub(super) type MaxAge = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Handles the requests to one endpoint. Its future is dropped when the answer is due or the client disconnects.
pub(super) type Handler<T> = Arc<dyn Fn(IncomingRequest) -> LocalBoxFuture<'static, Result<T, Refusal>> + Send + Sync>;

/// Records a request to an endpoint that was answered before it reached its handler.
pub(super) type RejectionRecorder = Arc<dyn Fn(RejectedRequest<'_>) -> LocalBoxFuture<'_, ()> + Send + Sync>;

/// The client whose share of the concurrent requests a certificate uses; `None`: that of all unknown certificates.
pub(super) type ShareOf = Arc<dyn Fn(&PeerCertificate) -> Option<ClientId> + Send + Sync>;

/// Renders the current version of a document.
pub(super) type Document = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// A request to an endpoint that the listener answered alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RejectedRequest<'a> {
    /// `X-Request-Id`.
    pub(crate) request_id: &'a str,
    /// From `traceparent`.
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) endpoint: Endpoint,
    pub(crate) certificate: &'a PeerCertificate,
    pub(crate) refusal: HttpRefusal,
}

/// The service below the listeners.
#[derive(Clone)]
pub(crate) struct Handlers {
    /// `POST /token`.
    pub(crate) token: Handler<Issued>,
    /// `POST /introspect`.
    pub(crate) introspect: Handler<Introspected>,
    pub(crate) share_of: ShareOf,
    /// Called for each request to `/token` or `/introspect` that was refused before it reached its handler.
    pub(crate) rejected: RejectionRecorder,
    pub(crate) jwks: Document,
    /// The metadata of RFC 8414.
    pub(crate) metadata: Document,
    /// `max-age` of both: `tokens.jwks_max_age`, or none while they may be outdated.
    pub(crate) documents_max_age: MaxAge,
    /// The failing parts; empty if the service is ready.
    pub(crate) failing: Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// The parts that are not yet available, without which most tokens can be issued.
    pub(crate) pending: Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// The metrics in the Prometheus text format.
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}
