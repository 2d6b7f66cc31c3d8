//! One connection: its bytes and its time limits.
//!
//! In: a byte stream after accept or TLS handshake. Out: the same stream, filtered ([`http1`], [`frames`]), which reports
//! its end once a time limit has passed. The framework limits only the time of the first head and of idle HTTP/1.1
//! connections. [`ConnectionActivity`] limits the rest: later heads, refused bodies that never end, answers that the
//! client does not read, idle HTTP/2, and age.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::frames::{self, FrameLimiter};
use super::http1;
use super::peer::Peer;
use writ_platform::shares::Place;

/// The longest wait for the next request on a connection.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long input is still read after the last answer: closing at once would reset the connection, and the answer could
/// be lost.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Bytes read at one time.
const READ_SIZE: usize = 4096;
/// How often an active connection checks its deadline.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The most unanswered requests of one HTTP/2 connection. A request that the peer has reset counts until its work ends.
const MAX_UNANSWERED: u32 = 2 * frames::MAX_STREAMS;
/// The head start of the framework's own timers, which can still send an answer.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// The time limits of a connection (`[limits]`).
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    pub(super) request: Duration,
    pub(super) age: Duration,
}

/// Connections and requests in progress, and how requests ended, over all connections.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    connections: AtomicUsize,
    requests: AtomicUsize,
    answered: AtomicUsize,
    cut_off: AtomicUsize,
}

/// [`Traffic`] at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) connections: usize,
    pub(super) requests: usize,
    pub(super) answered: usize,
    pub(super) cut_off: usize,
}

impl Traffic {
    pub(super) fn counts(&self) -> Counts {
        let [connections, requests, answered, cut_off] =
            [&self.connections, &self.requests, &self.answered, &self.cut_off]
                .map(|count| count.load(Ordering::Relaxed));
        Counts { connections, requests, answered, cut_off }
    }
}

/// The state of one connection, shared between its byte stream and its requests.
#[derive(Debug)]
pub(super) struct ConnectionActivity {
    limits: TimeLimits,
    /// HTTP/2, where bytes that arrive between requests need not begin one.
    multiplexed: bool,
    opened: Instant,
    /// Requests that have begun and whose answers have not been sent.
    unanswered: Cell<u32>,
    /// When `unanswered` last changed.
    changed: Cell<Instant>,
    /// When the first bytes of the next request arrived.
    head_began: Cell<Option<Instant>>,
    /// The peer has exceeded its limit of frames.
    flooded: Cell<bool>,
    /// No further request is accepted.
    closing: Cell<bool>,
    draining: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

impl ConnectionActivity {
    pub(super) fn new(
        limits: TimeLimits,
        multiplexed: bool,
        draining: Arc<AtomicBool>,
        traffic: Arc<Traffic>,
    ) -> Rc<Self> {
        let now = Instant::now();
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self {
            limits,
            multiplexed,
            opened: now,
            unanswered: Cell::new(0),
            changed: Cell::new(now),
            head_began: Cell::new(None),
            flooded: Cell::new(false),
            closing: Cell::new(false),
            draining,
            traffic,
        })
    }

    /// Counts a request until the guard is dropped, which is when its answer has been handed over for sending.
    pub(super) fn begin_request(self: &Rc<Self>) -> RequestGuard {
        self.unanswered.set(self.unanswered.get() + 1);
        self.changed.set(Instant::now());
        self.head_began.set(None);
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        RequestGuard { activity: Rc::clone(self), is_answered: Cell::new(false) }
    }

    /// Whether the connection has reached its maximum age, so that the next answer is its last.
    pub(super) fn is_old(&self) -> bool {
        self.opened.elapsed() >= self.limits.age
    }

    /// Whether the peer has exceeded the limits of a connection.
    pub(super) fn is_overrun(&self) -> bool {
        self.flooded.get() || self.unanswered.get() > MAX_UNANSWERED
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.limits.request
    }

    /// Bytes arrived: between requests they begin the next head.
    fn note_bytes(&self, now: Instant) {
        if self.unanswered.get() == 0 && self.head_began.get().is_none() {
            self.head_began.set(Some(now));
        }
    }

    /// When the connection ends unless something changes.
    fn deadline(&self) -> Instant {
        let oldest = self.opened + self.limits.age + self.limits.request + SHUTDOWN_GRACE;
        oldest.min(self.changed.get() + self.idle_timeout())
    }

