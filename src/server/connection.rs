//! One connection: its bytes and its clock.
//!
//! The framework times the first head and idle HTTP/1.1 connections, nothing else. [`Pulse`] bounds the rest: later
//! heads, bodies that never end after they were refused, answers that nobody reads, idle HTTP/2, and age.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::{HttpMessage as _, HttpRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::http1;
use super::http2::{self, frames::Frames};
use super::peer::Peer;
use writ_platform::shares::Place;

/// How long a connection may wait for its next request.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may still send after the last answer, so that it can read that answer.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// What is read of a connection at one time.
const PIECE: usize = 4096;
/// A connection with something going on looks at its clock this often.
const LOOK: Duration = Duration::from_secs(1);
/// Requests that one HTTP/2 connection may have unanswered: those that were taken back may still be at work.
const MAX_UNANSWERED: u32 = 2 * http2::MAX_STREAMS;
/// What the framework's own timers get to act first, since they can still answer.
const COURTESY: Duration = Duration::from_millis(500);

/// The times that bound a connection (`[limits]`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) request: Duration,
    pub(super) age: Duration,
}

/// What clients have under way, over all connections, and what became of their requests.
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

/// What a connection is doing, shared between its bytes and its requests.
#[derive(Debug)]
pub(super) struct Pulse {
    times: Times,
    /// HTTP/2: bytes that arrive while nothing is asked are no beginning of a request.
    multiplexed: bool,
    opened: Instant,
    /// Requests begun whose answers have not left.
    unanswered: Cell<u32>,
    /// When that last changed.
    moved: Cell<Instant>,
    /// When the first bytes of the next request came.
    heard: Cell<Option<Instant>>,
    /// The peer has sent more frames than it may.
    flooded: Cell<bool>,
    /// No further request will be taken.
    closing: Cell<bool>,
    draining: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

impl Pulse {
    pub(super) fn new(times: Times, multiplexed: bool, draining: Arc<AtomicBool>, traffic: Arc<Traffic>) -> Rc<Self> {
        let now = Instant::now();
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self {
            times,
            multiplexed,
            opened: now,
            unanswered: Cell::new(0),
            moved: Cell::new(now),
            heard: Cell::new(None),
            flooded: Cell::new(false),
            closing: Cell::new(false),
            draining,
            traffic,
        })
    }

    /// A request begins; it ends when the beat is dropped, which is when its answer has been handed over for sending.
    pub(super) fn begin(self: &Rc<Self>) -> Beat {
        self.unanswered.set(self.unanswered.get() + 1);
        self.moved.set(Instant::now());
        self.heard.set(None);
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        Beat { pulse: Rc::clone(self), is_answered: Cell::new(false) }
    }

    /// Whether the connection has reached its maximum age, so that the next answer is its last.
    pub(super) fn is_old(&self) -> bool {
        self.opened.elapsed() >= self.times.age
    }

    /// Whether the peer asks for more than one connection gets.
    pub(super) fn is_overrun(&self) -> bool {
        self.flooded.get() || self.unanswered.get() > MAX_UNANSWERED
    }

