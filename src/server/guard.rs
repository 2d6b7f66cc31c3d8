//! What holds for every request of every listener: one deadline, one answer whatever happens, the same headers.

use std::cell::Cell;
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
use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, PRAGMA};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage as _, HttpResponse};
use futures_util::FutureExt as _;
use tokio::time::timeout;
use tracing::Instrument as _;
use uuid::Uuid;

use super::connection::{Beat, Pulse, of_connection};
use super::peer::Peer;
use super::{Unheard, UnheardRequest, exchange};
use crate::server::response::{self, HttpRefusal};
use writ_core::endpoint::Endpoint;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// What the guard of one listener knows.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) deadline: Duration,
    pub(super) draining: Arc<AtomicBool>,
    /// The operators' listener answers while the others drain.
    pub(super) serves_while_draining: bool,
    pub(super) unheard: Unheard,
}

/// The name of a request in answers, logs and the audit.
#[derive(Debug, Clone)]
pub struct RequestName {
    /// `X-Request-Id`.
    pub id: String,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// Whether it reached the room it was meant for.
    pub(super) handed_on: Rc<Cell<bool>>,
}

impl RequestName {
    /// The request's own name if it has exactly one and that is harmless, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = |text: &&str| (1..=MAX_REQUEST_ID).contains(&text.len()) && text.bytes().all(harmless);
        let own = single(headers, &X_REQUEST_ID).filter(fits).map(str::to_owned);
        let id = own.unwrap_or_else(|| Uuid::now_v7().to_string());
        Self { id, trace_id: trace_id(headers).map(str::to_owned), handed_on: Rc::default() }
    }
}

/// The value of a header that is there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// The trace that the request belongs to (Trace Context, "traceparent"); `None` if it names none.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = single(headers, &HeaderName::from_static("traceparent"))?;
    let mut fields = parent.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let set = |text: &str| text.bytes().any(|b| b != b'0');
    let last = version != "00" || fields.next().is_none();
    let fits = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    (fits && last && set(trace) && set(span)).then_some(trace)
}

impl Guard {
    /// Answers one request.
    pub(super) async fn watch(
        self: Rc<Self>,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let seal = Seal::new(&request, Rc::clone(&self));
        if self.draining.load(Ordering::Relaxed) && !self.serves_while_draining {
            return Ok(request.into_response(seal.put(response::http(HttpRefusal::ShuttingDown)).await));
        }
        request.extensions_mut().insert(seal.name.clone());
        let span = tracing::info_span!("request", request_id = seal.name.id, trace_id = seal.name.trace_id);
        // No clone of the request may live across this call: the framework takes it apart.
        let work = AssertUnwindSafe(next.call(request)).catch_unwind().instrument(span);
        match timeout(self.deadline, work).await {
            Ok(Ok(Ok(answer))) => {
                let (request, answer) = answer.map_into_boxed_body().into_parts();
                Ok(ServiceResponse::new(request, seal.put(answer).await))
            }
            // The request is gone with the work, so these take the way of errors.
            Ok(Ok(Err(error))) => Err(seal.fail(error.as_response_error().error_response()).await),
            Ok(Err(_panic)) => Err(seal.fail(response::http(HttpRefusal::Internal)).await),
            Err(_elapsed) => Err(seal.fail(response::http(HttpRefusal::RequestTimeout)).await),
        }
    }
}

/// Each answer of an endpoint is a matter of the audit. The path is the one that routes are found by: `/%74oken` too.
fn endpoint(request: &ServiceRequest) -> Option<Endpoint> {
    if request.method() == Method::POST { exchange::endpoint(request.match_info().as_str()) } else { None }
}

/// What every answer gets before it leaves.
struct Seal {
    name: RequestName,
    beat: Option<Beat>,
    is_last: bool,
    /// Where whoever asks.
    asks: Option<(Endpoint, Rc<Peer>)>,
    guard: Rc<Guard>,
}

impl Seal {
    fn new(request: &ServiceRequest, guard: Rc<Guard>) -> Self {
        let pulse = of_connection::<Pulse>(request.request());
        Self {
            name: RequestName::of(request.headers()),
            beat: pulse.as_ref().map(Pulse::begin),
            is_last: pulse.is_some_and(|pulse| pulse.is_old()),
            asks: endpoint(request).zip(of_connection(request.request())),
            guard,
        }
    }

    async fn fail(self, answer: HttpResponse) -> Error {
        InternalError::from_response("request failed", self.put(answer).await).into()
    }

    async fn put(self, mut answer: HttpResponse) -> HttpResponse {
        let refusal = answer.extensions().get::<HttpRefusal>().copied();
        // What was handed on is recorded by whoever took it, even if nobody waits for the answer any more.
        let unheard = self.asks.as_ref().filter(|_| !self.name.handed_on.get());
        if let Some((refusal, (endpoint, peer))) = refusal.zip(unheard) {
            let certificate = peer.certificate();
            let (name, endpoint, certificate) = (&self.name, *endpoint, Some(&*certificate));
            (self.guard.unheard)(UnheardRequest { name, endpoint, certificate, refusal }).await;
        }
        if let Ok(id) = HeaderValue::from_str(&self.name.id) {
            answer.headers_mut().insert(X_REQUEST_ID.clone(), id);
        }
        if !answer.headers().contains_key(CACHE_CONTROL) {
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
        }
        if self.is_last {
            answer.head_mut().set_connection_type(ConnectionType::Close);
        }
        if let Some(beat) = self.beat.as_ref().filter(|_| answer.head().connection_type() == ConnectionType::Close) {
            beat.is_last();
        }
        if let Some(beat) = &self.beat {
            beat.answered();
        }
        answer.map_body(|_, body| BoxBody::new(Tracked { body, _beat: self.beat }))
    }
}

/// A body that counts as unanswered until it is sent or given up.
struct Tracked {
    body: BoxBody,
    _beat: Option<Beat>,
}

impl MessageBody for Tracked {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs =
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let mut map = HeaderMap::new();
        pairs.for_each(|(name, value)| map.append(name, value));
        map
    }

    ///
    #[test]
    fn a_request_keeps_its_name_only_if_that_is_harmless() {
        let longest: &'static str = "x".repeat(128).leak();
        for own in ["a", "A-1_b.c", longest] {
            assert_eq!(RequestName::of(&headers(&[("x-request-id", own)])).id, own);
        }
        let too_long: &'static str = "x".repeat(129).leak();
        for bad in ["", "a b", "a\"b", "a%0d%0ab", "a/b", too_long] {
            let id = RequestName::of(&headers(&[("x-request-id", bad)])).id;
            assert!(Uuid::parse_str(&id).is_ok(), "{bad:?} became {id:?}");
        }
        let twice = RequestName::of(&headers(&[("x-request-id", "a"), ("x-request-id", "a")])).id;
        assert!(Uuid::parse_str(&twice).is_ok());
    }

    #[test]
    fn a_trace_is_taken_from_a_well_formed_traceparent_only() {
        let of = |value| trace_id(&headers(&[("traceparent", value)])).map(str::to_owned);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(), Some(trace));
        assert_eq!(of("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").as_deref(), Some(trace));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
