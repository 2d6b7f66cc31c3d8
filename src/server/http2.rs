//! One HTTP/2 connection: streams in, answers out.
//!
//! The framework's own HTTP/2 service has no limits on streams, header lists and floods. Here a peer that exceeds a limit
//! is sent `GOAWAY` with `ENHANCE_YOUR_CALM`, and the connection ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use actix_http::error::PayloadError;
use actix_http::{BoxedPayloadStream, HttpMessage as _, Payload, Request, Response};
use actix_service::Service;
use actix_web::body::{BodySize, BoxBody, MessageBody as _};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, HttpDate, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{Method, StatusCode};
use actix_web::web::Bytes;
use futures_util::Stream;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use tokio::time::timeout;

use super::connection::Connection;
use super::frames::MAX_STREAMS;

/// Fields of one head, as for HTTP/1.1.
const MAX_FIELDS: usize = 96;
/// The fields of one head together, decoded, in bytes; announced to the peer. A larger head gets 431.
const MAX_HEADER_LIST: u32 = 8 * 1024;
/// Bytes of one body that a peer may send ahead of its reader: more than any body that is read.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same for all bodies of unanswered requests together.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes buffered of an answer while the peer does not read it.
const SEND_BUFFER: usize = 64 * 1024;

/// Serves the requests of `connection` by `app` until it ends.
pub(super) async fn serve<A>(connection: Connection, address: Option<SocketAddr>, app: Rc<A>)
where
    A: Service<Request, Response = ServiceResponse<BoxBody>> + 'static,
    A::Error: Into<Response<BoxBody>>,
{
    let (activity, peer) = (Rc::clone(connection.activity()), connection.peer().cloned());
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let Ok(Ok(mut streams)) = timeout(activity.request_timeout(), builder.handshake(connection)).await else { return };
    let mut is_ending = false;
    loop {
        let next = poll_fn(|context| match streams.poll_accept(context) {
            Poll::Pending if activity.is_overrun() && !is_ending => Poll::Ready(None),
            next => next.map(Some),
        });
        match next.await {
            None => {
                is_ending = true;
                tracing::info!(
                    peer = address.map(tracing::field::display),
                    "an HTTP/2 peer exceeded the limits of a connection"
                );
                streams.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            Some(Some(Ok((request, respond)))) => {
                let (mut request, info) = incoming(request);
                request.head_mut().peer_addr = address;
                request.extensions_mut().insert(Rc::clone(&activity));
                if let Some(peer) = &peer {
                    request.extensions_mut().insert(Rc::clone(peer));
                }
                let app = Rc::clone(&app);
                tokio::task::spawn_local(async move {
                    if let Err(error) = answer(request, info, respond, &*app).await {
                        tracing::debug!(%error, "an answer was not sent");
                    }
                });
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an HTTP/2 connection broke");
                return;
            }
            Some(None) => return,
        }
    }
}

/// State of a request besides its head and body.
struct StreamInfo {
    is_head: bool,
    fields: usize,
    /// Bytes of the body that have been read; they are given back to `window` once the request is answered.
    taken: Rc<Cell<usize>>,
    window: h2::FlowControl,
}

fn incoming(request: http::Request<RecvStream>) -> (Request, StreamInfo) {
    let (head, mut stream) = request.into_parts();
    let info = StreamInfo {
        is_head: head.method == Method::HEAD,
        fields: head.headers.len(),
        taken: Rc::default(),
        window: stream.flow_control().clone(),
    };
    let body: BoxedPayloadStream = Box::pin(Body { stream, taken: Rc::clone(&info.taken) });
    let mut request = Request::with_payload(Payload::Stream { payload: body });
    let to = request.head_mut();
    (to.uri, to.method, to.version) = (head.uri, head.method, head.version);
    if info.fields <= MAX_FIELDS {
        to.headers = head.headers.into();
    }
    (request, info)
}

async fn answer<A>(
    request: Request,
    mut info: StreamInfo,
    mut respond: SendResponse<Bytes>,
    app: &A,
) -> Result<(), h2::Error>
where
    A: Service<Request, Response = ServiceResponse<BoxBody>>,
    A::Error: Into<Response<BoxBody>>,
{
    if info.fields > MAX_FIELDS {
        let mut refusal = http::Response::new(());
        *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return respond.send_response(refusal, true).map(drop);
    }
    let answer = app.call(request).await.map_or_else(Into::into, Into::into);
    let sent = send(answer, respond, info.is_head).await;
    info.window.release_capacity(info.taken.get())?;
    sent
}

async fn send(answer: Response<BoxBody>, mut respond: SendResponse<Bytes>, is_head: bool) -> Result<(), h2::Error> {
    let (answer, body) = answer.into_parts();
    let is_all = is_head || body.size().is_eof();
    let mut stream = respond.send_response(head(&answer, body.size()), is_all)?;
    if is_all {
        return Ok(());
    }
    let mut body = pin!(body);
    while let Some(Ok(mut part)) = poll_fn(|context| body.as_mut().poll_next(context)).await {
        while !part.is_empty() {
            stream.reserve_capacity(part.len());
            let Some(capacity) = poll_fn(|context| stream.poll_capacity(context)).await else { return Ok(()) };
            let chunk = part.split_to(capacity?.min(part.len()));
            stream.send_data(chunk, false)?;
        }
    }
    stream.send_data(Bytes::new(), true)
}

/// The head of an answer, without the fields of HTTP/1.1 connections (RFC 9113 §8.2.2).
fn head(answer: &Response<()>, size: BodySize) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = answer.status();
    let to = head.headers_mut();
    for (name, value) in answer.headers() {
        if ![CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name) {
            to.append(name.clone(), value.clone());
        }
    }
    if let BodySize::Sized(length) = size {
        to.insert(CONTENT_LENGTH, length.into());
    }
    if let Ok(date) = HeaderValue::from_str(&HttpDate::from(SystemTime::now()).to_string()) {
        to.insert(DATE, date);
    }
    head
}

/// A body whose bytes are not given back to the peer's window while it is read.
struct Body {
    stream: RecvStream,
    taken: Rc<Cell<usize>>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let part = ready!(self.stream.poll_data(context));
        if let Some(Ok(part)) = &part {
            self.taken.set(self.taken.get() + part.len());
        }
        Poll::Ready(part.map(|part| part.map_err(PayloadError::from)))
    }
}
