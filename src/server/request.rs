//! The context of a request: its ids and its deadlines.
//!
//! In: the head of the request. Out: a [`RequestContext`] among the request's extensions.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName};
use actix_web::{HttpMessage as _, HttpRequest};
use uuid::Uuid;

use writ_platform::unique::uuid_v7;

pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

#[derive(Debug, Clone)]
pub(super) struct RequestContext {
    /// `X-Request-Id`, in answers, logs and audit events.
    pub(super) request_id: Arc<str>,
    /// From `traceparent`.
    pub(super) trace_id: Option<Arc<str>>,
    /// After this the client receives a timeout.
    pub(super) answer_due: Instant,
    /// After this a flow stops waiting for the store or another service, so that it can still report why.
    pub(super) work_due: Instant,
    handed_over: Rc<Cell<bool>>,
}

impl RequestContext {
    /// The context of a request that arrives now, with `timeout` from head to answer (`limits.request_timeout`).
    pub(super) fn new(headers: &HeaderMap, timeout: Duration) -> Self {
        let arrived = Instant::now();
        Self {
            request_id: request_id(headers),
            trace_id: trace_id(headers).map(Arc::from),
            answer_due: arrived + timeout,
            work_due: arrived + timeout * 9 / 10,
            handed_over: Rc::default(),
        }
    }

    /// Marks the request as handed to a flow, which records the outcome even if the client disconnects.
    pub(super) fn hand_over(&self) {
        self.handed_over.set(true);
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.get()
    }
}

/// The data of the connection that a request arrived on: the framework stores it with HTTP/1.1 connections,
/// [`http2`](super::http2) with each request.
pub(super) fn of_connection<T: 'static>(request: &HttpRequest) -> Option<Rc<T>> {
    let from_extensions = || request.extensions().get::<Rc<T>>().cloned();
    request.conn_data::<Rc<T>>().cloned().or_else(from_extensions)
}

/// The value of a header that is present exactly once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// The client's own id if it sent exactly one, of harmless characters; otherwise a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let is_harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let fits = |text: &&str| (1..=MAX_REQUEST_ID).contains(&text.len()) && text.bytes().all(is_harmless);
    single(headers, &X_REQUEST_ID).filter(fits).map_or_else(new_request_id, Arc::from)
}

fn new_request_id() -> Arc<str> {
    Arc::from(&*uuid_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// The trace id of a well-formed `traceparent` (W3C Trace Context §3.2).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = single(headers, &HeaderName::from_static("traceparent"))?;
    let mut fields = parent.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_set = |text: &str| text.bytes().any(|b| b != b'0');
    let is_complete = version != "00" || fields.next().is_none();
    let fits = is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    (fits && is_complete && is_set(trace) && is_set(span)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    ///
    #[test]
    fn a_request_keeps_its_id_only_if_that_is_harmless() {
        let longest: &'static str = "x".repeat(128).leak();
        for own in ["a", "A-1_b.c", longest] {
            assert_eq!(&*request_id(&headers(&[("x-request-id", own)])), own);
        }
        let too_long: &'static str = "x".repeat(129).leak();
        for bad in ["", "a b", "a\"b", "a%0d%0ab", "a/b", too_long] {
            let id = request_id(&headers(&[("x-request-id", bad)]));
            assert!(Uuid::parse_str(&id).is_ok(), "{bad:?} became {id:?}");
        }
        let twice = request_id(&headers(&[("x-request-id", "a"), ("x-request-id", "a")]));
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