    /// How long the connection may remain without a change.
    fn idle_timeout(&self) -> Duration {
        match self.unanswered.get() {
            // Requests end by their own deadline; this is for answers that the client does not read.
            1..=MAX_UNANSWERED => self.limits.request * 2,
            0 if self.closing.get() => LINGER + SHUTDOWN_GRACE,
            // The framework closes idle HTTP/1.1 itself.
            0 if self.multiplexed && self.draining.load(Ordering::Relaxed) => SHUTDOWN_GRACE,
            0 if self.multiplexed => KEEP_ALIVE,
            0 => match self.head_began.get() {
                Some(began) => {
                    began.saturating_duration_since(self.changed.get()) + self.limits.request + SHUTDOWN_GRACE
                }
                None => KEEP_ALIVE + self.limits.request,
            },
            _ => Duration::ZERO,
        }
    }

    /// When to check the deadline again.
    fn next_check(&self, now: Instant) -> Instant {
        let is_active = self.multiplexed || self.unanswered.get() > 0 || self.head_began.get().is_some();
        if is_active { self.deadline().min(now + CHECK_INTERVAL) } else { self.deadline() }
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.traffic.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request whose answer has not been sent.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Rc<ConnectionActivity>,
    is_answered: Cell<bool>,
}

impl RequestGuard {
    /// No further request is accepted after this one.
    pub(super) fn close_connection(&self) {
        self.activity.closing.set(true);
    }

    /// The answer exists and need only be sent.
    pub(super) fn mark_answered(&self) {
        self.is_answered.set(true);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.unanswered.set(self.activity.unanswered.get() - 1);
        self.activity.changed.set(Instant::now());
        let traffic = &self.activity.traffic;
        let ended = if self.is_answered.get() { &traffic.answered } else { &traffic.cut_off };
        ended.fetch_add(1, Ordering::Relaxed);
        traffic.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A byte stream, with TLS or without. The framework is compiled once for all of them.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport for S {}

/// A byte stream that ends at its deadline and passes on only well-formed requests.
pub(super) struct Connection {
    io: Box<dyn Transport>,
    filter: http1::RequestFilter,
    /// Only for HTTP/2.
    frames: Option<FrameLimiter>,
    /// Received and filtered; the part that the framework has not read begins at `read`.
    received: Vec<u8>,
    read: usize,
    activity: Rc<ConnectionActivity>,
    peer: Option<Rc<Peer>>,
    _place: Option<Place<String>>,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    /// Everything has been sent; further input is discarded.
    is_shut: bool,
}

impl Connection {
    pub(super) fn new(
        io: impl Transport + 'static,
        activity: Rc<ConnectionActivity>,
        peer: Option<Peer>,
        place: Option<Place<String>>,
    ) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(activity.next_check(now)));
        let frames = activity.multiplexed.then(|| FrameLimiter::new(now));
        let (filter, received) = (http1::RequestFilter::default(), Vec::new());
        Self {
            io: Box::new(io),
            filter,
            frames,
            received,
            read: 0,
            activity,
            peer: peer.map(Rc::new),
            _place: place,
            timer,
            ended: false,
            is_shut: false,
        }
    }

    pub(super) fn activity(&self) -> &Rc<ConnectionActivity> {
        &self.activity
    }

    pub(super) fn peer(&self) -> Option<&Rc<Peer>> {
        self.peer.as_ref()
    }

