//! The middleware of every listener: each request gets exactly one answer, by its deadline, with the standard headers.
//!
//! It is the listener's panic boundary. A panic within a flow never reaches it: the flow records it as its outcome.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::ConnectionType;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage as _, HttpResponse};
use futures_util::FutureExt as _;
use tracing::Instrument as _;

use super::connection::{ConnectionActivity, RequestGuard};
use super::handlers::{RejectedRequest, RejectionRecorder};
use super::peer::Peer;
use super::request::{RequestContext, X_REQUEST_ID, of_connection};
use super::response::{self, HttpRefusal};
use super::routes::Route;
use writ_core::endpoint::Endpoint;
use writ_platform::deadline::before;

/// The middleware of one listener.
#[derive(Clone)]
pub(super) struct Middleware {
    pub(super) request_timeout: Duration,
    pub(super) leaving: Arc<AtomicBool>,
    pub(super) draining: Arc<AtomicBool>,
    /// Whether the listener answers while the others drain: the operators' does.
    pub(super) serves_while_draining: bool,
    pub(super) rejected: RejectionRecorder,
}

impl Middleware {
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) && !self.serves_while_draining
    }

    pub(super) async fn handle(
        self: Rc<Self>,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let pending = PendingAnswer::new(&request, &self);
        if self.draining.load(Ordering::Relaxed) && !self.serves_while_draining {
            return Ok(request.into_response(pending.complete(response::http(HttpRefusal::ShuttingDown)).await));
        }
        let context = &pending.context;
        request.extensions_mut().insert(context.clone());
        let span =
            tracing::info_span!("request", request_id = &*context.request_id, trace_id = context.trace_id.as_deref());
        // No clone of the request may live across this call: the framework needs to own it alone.
        let work = AssertUnwindSafe(next.call(request)).catch_unwind().instrument(span);
        match before(context.answer_due, work).await {
            Some(Ok(Ok(answer))) => {
                let (request, answer) = answer.map_into_boxed_body().into_parts();
                Ok(ServiceResponse::new(request, pending.complete(answer).await))
            }
            // The request is gone with the work, so these answers are returned as errors.
            Some(Ok(Err(error))) => Err(pending.fail(error.as_response_error().error_response()).await),
            Some(Err(_panic)) => Err(pending.fail(response::http(HttpRefusal::Internal)).await),
            None => Err(pending.fail(response::http(HttpRefusal::RequestTimeout)).await),
        }
    }
}

/// A request whose answer is to be completed.
struct PendingAnswer {
    context: RequestContext,
    guard: Option<RequestGuard>,
    /// The connection has reached its maximum age, or the service is about to stop.
    is_last: bool,
    /// The endpoint and the peer, if each answer of the endpoint is audited.
    audited: Option<(Endpoint, Rc<Peer>)>,
    rejected: RejectionRecorder,
}

impl PendingAnswer {
    fn new(request: &ServiceRequest, middleware: &Middleware) -> Self {
        let activity = of_connection::<ConnectionActivity>(request.request());
        let endpoint = Route::audited(request.method(), request.match_info().as_str());
        Self {
            context: RequestContext::new(request.headers(), middleware.request_timeout),
            guard: activity.as_ref().map(ConnectionActivity::begin_request),
            is_last: activity.is_some_and(|activity| activity.is_old()) || middleware.is_leaving(),
            audited: endpoint.zip(of_connection(request.request())),
            rejected: Arc::clone(&middleware.rejected),
        }
    }

    async fn fail(self, answer: HttpResponse) -> Error {
        InternalError::from_response("request failed", self.complete(answer).await).into()
    }

    /// Records the answer unless a flow does, and completes its headers.
    async fn complete(self, mut answer: HttpResponse) -> HttpResponse {
        self.record_rejection(&answer).await;
        ResponseHeaders { request_id: &self.context.request_id, closes_connection: self.is_last }.apply(&mut answer);
        if let Some(guard) = &self.guard {
            if answer.head().connection_type() == ConnectionType::Close {
                guard.close_connection();
            }
            guard.mark_answered();
        }
        answer.map_body(|_, body| BoxBody::new(GuardedBody { body, _guard: self.guard }))
    }

    async fn record_rejection(&self, answer: &HttpResponse) {
        let refusal = answer.extensions().get::<HttpRefusal>().copied();
        let audited = self.audited.as_ref().filter(|_| !self.context.is_handed_over());
        if let Some((refusal, (endpoint, peer))) = refusal.zip(audited) {
            let rejected = RejectedRequest {
                request_id: &self.context.request_id,
                trace_id: self.context.trace_id.as_deref(),
                endpoint: *endpoint,
                certificate: &peer.certificate(),
                refusal,
            };
            (self.rejected)(rejected).await;
        }
    }
}

/// The headers of every answer.
struct ResponseHeaders<'a> {
    request_id: &'a str,
    closes_connection: bool,
}

impl ResponseHeaders<'_> {
    fn apply(&self, answer: &mut HttpResponse) {
        if let Ok(id) = HeaderValue::from_str(self.request_id) {
            answer.headers_mut().insert(X_REQUEST_ID.clone(), id);
        }
        if !answer.headers().contains_key(CACHE_CONTROL) {
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
        }
        if self.closes_connection {
            answer.head_mut().set_connection_type(ConnectionType::Close);
        }
    }
}

/// A body whose request counts as unanswered until it is sent or given up.
struct GuardedBody {
    body: BoxBody,
    _guard: Option<RequestGuard>,
}

impl MessageBody for GuardedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