    /// How long one request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        self.times.request
    }

    /// The answer that is being made is the last one.
    pub(super) fn close(&self) {
        self.closing.set(true);
    }

    fn hear(&self, now: Instant) {
        if self.unanswered.get() == 0 && self.heard.get().is_none() {
            self.heard.set(Some(now));
        }
    }

    /// When the connection ends if nothing changes.
    fn deadline(&self) -> Instant {
        let oldest = self.opened + self.times.age + self.times.request + COURTESY;
        oldest.min(self.moved.get() + self.patience())
    }

    /// How long after the last change.
    fn patience(&self) -> Duration {
        match self.unanswered.get() {
            // Requests end by their own deadline; this is for answers that nobody reads.
            1..=MAX_UNANSWERED => self.times.request * 2,
            0 if self.closing.get() => LINGER + COURTESY,
            // The framework closes idle HTTP/1.1 itself.
            0 if self.multiplexed && self.draining.load(Ordering::Relaxed) => COURTESY,
            0 if self.multiplexed => KEEP_ALIVE,
            0 => match self.heard.get() {
                Some(heard) => heard.saturating_duration_since(self.moved.get()) + self.times.request + COURTESY,
                None => KEEP_ALIVE + self.times.request,
            },
            _ => Duration::ZERO,
        }
    }

    /// When to look again.
    fn next_look(&self, now: Instant) -> Instant {
        let busy = self.multiplexed || self.unanswered.get() > 0 || self.heard.get().is_some();
        if busy { self.deadline().min(now + LOOK) } else { self.deadline() }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.traffic.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request whose answer has not left.
#[derive(Debug)]
pub(super) struct Beat {
    pulse: Rc<Pulse>,
    is_answered: Cell<bool>,
}

impl Beat {
    /// No further request is taken after this one.
    pub(super) fn is_last(&self) {
        self.pulse.close();
    }

    /// There is an answer; it need only be sent.
    pub(super) fn answered(&self) {
        self.is_answered.set(true);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.unanswered.set(self.pulse.unanswered.get() - 1);
        self.pulse.moved.set(Instant::now());
        let traffic = &self.pulse.traffic;
        let ended = if self.is_answered.get() { &traffic.answered } else { &traffic.cut_off };
        ended.fetch_add(1, Ordering::Relaxed);
        traffic.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What belongs to the connection of a request: HTTP/1.1 has it by the framework's way, HTTP/2 by ours.
pub(super) fn of_connection<T: 'static>(request: &HttpRequest) -> Option<Rc<T>> {
    let own = || request.extensions().get::<Rc<T>>().cloned();
    request.conn_data::<Rc<T>>().cloned().or_else(own)
}

/// A byte stream that ends when its time is over, and on which requests are what they must be.
pub(super) struct Connection<S> {
    io: S,
    requests: http1::Requests,
    /// HTTP/2 alone.
    frames: Option<Frames>,
    /// What has come and is not read yet begins at `read`.
    come: Vec<u8>,
    read: usize,
    pulse: Rc<Pulse>,
    peer: Option<Rc<Peer>>,
    _place: Option<Place<String>>,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    /// All has been said; what still comes is thrown away.
    is_shut: bool,
}

impl<S> Connection<S> {
    pub(super) fn new(io: S, pulse: Rc<Pulse>, peer: Option<Peer>, place: Option<Place<String>>) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(pulse.next_look(now)));
        let frames = pulse.multiplexed.then(|| Frames::new(now));
        let (requests, come) = (http1::Requests::default(), Vec::new());
        Self {
            io,
            requests,
            frames,
            come,
            read: 0,
            pulse,
            peer: peer.map(Rc::new),
            _place: place,
            timer,
            ended: false,
            is_shut: false,
        }
    }

    pub(super) fn pulse(&self) -> &Rc<Pulse> {
        &self.pulse
    }

    pub(super) fn peer(&self) -> Option<&Rc<Peer>> {
        self.peer.as_ref()
    }

    /// Whether the time is over; if not, the task is woken at the next look.
    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if self.ended || self.pulse.deadline() <= now {
                return true;
            }
            self.timer.as_mut().reset(self.pulse.next_look(now));
        }
        false
    }

    /// Bytes came: they may be the beginning of a request, and from now on the clock matters.
    fn hear(&mut self) {
        let now = Instant::now();
        self.pulse.hear(now);
        if self.timer.deadline() > now + LOOK {
            self.timer.as_mut().reset(now + LOOK);
        }
    }

    /// What could be sent is sent, unless the peer has not taken it in time.
    fn within_time<T>(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_pending() && self.is_overdue(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        sent
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Reads frames and counts them. Who has sent too many is not heard any more, only told.
    fn poll_frames(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pulse.flooded.get() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let come = &buffer.filled()[before..];
        if !come.is_empty() {
            let is_too_much = self.frames.as_mut().is_some_and(|frames| !frames.admit(come, Instant::now()));
            self.pulse.flooded.set(is_too_much);
            self.hear();
        }
        Poll::Ready(Ok(()))
    }

    /// Lets the last word arrive: closing a socket with unread bytes would reset it.
    fn poll_leftovers(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut piece));
            if read.is_err() || piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.is_overdue(context) {
            // To the framework the peer has hung up, so that it closes in good order; what it still has to write gets
            // this much time.
            self.ended = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
            return Poll::Ready(Ok(()));
        }
        if self.frames.is_some() {
            return self.poll_frames(context, buffer);
        }
        while self.read == self.come.len() {
            self.come.clear();
            self.read = 0;
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.hear();
            let Self { requests, come, .. } = &mut *self;
            requests.pass(piece.filled(), come);
        }
        let length = buffer.remaining().min(self.come.len() - self.read);
        buffer.put_slice(&self.come[self.read..self.read + length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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
        if self.frames.is_some() { self.poll_leftovers(context) } else { Poll::Ready(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const REQUEST: Duration = Duration::from_secs(10);
    const AGE: Duration = Duration::from_secs(3600);

    fn pulse(multiplexed: bool) -> Rc<Pulse> {
        Pulse::new(Times { request: REQUEST, age: AGE }, multiplexed, Arc::default(), Arc::default())
    }

    fn connection(request: Duration) -> (Connection<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let pulse = Pulse::new(Times { request, age: AGE }, false, Arc::default(), Arc::default());
        (Connection::new(ours, pulse, None, None), theirs)
    }

    #[tokio::test]
    async fn the_head_of_a_later_request_has_its_time_limit() {
        let pulse = pulse(false);
        drop(pulse.begin());
        let heard = Instant::now() + Duration::from_secs(30);
        pulse.hear(heard);
        pulse.hear(heard + Duration::from_secs(5));
        assert_eq!(pulse.deadline(), heard + REQUEST + COURTESY, "dripping bytes gain no time");
        assert!(pulse.next_look(heard) <= heard + LOOK);
    }

    #[tokio::test]
    async fn an_idle_connection_ends_after_keep_alive() {
        let (http1, http2) = (pulse(false), pulse(true));
        assert_eq!(http1.patience(), KEEP_ALIVE + REQUEST);
        http2.hear(Instant::now());
        assert_eq!(http2.patience(), KEEP_ALIVE);
    }

    #[tokio::test]
    async fn after_the_last_answer_the_client_gets_a_moment() {
        let pulse = pulse(false);
        let beat = pulse.begin();
        beat.is_last();
        assert_eq!(pulse.patience(), REQUEST * 2);
        drop(beat);
        pulse.hear(Instant::now());
        assert_eq!(pulse.patience(), LINGER + COURTESY);
    }

    #[tokio::test]
    async fn age_ends_a_connection_that_is_never_idle() {
        let pulse = pulse(true);
        pulse.moved.set(pulse.opened + AGE + REQUEST);
        assert_eq!(pulse.deadline(), pulse.opened + AGE + REQUEST + COURTESY);
        assert!(!pulse.is_old());
    }

    #[tokio::test]
    async fn too_many_unanswered_streams_end_the_connection() {
        let pulse = pulse(true);
        let mut beats: Vec<_> = (0..=MAX_UNANSWERED).map(|_| pulse.begin()).collect();
        assert_eq!(pulse.patience(), Duration::ZERO);
        beats.pop();
        assert_eq!(pulse.patience(), REQUEST * 2);
    }

    #[tokio::test]
    async fn idle_http2_ends_when_the_service_drains() {
        let pulse = pulse(true);
        pulse.draining.store(true, Ordering::Relaxed);
        assert_eq!(pulse.patience(), COURTESY);
        assert!(pulse.next_look(pulse.opened) <= pulse.opened + LOOK);
    }

    #[tokio::test]
    async fn a_connection_whose_time_is_over_reads_as_closed() {
        let (mut connection, mut client) = connection(Duration::from_millis(1));
        client.write_all(b"POST /token HTTP/1.1\r\nHo").await.unwrap();
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), 22);
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_the_connection() {
        let (mut connection, mut client) = connection(Duration::from_millis(1));
        client.write_all(b"POST /token HTTP/1.1\r\n").await.unwrap();
        connection.read_exact(&mut [0; 22]).await.unwrap();
        let _beat = connection.pulse().begin();
        let error = connection.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