    /// Whether the deadline has passed; if not, the task is woken at the next check.
    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if self.ended || self.activity.deadline() <= now {
                return true;
            }
            self.timer.as_mut().reset(self.activity.next_check(now));
        }
        false
    }

    /// Bytes arrived: they may begin a request, so the deadline is checked at short intervals from now on.
    fn note_bytes(&mut self) {
        let now = Instant::now();
        self.activity.note_bytes(now);
        if self.timer.deadline() > now + CHECK_INTERVAL {
            self.timer.as_mut().reset(now + CHECK_INTERVAL);
        }
    }

    /// The result of sending, or an error if the peer has not accepted the bytes in time.
    fn within_time<T>(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_pending() && self.is_overdue(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        sent
    }

    /// Reads and counts frames. After too many of them reading stops, and the peer only receives the error.
    fn poll_frames(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.flooded.get() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            let is_too_much = self.frames.as_mut().is_some_and(|frames| !frames.admit(received, Instant::now()));
            self.activity.flooded.set(is_too_much);
            self.note_bytes();
        }
        Poll::Ready(Ok(()))
    }

    /// Discards further input, so that the last answer arrives: closing a socket with unread bytes resets it.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; READ_SIZE];
            let mut chunk = ReadBuf::new(&mut chunk);
            let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut chunk));
            if read.is_err() || chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.is_overdue(context) {
            // The framework sees the end of the stream, and gets this long to write what is left and to close.
            self.ended = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
            return Poll::Ready(Ok(()));
        }
        if self.frames.is_some() {
            return self.poll_frames(context, buffer);
        }
        while self.read == self.received.len() {
            self.received.clear();
            self.read = 0;
            let mut chunk = [0; READ_SIZE];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.note_bytes();
            let Self { filter, received, .. } = &mut *self;
            filter.pass(chunk.filled(), received);
        }
        let length = buffer.remaining().min(self.received.len() - self.read);
        buffer.put_slice(&self.received[self.read..self.read + length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write(context, bytes);
        self.within_time(context, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_flush(context);
        self.within_time(context, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            let sent = Pin::new(&mut self.io).poll_shutdown(context);
            ready!(self.within_time(context, sent))?;
            self.is_shut = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        if self.frames.is_some() { self.poll_discard(context) } else { Poll::Ready(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const REQUEST: Duration = Duration::from_secs(10);
    const AGE: Duration = Duration::from_secs(3600);

    fn activity(multiplexed: bool) -> Rc<ConnectionActivity> {
        ConnectionActivity::new(TimeLimits { request: REQUEST, age: AGE }, multiplexed, Arc::default(), Arc::default())
    }

    fn connection(request: Duration) -> (Connection, DuplexStream) {
        let (io, peer) = duplex(64);
        let activity = ConnectionActivity::new(TimeLimits { request, age: AGE }, false, Arc::default(), Arc::default());
        (Connection::new(io, activity, None, None), peer)
    }

    #[tokio::test]
    async fn the_head_of_a_later_request_has_its_time_limit() {
        let activity = activity(false);
        drop(activity.begin_request());
        let began = Instant::now() + Duration::from_secs(30);
        activity.note_bytes(began);
        activity.note_bytes(began + Duration::from_secs(5));
        assert_eq!(activity.deadline(), began + REQUEST + SHUTDOWN_GRACE, "dripping bytes gain no time");
        assert!(activity.next_check(began) <= began + CHECK_INTERVAL);
    }

    #[tokio::test]
    async fn an_idle_connection_ends_after_keep_alive() {
        let (http1, http2) = (activity(false), activity(true));
        assert_eq!(http1.idle_timeout(), KEEP_ALIVE + REQUEST);
        http2.note_bytes(Instant::now());
        assert_eq!(http2.idle_timeout(), KEEP_ALIVE);
    }

    #[tokio::test]
    async fn after_the_last_answer_the_client_has_a_moment() {
        let activity = activity(false);
        let guard = activity.begin_request();
        guard.close_connection();
        assert_eq!(activity.idle_timeout(), REQUEST * 2);
        drop(guard);
        activity.note_bytes(Instant::now());
        assert_eq!(activity.idle_timeout(), LINGER + SHUTDOWN_GRACE);
    }

    #[tokio::test]
    async fn age_ends_a_connection_that_is_never_idle() {
        let activity = activity(true);
        activity.changed.set(activity.opened + AGE + REQUEST);
        assert_eq!(activity.deadline(), activity.opened + AGE + REQUEST + SHUTDOWN_GRACE);
        assert!(!activity.is_old());
    }

    #[tokio::test]
    async fn too_many_unanswered_streams_end_the_connection() {
        let activity = activity(true);
        let mut guards: Vec<_> = (0..=MAX_UNANSWERED).map(|_| activity.begin_request()).collect();
        assert_eq!(activity.idle_timeout(), Duration::ZERO);
        guards.pop();
        assert_eq!(activity.idle_timeout(), REQUEST * 2);
    }

    #[tokio::test]
    async fn idle_http2_ends_when_the_service_drains() {
        let activity = activity(true);
        activity.draining.store(true, Ordering::Relaxed);
        assert_eq!(activity.idle_timeout(), SHUTDOWN_GRACE);
        assert!(activity.next_check(activity.opened) <= activity.opened + CHECK_INTERVAL);
    }

    #[tokio::test]
    async fn a_connection_whose_time_is_over_reads_as_closed() {
        let (mut connection, mut client) = connection(Duration::from_millis(1));
        client.write_all(b"POST /token HTTP/1.1\r\nHo").await.unwrap();
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), 22);
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_ends_the_connection() {
        let (mut connection, mut client) = connection(Duration::from_millis(1));
        client.write_all(b"POST /token HTTP/1.1\r\n").await.unwrap();
        connection.read_exact(&mut [0; 22]).await.unwrap();
        let _guard = connection.activity().begin_request();
        let error = connection.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
